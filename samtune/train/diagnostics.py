"""Sharpness during training: what `training.diagnostics` asks for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch.distributed as dist

from samtune import sharpness
from samtune.data.sample import Sample
from samtune.train.loss import evaluation_measures

if TYPE_CHECKING:
    from samtune.train.trial import TrialRun


def measure_diagnostics(run: TrialRun, names: Sequence[str]) -> tuple[dict[str, float], float]:
    """Measures the weights that are evaluated, on a fixed sample of the training examples. A collective.

    Args:
        run: of this rank; each has its share of the sample.
        names: of the measures; may be empty.

    Returns:
        The metrics, the same on every rank and up to rounding for any number of workers, and their cost in passes over
        the training set.

    Raises:
        UsageError: the sample is smaller than a group, or the loss has no second derivative.
    """
    config = run.spec.training.diagnostics
    if not names or config is None:
        return {}, 0.0
    sample = Sample(
        run.dataset,
        run.dataset.train,
        config.num_examples,
        seed=run.spec.seed,
        device=run.device,
        rank=run.rank,
        num_workers=run.num_workers,
        multiple=math.lcm(*config.m),
    )
    model = run.model if run.average is None else run.average.model
    frozen = [parameter for parameter in model.parameters() if run.average is not None and not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_()
    of = (model, evaluation_measures(run.spec.training)["loss"], sample)
    group = dist.group.WORLD if run.num_workers > 1 else None
    metrics, cost = {}, 0.0
    try:
        for name in names:
            if name == "lambda_max":
                answers = {name: sharpness.lambda_max(*of, tolerance=1e-2, seed=run.spec.seed, group=group)}
            else:
                each = {m: sharpness.m_sharpness(*of, m=m, rho=config.rho, group=group) for m in config.m}
                answers = {name if len(each) == 1 else f"{name}_{m}": answer for m, answer in each.items()}
                metrics[name] = each[config.m[0]].value
            metrics |= {key: answer.value for key, answer in answers.items()}
            cost += sum(answer.passes for answer in answers.values())
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    used = min(config.num_examples, len(run.dataset.train)) // sample.multiple * sample.multiple
    return metrics, cost * used / len(run.dataset.train)
