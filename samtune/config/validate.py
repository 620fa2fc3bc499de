"""The rules of what is searched, checked before a trial is drawn. Each broken one is a problem at its place."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from samtune.config.distributions import Distribution
from samtune.config.located import Located, Place, Problem, RefusedError
from samtune.config.resolve import Resolver
from samtune.config.searched import MISSING, Expr
from samtune.config.template import Leaf, Template
from samtune.config.trial import OPEN_SECTION, LayoutError, TrialSpec
from samtune.config.yaml_source import did_you_mean
from samtune.study import Scalar

_MAX_COMBINATIONS = 1000  # of batch size and m, or of branches, that are checked one by one
_NUM_DRAWS = 2000  # random configurations among which one must satisfy the constraints
_NUM_FEASIBLE = 64  # of them whose expressions are looked at


def left_out(key: str, node: Distribution) -> list[Any]:
    """What a searched key has in a trial that is looked at for something else: nothing, its default counts.

    The user's own keys have no default: the first of their values.
    """
    return list(node.extremes()[:1]) if key.startswith(f"{OPEN_SECTION}.") else [MISSING]


class Validation:
    """Checks the configurations of a space.

    Args:
        resolver: of the space.
        root: what was written.
        num_workers: of a trial.
    """

    def __init__(self, resolver: Resolver, root: Located, num_workers: int = 1) -> None:
        self.resolver, self.root, self.num_workers = resolver, root, num_workers
        self.template: Template = resolver.template
        self._leaves = list(self.template.leaves())
        written = {key: self.template.sections[key.partition(".")[0]] for key in self.template.listed}
        found = [node.at(key.split(".")[1:]) for key, node in written.items()]
        self._beside = {node.place for node in found if node is not None}
        """Where values are written that the search takes the place of."""
        self._computed = {leaf.place for leaf in self._leaves if isinstance(leaf.node, Expr)}

    # -- values ------------------------------------------------------------------------------------------------------

    def values(self) -> Iterator[Problem]:
        """What every branch fixes must be valid, and so must every end of every distribution."""
        selectors = {leaf.name for leaf in self._leaves if leaf.selects}
        leaves = {leaf.name: leaf for leaf in self._leaves}
        ends = {leaf.place for leaf in self._leaves if not leaf.selects}
        checked: set[str] = set()
        drawn: list[str] = []

        def values(name: str, key: str, node: Distribution) -> Any:
            drawn.append(name)
            return node.extremes() if name in selectors else [MISSING]

        for skeleton in itertools.islice(self.template.enumerate(values), _MAX_COMBINATIONS):
            refused = self._refusal(skeleton)
            yield from (problem for problem in refused if problem.place not in ends)
            for name in drawn:
                if name not in selectors and name not in checked:
                    checked.add(name)
                    yield from self._ends(leaves[name], skeleton, bool(refused))
            drawn.clear()

    def _ends(self, leaf: Leaf, skeleton: Mapping[str, Scalar], is_refused: bool) -> Iterator[Problem]:
        """The problems of a distribution's ends in trials of a branch, which may have problems itself."""
        assert not isinstance(leaf.node, Expr)
        for value in leaf.node.extremes():
            problems = self._refusal({**skeleton, leaf.key: value})
            own = [problem for problem in problems if problem.place == leaf.place]
            if is_refused:
                problems = own
            if problems:
                problem = (own or problems)[0]
                is_value = problem.kind == "value" or not own
                suffix = f" (a bound or choice is {value!r})" if is_value else ""
                yield Problem(leaf.place, problem.rule + suffix, kind=problem.kind)
                return

    def _refusal(self, config: Mapping[str, Scalar]) -> list[Problem]:
        """Why no trial can have the values of a part of a configuration; empty where one that is tried can.

        What is computed may have no valid value at the values that are tried: `draws` looks at it.
        """
        found: list[Problem] = []
        for complete in self.template.completions(config):
            try:
                sections = self.resolver.sections(complete)
            except RefusedError as error:
                problems = error.problems
            else:
                problems = [p for p in self._problems(sections) if p.place not in self._computed]
            if beside := [problem for problem in problems if problem.place in self._beside]:
                return beside
            if not problems:
                return []
            if not found or any(problem.kind == "missing" for problem in found):
                found = problems
        return found

    def _problems(self, sections: Located) -> list[Problem]:
        try:
            self.resolver.validate(sections)
        except RefusedError as error:
            return error.problems
        return []

    def example(self) -> TrialSpec:
        """A trial of the space, with what is written beside the search where that is valid.

        Raises:
            RefusedError: none of those tried is valid.
        """
        rng = random.Random(0)
        random_ones = (self.template.draw(lambda name, key, node: node.random(rng)) for _ in range(_NUM_DRAWS))
        drawn = itertools.islice((c for c in random_ones if not self._broken(c)), _NUM_FEASIBLE)
        return self.resolver.first_trial(itertools.chain(self.template.completions({}), drawn))

    # -- initial points ----------------------------------------------------------------------------------------------

    def initial(self, points: Sequence[Mapping[str, Scalar]]) -> Iterator[Problem]:
        """Every key of an initial point must be searched, at a value that the search can draw."""
        for index, point in enumerate(points):
            problems = list(self._point(index, point))
            yield from problems
            if not problems:
                yield from self._point_constraints(index, point)

    def _point(self, index: int, point: Mapping[str, Scalar]) -> Iterator[Problem]:
        keys = list(dict.fromkeys(leaf.key for leaf in self._leaves))
        taken = self.template.encoded_keys(point)
        for key, value in point.items():
            place = self.root.place_of(("initial", index, key))
            nodes = [leaf.node for leaf in self._leaves if leaf.key == key and not isinstance(leaf.node, Expr)]
            if not nodes:
                yield Problem(place, f"is not a searched key{did_you_mean(key, keys)}", kind="key")
            elif not any(node.contains(value) for node in nodes):
                searched = " or ".join(dict.fromkeys(map(str, nodes)))
                yield Problem(place, f"must lie in the searched {searched}", repr(value))
            elif key not in taken:
                rule = "the point's branches do not search it, or not at this value"
                yield Problem(place, f"{rule} (got {value!r}){self._which_branch(point)}")

    def _which_branch(self, point: Mapping[str, Scalar]) -> str:
        open_choices = {leaf.key: str(leaf.node) for leaf in self._leaves if leaf.selects and leaf.key not in point}
        hints = [f"{choice} ({options})" for choice, options in open_choices.items()]
        return f"; say which branch is meant with {' or '.join(hints)}" if hints else ""

    def _point_constraints(self, index: int, point: Mapping[str, Scalar]) -> Iterator[Problem]:
        params = self.template.encode(point)
        drawn: list[bool] = []

        def given(name: str, key: str, node: Distribution) -> Any:
            drawn.append(name in params)
            return params.get(name, node.extremes()[0])

        config = self.template.draw(given)
        if all(drawn) and (broken := self._broken(config)):
            yield Problem(self.root.place_of(("initial", index)), f"breaks the constraint {broken}")

    # -- combinations ------------------------------------------------------------------------------------------------

    def layouts(self) -> Iterator[Problem]:
        """Every combination of batch size and m that the search may draw must fit the workers."""
        names = {leaf.name for leaf in self._leaves if leaf.selects}

        def values(name: str, key: str, node: Distribution) -> Any:
            if name in names or key in ("training.batch_size", "method.m"):
                return node.values() or node.extremes()
            return left_out(key, node)

        combinations = list(itertools.islice(self.template.enumerate(values), _MAX_COMBINATIONS + 1))
        if len(combinations) > _MAX_COMBINATIONS:
            return  # too many to try; each trial is checked when it is drawn
        for config in combinations:
            if self._broken(config):
                continue
            try:
                trial, sections = self.resolver.trial(config)
            except RefusedError:
                continue  # a problem of `values`, or of keys that are left out here
            try:
                trial.layout(self.num_workers)
            except LayoutError as error:
                yield Problem(sections.place_of(error.key.split(".")), str(error))

    def draws(self) -> Iterator[Problem]:
        """Expressions must have valid values, and some configuration must satisfy the constraints."""
        constraints = self.resolver.constraints
        if not self._computed and not constraints:
            return
        rng = random.Random(0)
        num_feasible = 0
        for _ in range(_NUM_DRAWS):
            config = self.template.draw(lambda name, key, node: node.random(rng))
            if self._broken(config):
                continue
            num_feasible += 1
            if problems := list(self._expressions(config)):
                yield from problems
                return
            if num_feasible == _NUM_FEASIBLE:
                return
        if not num_feasible:
            texts = " and ".join(constraint.text for constraint in constraints)
            place = self.root.place_of(("constraints",))
            yield Problem(place, f"none of {_NUM_DRAWS} random configurations satisfies {texts}")

    def _broken(self, config: Mapping[str, Scalar]) -> str | None:
        """The first constraint that a configuration breaks. Raises RefusedError where one has no value."""
        try:
            violations = self.resolver.violations(config)
        except RefusedError:
            raise
        except ValueError as error:
            raise RefusedError([Problem(self.root.place_of(("constraints",)), str(error))]) from None
        constraints = self.resolver.constraints
        return next((c.text for c, gap in zip(constraints, violations, strict=True) if gap > 0), None)

    def _expressions(self, config: Mapping[str, Scalar]) -> Iterator[Problem]:
        nodes: dict[Place, Leaf] = {leaf.place: leaf for leaf in self._leaves if isinstance(leaf.node, Expr)}
        for problem in self._problems(self.resolver.sections(config)):
            if leaf := nodes.get(problem.place):
                used = {self.resolver.names[name] for name in leaf.node.expression.names}  # type: ignore[union-attr]
                drawn = {key: value for key, value in config.items() if key in used}
                suffix = f", with {drawn}" if drawn else ""
                yield Problem(leaf.place, f"{leaf.node}: {problem.text}{suffix}", kind=problem.kind)
