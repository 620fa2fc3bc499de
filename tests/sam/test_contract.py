"""What every method promises, whatever its mathematics: one class, through which all of them go."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.all_methods import METHODS
from helpers.ranks import run_ranks
from helpers.sam_training import BATCH_SIZE, batch, make_network, train
from torch import nn
from torch.testing import assert_close

from samtune.config.method import BuiltinMethodConfig
from samtune.config.sections import config_classes
from samtune.sam import TrainStep
from samtune.testing import MethodContract
from samtune.testing.contract import ROUNDING

PERTURBED = [name for name in METHODS if name != "sgd"]


def test_every_declared_method_is_here():
    assert {type(method) for method in METHODS.values()} == set(config_classes(BuiltinMethodConfig))


class TestAlone(MethodContract):
    """One rank."""

    @pytest.fixture(autouse=True, params=METHODS)
    def _choose(self, request):
        name, self.method = request.param, METHODS[request.param]
        # AE-SAM's are those of a model; a Hessian-vector product is one forward that counts for two passes.
        self.passes_per_step = None if name == "aesam" else self.method.passes_per_step
        self.forwards_per_step = {"sam_second_order": 3.0, "esam": 2.5, "mesa": 2.0}.get(name)
        self.perturbs = name not in ("sgd", "mesa")  # MESA looks at a mean of w, which is w while lr = 0


@pytest.mark.parametrize("name", ["sam", "gsam"])
def test_clipping_does_not_shorten_the_perturbation(name):
    model = make_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step = TrainStep(model, nn.CrossEntropyLoss(), optimizer, METHODS[name], batch_size=BATCH_SIZE, clip_norm=0.01)
    step(*batch(0))
    assert step.epoch_metrics()["perturbation_norm"] == pytest.approx(0.1)


@pytest.mark.parametrize("name", METHODS)
class TestOnRanks:
    """The step is a function of (B, m, the data), not of the number of workers. float64, 12 steps, real gloo ranks."""

    def check(self, name: str, m: Any, layers: dict[str, Any]) -> None:
        method = METHODS[name].model_copy(update={} if name == "sgd" else {"m": m})
        alone = train(0, 1, method, layers=layers, steps=12)
        for num_ranks in (2, 4):
            results = run_ranks(num_ranks, train, method, layers=layers, steps=12)
            for result in results[1:]:
                assert torch.equal(result["weights"], results[0]["weights"])  # bit-identical on all ranks
                assert result["metrics"] == results[0]["metrics"]
            found = results[0]
            assert_close(found["weights"], alone["weights"], **ROUNDING)
            assert found["passes"] == pytest.approx(alone["passes"])
            assert found["metrics"].keys() == alone["metrics"].keys()
            for key in found["metrics"].keys() - {"lost_perturbation"}:  # counts roundings
                assert found["metrics"][key] == pytest.approx(alone["metrics"][key], rel=1e-6, abs=1e-8), key
            for key, value in found["buffers"].items():
                if "running" in key:
                    assert_close(value, alone["buffers"][key], **ROUNDING)

    def test_groups_within_a_worker(self, name):
        layers = {} if name == "sgd" else {"batch_norm": True, "dropout": 0.2}
        self.check(name, 4, layers)  # b = 8 on two workers, b = 4 on four

    def test_one_group_for_all_workers(self, name):
        self.check(name, "global", {})

    def test_two_workers_share_a_group_and_one_parameter_is_unused(self, name):
        self.check(name, 8, {"unused": True})  # m = b on two workers, m = 2b on four
