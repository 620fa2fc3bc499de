"""What is timed is what it says: flops, contestants, budget, precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from samtune.accelerator import use_tf32
from samtune.gpucheck.__main__ import main
from samtune.gpucheck.card import describe
from samtune.gpucheck.networks import FULL, SMALL, Network
from samtune.gpucheck.steps import Setting, limit, train_step
from samtune.gpucheck.timing import Budget, time_setting

CPU = torch.device("cpu")


def test_flops_of_a_linear_layer_are_those_of_its_three_products():
    """Forward 2·b·n·k, the gradient of the weights as much; the images need none. b = 4, n = 3·8·8, k = 5."""
    network = Network("linear", lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), 8)
    assert network.flops(4) == 2 * (2 * 4 * 192 * 5)


def test_the_networks_are_those_of_their_papers():
    """Weights in millions: WRN-28-10 36.5 and ResNet-18 11.2 (both for CIFAR), ResNet-50 23.5, ViT-S 21.4."""
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in network.make().parameters()) / 1e6 for network in FULL]
    assert sizes == pytest.approx([36.5, 11.2, 23.5, 21.4], abs=0.1)


def test_sam_moves_like_the_limit_does_not(monkeypatch):
    """The limit is two backwards and one step of SGD: it ends where one step of SGD does."""
    made = []
    build = Network.build

    def remembered(self, device, **options):
        made.append(build(self, device, **options))
        return made[-1]

    monkeypatch.setattr(Network, "build", remembered)
    setting = Setting(SMALL[2], 8, "fp32", CPU)
    limit(setting)()
    limit(setting, passes=1)()
    train_step(setting)()
    ends = [torch.cat([p.detach().flatten() for p in model.parameters()]) for model in made]
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_a_contestant_that_cannot_run_says_why_and_the_others_run():
    found = {each.name: each for each in time_setting(Setting(SMALL[2], 8, "fp32", CPU), ["nowhere:SAM"], 1, 1.0)}
    assert found["nowhere:SAM"].milliseconds is None
    assert "ModuleNotFoundError" in found["nowhere:SAM"].row
    assert found["SAM m=b"].milliseconds > 0
    assert found["limit (2 passes + step)"].of_limit == 1.0
    assert "peak_mib" not in found["SGD"].as_dict()  # torch does not count it on a CPU


def test_what_the_time_does_not_suffice_for_is_named():
    budget = Budget(minutes=0)
    assert not budget.has_room_for("WRN-28-10, fp32, batch 256")
    assert budget.left_out == ["WRN-28-10, fp32, batch 256"]


def test_tf32_is_in_force_inside_and_as_before_afterwards():
    def settings():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before = settings()
    with use_tf32(True):
        assert settings() == (True, True)
        with use_tf32(False):
            assert settings() == (False, False)
        assert settings() == (True, True)
    assert settings() == before


def test_a_cpu_is_described_as_one():
    card = describe(CPU)
    assert card.lines()[-1] == "no GPU: sizes reduced, not a measurement of a GPU"
    assert card.data_sheet == {}


def test_a_place_that_cannot_be_written_is_said_before_anything_runs(tmp_path, capsys):
    assert main(["--device", "cpu", "--json", str(tmp_path / "no" / "file.json")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("samtune.gpucheck: error: --json ")
