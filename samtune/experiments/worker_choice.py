"""How many workers each trial gets where `resources.num_workers` is auto: never a number that would change a result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from samtune.config.method_base import BaseOptimizerConfig, PerturbedConfig
from samtune.config.model import treats_examples_apart
from samtune.config.search import ResourcesConfig
from samtune.config.trial import LayoutError, TrialSpec
from samtune.formatting import counted
from samtune.raylib.cluster import Node, count_workers

_SHARE_GROUPS = ("sgd", "adamw", "sam", "asam", "gsam")
"""Methods known to do the same where several workers share an m-group: nothing in them depends on single examples."""


@dataclass(frozen=True)
class WorkerChoice:
    """Workers of each trial, and why as many as that, as text; empty where the number was given."""

    num_workers: int
    reason: str = ""


def choose_workers(
    resources: ResourcesConfig,
    gpus: float,
    nodes: Sequence[Node],
    *,
    at_once: int,
    layouts: Callable[[], Sequence[TrialSpec] | None],
) -> WorkerChoice:
    """The workers of each trial: as given, or as `auto` means.

    Where trials are fewer than places, the places are shared out. A trial stays on one node: across nodes a gradient
    travels over the network, and whether that pays is not known here.

    Args:
        gpus: of a worker.
        at_once: trials that may still run side by side: those that are left, or `max_concurrent`.
        layouts: a trial for each way in which a batch may be split; None where these cannot be listed.
    """
    if resources.num_workers != "auto":
        return WorkerChoice(resources.num_workers)
    on_nodes = [count_workers(resources.cpus_per_worker, gpus, [node]) for node in nodes]
    there = f"{counted(at_once, 'trial')} for {counted(sum(on_nodes), 'place')}"
    on_one_card = 0 < gpus < 1
    most = 1 if on_one_card else max(on_nodes, default=1)
    fitting = [p for p in range(most, 1, -1) if sum(places // p for places in on_nodes) >= at_once]
    if not fitting:
        return WorkerChoice(1, f"auto: {there}" + (", which are shares of a card" if on_one_card else ""))
    specs = layouts()
    if specs is None:
        return WorkerChoice(1, f"auto: {there}, but batch size and m have too many values to check")
    for number in fitting:
        reason = next((why for spec in specs if (why := why_other_result(spec, number)) is not None), None)
        if reason is None:
            return WorkerChoice(number, f"auto: {there}")
    return WorkerChoice(1, f"auto: {there}, but {reason}")


def why_other_result(spec: TrialSpec, num_workers: int) -> str | None:
    """Why a trial on that many workers might not have the result, up to rounding, that it has on one; None: it has.

    Where m divides a worker's examples, each forward is one m-group on any number of workers. Else a forward has fewer
    examples with more workers, which BatchNorm, dropout and methods that choose among examples notice.
    """
    if num_workers == 1:
        return None
    if spec.train is not None:
        return f"only {spec.train} knows whether its result depends on the number of workers"
    method, m = spec.method, getattr(spec.method, "m", None)
    if m == "worker":
        return f"with m: worker the result of {method.name} depends on their number; give m a number"
    try:
        alone, shared = spec.layout(1), spec.layout(num_workers)
    except LayoutError as error:
        return f"on {num_workers} workers {error}"
    plain = isinstance(method, BaseOptimizerConfig) or _has_plain_steps(method)
    same_forwards = alone.forward_size == shared.forward_size
    if same_forwards and not plain:
        return None
    if treats_examples_apart(spec.model) and (same_forwards or method.name in _SHARE_GROUPS):
        return None
    what = f"steps of {method.name} without a perturbation" if plain else f"m: {m}"
    return f"with {what} a forward has a worker's share of the batch, on which {spec.model.name} may depend"


def _has_plain_steps(method: PerturbedConfig) -> bool:
    """Whether some steps may be the base optimizer's, whose forwards are a worker's share of the batch."""
    follows = method.rho_schedule == "proportional_to_lr" and method.rho_final == 0
    return method.when.share < 1 or method.rho == 0 or method.rho_schedule == "warmup" or follows
