"""Which trials a search may come to: those at the ends of its ranges, and those that split a batch in another way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from samtune.config.distributions import Distribution
from samtune.config.searched import Expr
from samtune.config.space import SearchSpace
from samtune.config.trial import OPEN_SECTION, TrialSpec
from samtune.config.validate import left_out as value_left_out
from samtune.errors import SpaceError

_MAX_VARIANTS = 1000
_KEYS = ("training.batch_size", "training.accumulate", "method.m")
"""What decides how a batch is split, besides the names."""
_DECISIVE = (
    *("model.norm", "model.dropout", "model.architecture"),
    *(f"method.{field}" for field in ("rho", "rho_schedule", "rho_final", "every", "start", "stop", "probability")),
)
"""What decides at its ends whether a network notices the split."""


class _UnlistedError(Exception):
    """A key has too many values to list."""


def search_variants(space: SearchSpace) -> Iterator[TrialSpec]:
    """Trials of a search at the ends of every searched key that can change the shape or the cost of a trial.

    Raises:
        SpaceError: a combination breaks a rule, or there are too many to look at.
    """
    drawn = space.tree.enumerate(lambda name, key, node: node.extremes() if _counts(key) else value_left_out(key, node))
    configs = list(itertools.islice(drawn, _MAX_VARIANTS + 1))
    if len(configs) > _MAX_VARIANTS:
        keys = ", ".join(key for key, _ in space.distributions() if _counts(key))
        raise SpaceError(
            f"{space.source_name}: search: more than {_MAX_VARIANTS} combinations of {keys} "
            "would have to be checked; search fewer of these keys at once"
        )
    feasible = [config for config in configs if not any(space.violations(config))]
    for config in feasible or configs:
        yield space.trial(config)


def _counts(key: str) -> bool:
    """Whether a key decides about shape or cost: what the data, the network and the method are, and how long."""
    section, _, field = key.partition(".")
    if section == OPEN_SECTION:
        return False
    if section == "training":
        return field in ("epochs", "batch_size", "warmup_epochs", "schedule", "nesterov", "optimizer")
    return field not in ("rho_final", "step_size", "eta")


def search_layouts(space: SearchSpace) -> list[TrialSpec] | None:
    """A trial for each way in which a batch may be split in a search; None where these cannot be listed."""
    leaves = list(space.tree.leaves())
    computed = [leaf for leaf in leaves if leaf.key in {*_KEYS, *_DECISIVE} and isinstance(leaf.node, Expr)]
    inputs = {space.names[name] for leaf in computed for name in leaf.node.expression.names}  # type: ignore[union-attr]
    names = {leaf.name for leaf in leaves if leaf.selects}
    listed = names | {leaf.name for leaf in leaves if leaf.key in {*_KEYS, *inputs}}

    def values(name: str, key: str, node: Distribution) -> Sequence[object]:
        if name not in listed:
            return node.extremes() if key in _DECISIVE else value_left_out(key, node)
        found = node.values()
        if found is None:
            raise _UnlistedError
        return found

    def layouts() -> Iterator[TrialSpec]:
        for config in space.tree.enumerate(values):
            if not any(space.violations(config)):
                yield space.trial(config)

    try:
        trials = list(itertools.islice(layouts(), _MAX_VARIANTS + 1))
    except (_UnlistedError, SpaceError, ValueError):
        return None
    return trials if len(trials) <= _MAX_VARIANTS else None
