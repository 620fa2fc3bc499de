"""From a written configuration, spelled out and edited, to a validated search space."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from samtune.config.distributions import Grid
from samtune.config.further_problems import all_problems
from samtune.config.located import Located, Problem, RefusedError
from samtune.config.native import in_own_spelling
from samtune.config.problems import problems_of
from samtune.config.resolve import Resolver
from samtune.config.samplers import GridConfig
from samtune.config.search_rules import check_search
from samtune.config.template import Template
from samtune.config.trial import SECTIONS, TrialSpec
from samtune.config.validate import Validation
from samtune.config.written import parse_constraints, parse_template, resolve_names
from samtune.user_code import is_path

if TYPE_CHECKING:
    from samtune.config.space import SearchSpace

_Space = TypeVar("_Space", bound="SearchSpace")

_MAX_GRID = 20_000

_OF_TEMPLATE = {*SECTIONS, "search"}
_OF_TRIALS = {*_OF_TEMPLATE, "train", "constraints", "initial", "resources", "seed", "repeats"}
"""The keys that the rules of trials depend on; with any other changed, what was validated stays valid."""


def build_space(cls: type[_Space], root: Located, before: _Space | None = None) -> _Space:
    """Validates a configuration. What is written in another tool's way is refused with the line to write.

    Args:
        before: a valid space that this one is an edit of: what both have is not parsed or validated again.

    Raises:
        RefusedError: with all problems, but for those that may come of others.
    """
    read, foreign = in_own_spelling(root)
    if not foreign:
        try:
            return _build(cls, root, before)
        except RefusedError as error:
            if before is not None:
                raise
            raise all_problems(root, error, lambda smaller: _build(cls, smaller, None)) from error
    try:
        _build(cls, read, before)
    except RefusedError as first:
        everything = all_problems(read, first, lambda smaller: _build(cls, smaller, None))
        places = {problem.place for problem in foreign}
        foreign += [problem for problem in everything.problems if problem.place not in places]
    raise RefusedError(foreign)


def _build(cls: type[_Space], root: Located, before: _Space | None) -> _Space:
    changed = _changed(root, before)
    if before is not None and not changed & _OF_TRIALS:
        space = _settings(cls, root, before, changed, before.tree, before)
        space._resolver = before._resolver
        _refuse(check_search(space, root))
        _count_trials(space, root, before.num_trials)
        return space
    problems: list[Problem] = []
    template = before.tree if before is not None and not changed & {*_OF_TEMPLATE, "train"} else None
    if template is None:
        template, problems = parse_template(root)
    constraints, broken = parse_constraints(root)
    problems += broken
    names: dict[str, str] = {}
    trial = None
    if template is not None and not problems:
        names, problems = resolve_names(template, constraints, root.at(("resources", "num_workers")))
    if template is not None and not problems:
        resolver = Resolver(template, _numbers(root), names, tuple(constraints.values()), {"train": _function(root)})
        trial, problems = _example(resolver, root)
    try:
        space = _settings(cls, root, before, changed, template, trial)
    except RefusedError as error:
        raise RefusedError([*problems, *error.problems]) from None
    _refuse(problems)
    numbers = {"resources.num_workers": space.resources.least_workers, "seed": space.seed}
    fixed = {"train": space.train, "seed": space.seed, "repeats": space.repeats}
    assert template is not None
    space._resolver = Resolver(template, numbers, names, tuple(constraints.values()), fixed)
    _refuse(check_search(space, root))
    validation = Validation(space._resolver, root, space.resources.least_workers)
    _refuse(validation.initial(space.initial))
    _refuse(validation.layouts())
    _refuse(validation.draws())
    _count_trials(space, root, None)
    return space


def _refuse(problems: Iterable[Problem]) -> None:
    if found := list(problems):
        raise RefusedError(found)


def _changed(root: Located, before: SearchSpace | None) -> set[str]:
    """The keys at the top that are not as they were."""
    old = before._root.value if before is not None and before._root is not None else {}
    return {key for key in root.value.keys() | old.keys() if root.child(key) != old.get(key)}


def _numbers(root: Located) -> dict[str, Any]:
    """What expressions may use that is in no section; as by default where it is not valid."""
    found = {"resources.num_workers": root.at(("resources", "num_workers")), "seed": root.child("seed")}
    defaults = {"resources.num_workers": 1, "seed": 0}
    return {
        key: node.value if node is not None and type(node.value) is int else defaults[key]
        for key, node in found.items()
    }


def _function(root: Located) -> str | None:
    """The training function; some other where what was written is none, which is refused with the settings."""
    train = root.child("train")
    if train is None:
        return None
    return train.value if isinstance(train.value, str) and is_path(train.value) else "some:function"


def _example(resolver: Resolver, root: Located) -> tuple[TrialSpec | None, list[Problem]]:
    """A trial of the space, and what is wrong with the values of its sections."""
    validation = Validation(resolver, root)
    if problems := list(validation.values()):
        return None, problems
    try:
        return validation.example(), []
    except RefusedError as error:  # perhaps an expression's fault, or the constraints'
        return None, list(validation.draws()) or error.problems


def _settings(
    cls: type[_Space],
    root: Located,
    before: _Space | None,
    changed: set[str],
    template: Template | None,
    sections: TrialSpec | SearchSpace | None,
) -> _Space:
    """The space with all that is not of trials validated.

    Args:
        sections: gives the sections; None: they have problems of their own.
    """
    data = {
        key: node.plain() if before is None or key in changed else getattr(before, _attribute(key))
        for key, node in root.value.items()
        if key not in _OF_TEMPLATE
    }
    leaves = list(template.leaves()) if template is not None else []
    if "sampler" not in data and any(isinstance(leaf.node, Grid) for leaf in leaves):
        data["sampler"] = {"name": "grid"}
    scheduler = root.at(("scheduler", "name"))
    if scheduler is not None and scheduler.value in ("pbt", "pb2"):
        data.setdefault("sampler", {"name": "random"})
    if sections is not None:
        data |= {section: getattr(sections, section) for section in SECTIONS}
    try:
        space = cls.model_validate({**data, "search": template.nodes if template is not None else {}})
    except ValidationError as error:
        found = [p for p in problems_of(error, cls, root) if p.place.key.partition(".")[0] not in SECTIONS]
        raise RefusedError(found) from None
    space._root = root
    if template is not None:
        space._tree = template
    return space


def _attribute(key: str) -> str:
    return "objectives" if key == "objective" else key


def _count_trials(space: SearchSpace, root: Located, known: int | None) -> None:
    """A grid without a number of trials runs all its points."""
    if not isinstance(space.sampler, GridConfig) or root.child("num_trials") is not None:
        return
    if known is None:
        values: Callable[..., Any] = lambda name, key, node: node.values()  # noqa: E731
        grid = list(itertools.islice(space.tree.enumerate(values), _MAX_GRID + 1))
        if len(grid) > _MAX_GRID:
            problem = f"is required: the grid has more than {_MAX_GRID:,} points"
            raise RefusedError([Problem(root.place_of(("num_trials",)), problem)])
        known = sum(not any(space.violations(point)) for point in grid)
    space.__dict__["num_trials"] = known  # frozen for everybody else
