"""What is right by all rules of a space, and yet hardly what was meant: each is a line for the user."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from samtune.config.distributions import Distribution
from samtune.config.optimizer import TORCH_OPTIMIZERS
from samtune.config.training import TrainingConfig
from samtune.errors import SpaceError
from samtune.user_source import constructor_options

if TYPE_CHECKING:
    from samtune.config.space import SearchSpace

_MAX_BRANCHES = 1000


def notes_on(space: SearchSpace) -> list[str]:
    """What is written but not tried, and what is searched without effect."""
    return [*_left_out(space), *_without_effect(space)]


def _left_out(space: SearchSpace) -> list[str]:
    """Because there are fewer trials."""
    lines = []
    if len(space.initial) > space.num_trials:
        lines.append(f"only {space.num_trials} of the {len(space.initial)} initial points are tried (num_trials)")
    if space.sampler.name in ("grid", "brute_force"):
        points = space.tree.enumerate(lambda name, key, node: node.values() or node.extremes())
        if next(itertools.islice(points, space.num_trials, None), None) is not None:
            lines.append(f"num_trials {space.num_trials} is less than the grid has points: the rest is not tried")
    return lines


# -- searched without effect -----------------------------------------------------------------------------------------


def _without_effect(space: SearchSpace) -> list[str]:
    """Keys that make no difference in any branch of the space that searches them."""
    leaves = list(space.tree.leaves())
    keys = [key for key in _IDLE if any(leaf.key == key for leaf in leaves)]
    if not keys:
        return []
    settings = {*_DECIDES, *(leaf.key for leaf in leaves if leaf.selects)}

    def values(name: str, key: str, node: Distribution) -> Sequence[Any]:
        return (node.values() or node.extremes()) if key in settings else node.extremes()[:1]

    found: dict[str, list[str | None]] = {key: [] for key in keys}
    for config in itertools.islice(space.tree.enumerate(values), _MAX_BRANCHES):
        try:
            training = space.trial(config).training
        except SpaceError:
            continue  # no trial is like this
        for key in keys:
            if key in config:
                found[key].append(_IDLE[key](training))
    return [
        f"{key} is searched without effect: {'; '.join(dict.fromkeys(map(str, reasons)))}"
        for key, reasons in found.items()
        if reasons and None not in reasons
    ]


def _momentum(training: TrainingConfig) -> str | None:
    name, options = training.optimizer_name, training.optimizer_options
    own = {"sgd": "momentum", "adamw": "betas"}.get(name)
    if own is None:
        return f"optimizer {name} does not take it; search an option of the optimizer"
    return f"the optimizer's option {own} takes its place" if own in options else None


def _weight_decay(training: TrainingConfig) -> str | None:
    name = training.optimizer_name
    if "weight_decay" not in (constructor_options(TORCH_OPTIMIZERS.get(name, name)) or ["weight_decay"]):
        return f"optimizer {name} has none"
    return None


def _decays(training: TrainingConfig) -> str | None:
    return _weight_decay(training) or ("weight_decay is 0" if training.weight_decay == 0 else None)


def _steps(training: TrainingConfig) -> str | None:
    return None if training.schedule == "multi_step" else f"schedule {training.schedule} does not use it"


_IDLE: Mapping[str, Callable[[TrainingConfig], str | None]] = {
    "training.momentum": _momentum,
    "training.weight_decay": _weight_decay,
    "training.decay_norms_and_biases": _decays,
    "training.milestones": _steps,
    "training.decay_factor": _steps,
}
"""Keys that some trials do not use, and why one does not; None where it does."""

_DECIDES = ("training.optimizer", "training.optimizer.name", "training.schedule", "training.weight_decay")
"""Keys that decide about it."""
