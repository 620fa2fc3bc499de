"""A trial that is saved on some workers goes on with others: to the same result, up to rounding."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.midway import SECONDS, make_spec
from helpers.ranks import run_ranks
from torch import Tensor

from samtune.config.trial import TrialSpec
from samtune.data import training_examples
from samtune.experiments.worker_choice import why_other_result
from samtune.train import trial as trial_module
from samtune.train.checkpoint import CheckpointFolder
from samtune.train.trial import TrialRun

# m = 8 fits a worker's share of the batch of 32 on 4 workers, so that every forward is one m-group.
SPACES = {
    "batchnorm_dropout_ema": (
        "model={name: wide_resnet, depth: 10, width: 1, dropout: 0.3}",
        "method={name: sam, rho: 0.1, m: 8}",
        "training.ema=0.9",
    ),
    "fisher_mask": ("method={name: ssam_f, rho: 0.1, sparsity: 0.5, m: 8}",),
    "looksam_mixup": ("method={name: looksam, k: 3, m: 4}", "data.mixup=0.3"),
    "adamw_global": (
        "model={name: mlp, depth: 3}",
        "method={name: gsam, rho: 0.1, m: global}",
        "training.optimizer=adamw",
    ),
    "asam_global": ("model={name: mlp, depth: 3}", "method={name: asam, rho: 1, m: global}"),
    "sgd": ("model={name: mlp, depth: 3}", "method=sgd"),
    "momentum": ("method={name: momentum_sam, m: 8}",),
}
WHOLE_EPOCHS = ((4, 1, None), (2, 2, None), (1, 3, None), (4, 4, None))
MIDDLES = ((4, 1, 3), (2, 1, 5), (1, 2, 2), (4, 4, None))
"""(workers, the epoch to leave, after how many steps of it; None: at its end)"""
ONCE_A_STEP = ("gradient_norm", "gradient_cosine")


class LeftError(Exception):
    """The epoch was left in its middle."""


class DoubleRun(TrialRun):
    """In float64: data sets give float32."""

    def _laid_out(self, inputs: Tensor) -> Tensor:
        return super()._laid_out(inputs).double()


def double_examples(*args: Any, **options: Any) -> tuple[Tensor, Tensor]:
    inputs, targets = training_examples(*args, **options)
    return inputs.double(), targets


def train_part(
    rank: int, num_workers: int, spec: TrialSpec, folder: str, epoch: int, step: int | None
) -> tuple[list[dict[str, float]], Tensor]:
    """Goes on from the folder's newest checkpoint to a step, and saves there; the history, and the weights."""
    torch.set_default_dtype(torch.float64)
    trial_module.training_examples = double_examples
    try:
        run = DoubleRun(spec, rank=rank, num_workers=num_workers, device=torch.device("cpu"))
        checkpoints = CheckpointFolder(folder)
        run.restore(checkpoints)

        def after_step() -> None:
            if step is not None and len(run.history) == epoch - 1 and run.steps_done == step:
                run.save(checkpoints)
                raise LeftError

        try:
            while len(run.history) < epoch:
                run.train_epoch(len(run.history) + 1, after_step)
        except LeftError:
            pass
        else:
            if rank == 0:
                run.save(checkpoints)
        tensors = run.evaluated_model.state_dict().values()
        # BatchNorm's count of forwards is a worker's own, and of no consequence.
        return run.history, torch.cat([tensor.flatten() for tensor in tensors if tensor.is_floating_point()])
    finally:
        trial_module.training_examples = training_examples
        torch.set_default_dtype(torch.float32)


def comparable(history: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Without times; NaN equals NaN."""
    return [
        {name: "nan" if math.isnan(value) else value for name, value in record.items() if name not in SECONDS}
        for record in history
    ]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        *(pytest.param(name, WHOLE_EPOCHS, id=name) for name in SPACES),
        *(
            pytest.param(name, MIDDLES, id=f"{name}_in_the_middle")
            for name in ("batchnorm_dropout_ema", "adamw_global")
        ),
    ],
)
def test_four_two_one_and_four_workers_train_as_one(
    tmp_path: Path, name: str, parts: tuple[tuple[int, int, int | None], ...]
) -> None:
    spec = make_spec(*SPACES[name], "resources.num_workers=1", "training.epochs=4")
    assert all(why_other_result(spec, num_workers) is None for num_workers, *_ in parts)
    for num_workers, epoch, step in parts:
        ranks = run_ranks(num_workers, train_part, spec, str(tmp_path / "moved"), epoch, step)
        for history, weights in ranks[1:]:
            assert comparable(history) == comparable(ranks[0][0])
            assert torch.equal(weights, ranks[0][1]) or step is not None  # within an epoch, statistics are a rank's own
    history, weights = ranks[0]
    ((expected, expected_weights),) = run_ranks(1, train_part, spec, str(tmp_path / "whole"), 4, None)
    torch.testing.assert_close(weights, expected_weights, rtol=1e-9, atol=1e-11)
    for record, other in zip(comparable(history), comparable(expected), strict=True):
        if parts == MIDDLES:  # `merged_state` says what is weighed otherwise then
            other = {name: record[name] if name in ONCE_A_STEP else value for name, value in other.items()}
        assert record == pytest.approx(other, rel=1e-6, abs=1e-9)
