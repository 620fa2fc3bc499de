"""All problems of a configuration at once: what a rule refuses is left out, and the rest is looked at again."""

from __future__ import annotations

import re
from collections.abc import Callable

from samtune.config.located import Located, Place, Problem, RefusedError

_Key = tuple[str, tuple[str, ...]]

_MOST_ROUNDS = 8


def all_problems(root: Located, first: RefusedError, build: Callable[[Located], object]) -> RefusedError:
    """The problems of a configuration, also those that are only found where others are mended.

    Args:
        first: what was found in the whole.
        build: raises RefusedError with what it finds in a configuration.

    Returns:
        An error with all of them. A problem that may come of what was left out is not among them.
    """
    found, left_out = list(first.problems), {_key(problem.place) for problem in first.problems}
    for _ in range(_MOST_ROUNDS):
        if ("train", ()) in left_out:  # without it other sections are required
            break
        smaller = _without(root, left_out)
        if smaller == root:  # none of it is a value that can be left out
            break
        root = smaller
        try:
            build(root)
        except RefusedError as error:
            new = {_key(problem.place) for problem in error.problems} - left_out
            found += [problem for problem in error.problems if not _follows_from(problem, left_out)]
            left_out |= new
            if not new:
                break
        else:
            break
    return RefusedError(found)


def _key(place: Place) -> _Key:
    return place.key, place.branches


def _without(node: Located, left_out: set[_Key]) -> Located:
    """The tree without the keys of mappings whose value, or an item of it, is left out."""
    if isinstance(node.value, list):
        return node.with_items([_without(item, left_out) for item in node.value if _key(item.place) not in left_out])
    if not isinstance(node.value, dict):
        return node
    return node.with_items(
        {key: _without(item, left_out) for key, item in node.value.items() if not _is_left_out(item, left_out)}
    )


def _is_left_out(node: Located, left_out: set[_Key]) -> bool:
    if _key(node.place) in left_out:
        return True
    return isinstance(node.value, list) and any(
        _key(item.place) in left_out for item in node.value if not isinstance(item.value, dict)
    )


def _follows_from(problem: Problem, left_out: set[_Key]) -> bool:
    """Whether a problem may be about something that is missing because it was left out."""
    own = _plain(problem.place.key)
    text = problem.text.partition("did you mean" if own.startswith("constraints") else "unknown key")[0]
    words = set(re.findall(r"\w+", f"{own} {text}"))  # without the keys that could be meant
    for key in (_plain(key) for key, _ in left_out):
        if not own or f"{own}.".startswith(f"{key}.") or f"{key}.".startswith(f"{own}."):
            return True
        last = key.rpartition(".")[2]
        if last in words and not last.isdecimal():  # an expression, a constraint or an initial point names it
            return True
        if own.startswith("objective") and key.partition(".")[0] in ("data", "training"):  # which say what is measured
            return True
    return False


def _plain(key: str) -> str:
    return key.removeprefix("search.")
