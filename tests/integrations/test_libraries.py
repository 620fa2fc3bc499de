"""SAM in the loops of other libraries, compared with the same steps written out by hand."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from samtune.config.space import SearchSpace
from samtune.sam import SAM
from samtune.train.trial import TrialRun

Program = Callable[[str], dict[str, Any]]
BATCH = 16


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))


def make_data() -> TensorDataset:
    inputs = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    return TensorDataset(inputs, (inputs[:, 0] > 0).long())


def by_hand(groups: Sequence[Sequence[slice]], optimizer: Callable[[nn.Module], SAM], epochs: int = 1) -> Tensor:
    """The weights after steps, each of the mean over m-groups with a perturbation of their own."""
    net, (inputs, targets) = make_net(), make_data().tensors
    sam = optimizer(net)
    for step in list(groups) * epochs:
        for group in step:

            def backward(rows: slice = group, share: int = len(step)) -> Tensor:
                loss = cross_entropy(net(inputs[rows]), targets[rows])
                (loss / share).backward()
                return loss

            sam.accumulate(backward)
        sam.step()
        sam.zero_grad()
    return weights(net)


def weights(net: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(net.parameters()).detach().float()


def sgd(net: nn.Module) -> SAM:
    return SAM(net.parameters(), torch.optim.SGD, rho=0.05, lr=0.1, momentum=0.9)


STEPS = [[slice(start, start + BATCH)] for start in range(0, 64, BATCH)]


def lightning_trainer(**options: Any) -> Any:
    lightning = pytest.importorskip("lightning", reason="needs the extra `integrations`")
    silent = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return lightning.Trainer(max_epochs=1, accelerator="cpu", **dict.fromkeys(silent, False), **options)


@pytest.mark.filterwarnings("ignore")
class TestLightning:
    def test_one_rank(self, program: Program) -> None:
        trainer = lightning_trainer(devices=1)
        module = program("PyTorch Lightning")["Module"](make_net())
        trainer.fit(module, DataLoader(make_data(), BATCH))
        assert torch.equal(weights(module.net), by_hand(STEPS, sgd))
        assert trainer.optimizers[0].param_groups[0]["sam_passes"] == 8

    def test_bf16(self, program: Program) -> None:
        trainer = lightning_trainer(devices=1, precision="bf16-mixed", gradient_clip_val=1.0)
        module = program("PyTorch Lightning")["Module"](make_net())
        trainer.fit(module, DataLoader(make_data(), BATCH))
        torch.testing.assert_close(weights(module.net), by_hand(STEPS, sgd), rtol=0.1, atol=0.02)

    def test_accumulation_is_refused(self, program: Program) -> None:
        trainer = lightning_trainer(devices=1, accumulate_grad_batches=2)
        module = program("PyTorch Lightning")["Module"](make_net())
        with pytest.raises(ValueError, match=r"use optimizer\.accumulate"):
            trainer.fit(module, DataLoader(make_data(), BATCH))

    @pytest.mark.slow
    def test_two_ranks_have_a_perturbation_each(self, tmp_path: Path) -> None:
        pytest.importorskip("lightning", reason="needs the extra `integrations`")
        script, result = Path(__file__).with_name("two_ranks.py"), tmp_path / "weights.pt"
        done = subprocess.run(
            [sys.executable, script, result], capture_output=True, text=True, timeout=300, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        # Rank r has the examples r, r + 2, …
        groups = [[slice(start + r, start + 2 * 8, 2) for r in (0, 1)] for start in range(0, 64, 2 * 8)]
        torch.testing.assert_close(torch.load(result), by_hand(groups, sgd), rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulation", [1, 2])
def test_hf_trainer(program: Program, tmp_path: Path, accumulation: int) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra `integrations`")
    pytest.importorskip("accelerate", reason="needs the extra `integrations`")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_net()

        def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            outputs = self.net(inputs)
            return {"loss": cross_entropy(outputs, labels), "logits": outputs}

    net = Net()
    size = BATCH // accumulation
    options = transformers.TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=1,
        report_to=[],
        save_strategy="no",
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        disable_tqdm=True,
        use_cpu=True,
    )
    examples = [{"inputs": x, "labels": y} for x, y in make_data()]
    trainer = program("HF Trainer")["SAMTrainer"](net, options, train_dataset=examples, optimizers=(sgd(net), None))
    order = list(range(64))
    trainer._get_train_sampler = lambda *_: order  # not shuffled, to be compared
    trainer.train()
    groups = [
        [slice(start + part, start + part + size) for part in range(0, BATCH, size)] for start in range(0, 64, BATCH)
    ]
    torch.testing.assert_close(weights(net), by_hand(groups, sgd), rtol=1e-6, atol=1e-7)


@pytest.mark.filterwarnings("ignore")
def test_a_transformer_in_samtunes_own_loop() -> None:
    """A Dataset of dicts, a network that returns an object with its own loss; the default loss is the same."""
    pytest.importorskip("transformers", reason="needs the extra `integrations`")
    records = []
    for loss in ("helpers.hf_parts:its_own_loss", "cross_entropy"):
        raw = {
            "name": "hf",
            "data": {"name": "helpers.hf_parts:load", "validation_fraction": 0.25},
            "model": {"name": "helpers.hf_parts:make_net"},
            "method": {"name": "sam", "rho": 0.05, "m": 4},
            "training": {"epochs": 2, "batch_size": 16, "lr": 0.05, "optimizer": "adamw", "loss": loss},
        }
        run = TrialRun(SearchSpace.from_dict(raw).trial({}), rank=0, num_workers=1, device=torch.device("cpu"))
        records.append([run.train_epoch(epoch) for epoch in (1, 2)])
    for one, other in zip(*records, strict=True):
        assert one["val_loss"] == pytest.approx(other["val_loss"], rel=1e-3, abs=1e-5)
    assert records[0][-1]["val_accuracy"] > 0.9


def test_accelerate(program: Program) -> None:
    pytest.importorskip("accelerate", reason="needs the extra `integrations`")
    net = make_net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program("accelerate")["fit"](net, DataLoader(make_data(), BATCH))
    assert torch.equal(weights(net), by_hand(STEPS, sgd))


def test_skorch(program: Program) -> None:
    pytest.importorskip("skorch", reason="needs the extra `integrations`")
    net = program("skorch")["make"](make_net())
    net.set_params(max_epochs=1, batch_size=BATCH, train_split=None, iterator_train__shuffle=False, verbose=0)
    inputs, targets = make_data().tensors
    net.fit(inputs, targets)
    assert torch.equal(weights(net.module_), by_hand(STEPS, sgd))
    assert net.optimizer_.param_groups[0]["sam_passes"] == 8
