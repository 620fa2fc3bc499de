"""Sharpness during training: what `training.diagnostics` asks for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn

from samtune import sharpness
from samtune.config.diagnostics import DiagnosticsConfig
from samtune.config.trial import TrialSpec
from samtune.data import Dataset
from samtune.data.sample import Sample
from samtune.train.loss import Measure, evaluation_loss

QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
"""Of the density of the eigenvalues."""


def measure_diagnostics(
    names: Sequence[str],
    model: nn.Module,
    dataset: Dataset,
    spec: TrialSpec,
    *,
    rank: int,
    num_workers: int,
    device: torch.device,
) -> tuple[dict[str, float], float]:
    """Measures a network on a fixed sample of the training examples. A collective; each rank has its share of them.

    Args:
        names: of the measures; may be empty.
        model: with the weights that are evaluated. Those of an average, which require no gradient, are asked for one
            while they are measured.

    Returns:
        The metrics, the same on every rank and up to rounding for any number of workers, and their cost in passes over
        the training set.

    Raises:
        UsageError: the sample is smaller than a group, or the loss has no second derivative.
    """
    config = spec.training.diagnostics
    if not names or config is None:
        return {}, 0.0
    sample = Sample(
        dataset,
        dataset.train,
        config.num_examples,
        seed=spec.seed,
        device=device,
        rank=rank,
        num_workers=num_workers,
        multiple=math.lcm(*config.m),
    )
    of = (model, evaluation_loss(spec.training), sample)
    group = dist.group.WORLD if num_workers > 1 else None
    metrics: dict[str, float] = {}
    cost = 0.0
    with _requiring_gradients(model if spec.training.ema is not None else None):
        for name in names:
            found, passes = _measure(name, config, of, spec.seed, group)
            metrics |= found
            cost += passes
    interval = spec.training.evaluation_interval  # with steps, a pass is over what is trained on in between
    per_pass = len(dataset.train) if interval is None else interval * spec.training.batch_size
    used = config.num_examples if dataset.train.stream is not None else min(config.num_examples, len(dataset.train))
    return metrics, cost * (used // sample.multiple * sample.multiple) / per_pass


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


@contextmanager
def _requiring_gradients(average: nn.Module | None) -> Iterator[None]:
    frozen = [] if average is None else [p for p in average.parameters() if not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_()
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
