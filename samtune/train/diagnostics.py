"""Sharpness during training: what `training.diagnostics` asks for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch.distributed as dist
from torch import nn

from samtune import sharpness
from samtune.config.diagnostics import DiagnosticsConfig
from samtune.data.sample import Sample
from samtune.train.loss import Measure, evaluation_measures

if TYPE_CHECKING:
    from samtune.train.trial import TrialRun

QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
"""Of the density of the eigenvalues."""


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
    metrics: dict[str, float] = {}
    cost = 0.0
    try:
        for name in names:
            found, passes = _measure(name, config, of, run.spec.seed, group)
            metrics |= found
            cost += passes
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    used = min(config.num_examples, len(run.dataset.train)) // sample.multiple * sample.multiple
    return metrics, cost * used / len(run.dataset.train)


def _measure(
    name: str,
    config: DiagnosticsConfig,
    of: tuple[nn.Module, Measure, Sample],
    seed: int,
    group: dist.ProcessGroup | None,
) -> tuple[dict[str, float], float]:
    """The metrics of one measure, and its cost in passes over the sample."""
    match name:
        case "lambda_max":
            largest = sharpness.lambda_max(*of, tolerance=1e-2, seed=seed, group=group)
            return {name: largest.value}, largest.passes
        case "eigenvalues":
            top = sharpness.top_eigenvalues(*of, k=5, tolerance=1e-2, seed=seed, group=group)
            return {"lambda_max": top.values[0], "lambda_ratio": top.ratio}, top.passes
        case "spectrum":
            density = sharpness.spectral_density(*of, num_probes=2, seed=seed, group=group)
            return {f"spectrum_q{q * 100:02.0f}": density.quantile(q) for q in QUANTILES}, density.passes
        case "frobenius":
            trace, squared = sharpness.trace_and_frobenius_squared(
                *of, max_probes=config.num_probes, seed=seed, group=group
            )
            return {"hessian_frobenius": math.sqrt(squared.value), "hessian_trace": trace.value}, squared.passes
    each = {m: sharpness.m_sharpness(*of, m=m, rho=config.rho, group=group) for m in config.m}
    metrics = {name: each[config.m[0]].value}
    if len(each) > 1:
        metrics |= {f"{name}_{m}": answer.value for m, answer in each.items()}
    return metrics, sum(answer.passes for answer in each.values())
