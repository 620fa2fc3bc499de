"""How many trials share a card where `resources.gpus_per_worker` is share: as many as a measurement says pay."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from samtune.config.search import ResourcesConfig
from samtune.config.trial import TrialSpec
from samtune.errors import one_line
from samtune.experiments.child_request import pack
from samtune.experiments.side_by_side import NotTimedError, SideBySide, time_side_by_side
from samtune.formatting import counted, format_number
from samtune.raylib.cluster import Node

_COUNTS = (1, 2, 4)
_MOST_SECONDS = 600  # with the wait for a card that somebody else uses
_LEAST_GAIN = 1.1  # of all trials together: less is within the noise, and each trial alone would be slower for it


@dataclass(frozen=True)
class CardSharing:
    """Trials on each card, and why as many as that, as text."""

    trials_per_card: int
    reason: str

    @property
    def gpus_per_worker(self) -> float:
        return 1 / self.trials_per_card


def share_cards(
    resources: ResourcesConfig,
    variants: Iterable[TrialSpec],
    nodes: Sequence[Node],
    *,
    at_once: int,
    is_given_up: Callable[[], bool],
) -> CardSharing | None:
    """Times a trial on a card of the connected cluster, alone and with others like it. None: nothing to choose.

    The trial with the largest batch is taken: its memory is the most.

    Args:
        at_once: trials that may still run side by side.
        is_given_up: whether nobody wants to know any more.
    """
    if resources.gpus_per_worker != "share" or not any(node.gpus >= 1 for node in nodes):
        return None
    spec = max(variants, key=lambda variant: variant.training.batch_size)
    if spec.train is not None:
        return CardSharing(1, f"share: 1 trial on a card, since only {spec.train} knows its steps; write a fraction")
    counts = useful_counts(resources, nodes, at_once)
    if len(counts) == 1:
        return CardSharing(1, f"share: 1 trial on a card: {_why_alone(nodes, at_once)}")
    try:
        timed = _on_a_card(pack([spec], threads=max(1, math.floor(resources.cpus_per_worker))), counts, is_given_up)
    except Exception as error:  # of the user's parts, of the memory, of the node: a search without it is a search
        return CardSharing(1, f"share: 1 trial on a card, since more could not be timed: {one_line(error, 200)}")
    return CardSharing(best := best_count(timed.rates), _reason(best, timed))


def useful_counts(resources: ResourcesConfig, nodes: Sequence[Node], at_once: int) -> list[int]:
    """How many trials on a card are worth timing: for more there are no trials, or no CPUs."""
    cards = sum(math.floor(node.gpus) for node in nodes)
    by_cpu = max(
        math.floor(node.cpus / resources.cpus_per_worker / math.floor(node.gpus) + 1e-9)
        for node in nodes
        if node.gpus >= 1
    )
    return [count for count in _COUNTS if count == 1 or (count <= by_cpu and (count / 2) * cards < at_once)]


def _why_alone(nodes: Sequence[Node], at_once: int) -> str:
    cards = math.floor(sum(node.gpus for node in nodes))
    if at_once <= cards:
        return f"{counted(at_once, 'trial')} for {counted(cards, 'card')}"
    return "no node has CPUs for two on each of its cards (resources.cpus_per_worker)"


def best_count(rates: dict[int, float]) -> int:
    """The count to take: of a larger one only where all its trials together are a tenth faster."""
    best = 1
    for count in sorted(rates):
        if rates[count] >= _LEAST_GAIN * rates[best]:
            best = count
    return best


def _reason(best: int, timed: SideBySide) -> str:
    rates = ", ".join(f"{format_number(rate)} with {count}" for count, rate in timed.rates.items())
    memory = f"; its memory holds {timed.most}" if timed.most is not None and timed.most < _COUNTS[-1] else ""
    return (
        f"share: {counted(best, 'trial')} on a card: steps per second of all together are {rates} "
        f"({timed.device}{memory})"
    )


def _on_a_card(request: bytes, counts: Sequence[int], is_given_up: Callable[[], bool]) -> SideBySide:
    """Times on some node of the cluster that has a card, from a task that holds it meanwhile."""
    import ray

    # Without CPUs: a node's may all be needed by what is measured, and nothing of the search runs yet.
    options = {"num_gpus": 1, "num_cpus": 0, "max_retries": 0}
    task = ray.remote(time_side_by_side).options(**options).remote(request, counts)
    until = time.monotonic() + _MOST_SECONDS
    while not ray.wait([task], timeout=0.2)[0]:
        if is_given_up() or time.monotonic() > until:
            ray.cancel(task, force=True)
            raise NotTimedError(f"it took more than {_MOST_SECONDS} s; are all cards taken?")
    try:
        timed: SideBySide = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    return timed
