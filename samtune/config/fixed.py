"""A space in which nothing is searched any more: one configuration, complete, to train, to confirm or to begin from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from samtune.config.space import SearchSpace
from samtune.study import Scalar

_OF_A_SEARCH = {
    "num_trials": 1,
    "initial": [],
    "sampler": {"name": "random"},
    "scheduler": {"name": "none"},
    "budget": {},
    "warm_start": [],
}
"""What only a search has, as it is where there is nothing to search."""


def fixed_space(space: SearchSpace, config: Mapping[str, Scalar], name: str) -> SearchSpace:
    """The space with every searched key set to a trial's value.

    Args:
        config: of the trial: dotted key -> value.
        name: of the new space.

    Raises:
        SpaceError: the configuration is not one of the space.
    """
    return space.replace({**config, **_OF_A_SEARCH, "search": {}, "name": name})


def fixed_yaml(space: SearchSpace, comments: Sequence[str]) -> str:
    """The text of a space, every default written out.

    Args:
        comments: its first lines.
    """
    return "".join(f"# {' '.join(line.split())}\n" for line in comments) + "\n" + space.to_yaml()
