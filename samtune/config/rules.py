"""The rules between the parts of a search space. Each is broken with one line that names the key."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from samtune.config.distributions import Distribution, Grid, LogUniform, Uniform
from samtune.config.expressions import Expression, resolve_name
from samtune.config.inline import classes_of
from samtune.config.samplers import MEMORYLESS, SINGLE_OBJECTIVE, GridConfig
from samtune.config.search import MUTABLE, PB2Config, PBTConfig
from samtune.config.training import metric_name
from samtune.config.tree import MISSING, Branches, Expr, Leaf, says
from samtune.config.trial import SECTIONS, TrialSpec, broken_rule
from samtune.config.values import ExpressionError
from samtune.config.yaml_source import did_you_mean, explain, names_of, rule_of
from samtune.study import Scalar

if TYPE_CHECKING:
    from samtune.config.space import SearchSpace

_MAX_COMBINATIONS = 1000  # of batch size and m, or of branches, that are checked one by one
_NUM_DRAWS = 2000  # random configurations among which one must satisfy the constraints


def check_space(space: SearchSpace) -> dict[str, str]:
    """Checks everything that can be checked before a trial is drawn.

    Returns:
        Every name in an expression or constraint, and the dotted key that it means.

    Raises:
        PydanticCustomError: the first broken rule.
    """
    for key in space.search:
        _check_key(space, key)
    _check_once(space)
    names = _names(space)
    space._names.update(names)
    _check_search(space)
    _check_fixed(space)
    _check_leaves(space)
    _check_initial(space)
    _check_layouts(space)
    _check_draws(space)
    return names


# -- keys, values, expressions ---------------------------------------------------------------------------------------


def _check_key(space: SearchSpace, key: str) -> None:
    section, _, path = key.partition(".")
    where = f"search.{key}"
    if section not in SECTIONS or (not path and not isinstance(space.search[key], Branches)):
        valid = [f"{s}.{field}" for s in SECTIONS for field in space.fields(s)]
        raise broken_rule(where, f"unknown key; a searched key is in {', '.join(SECTIONS)}{did_you_mean(key, valid)}")
    fields = space.fields(section)
    if path and path.partition(".")[0] not in fields:
        raise broken_rule(where, f"unknown key{did_you_mean(path, fields)}")


def _check_once(space: SearchSpace) -> None:
    """What a branch searches or fixes is not searched by its dotted key too: one of the two would be lost."""
    for leaf in space.tree.leaves():
        top, _, _ = leaf.where.removeprefix("search.").partition(".choice.")
        if leaf.key != top and leaf.key in space.search:
            raise broken_rule(f"search.{leaf.key}", f"is searched with {top} too; write it once")
    for top, node in space.search.items():
        if not isinstance(node, Branches) or not node.has_keys:
            continue
        for key in [key for key in space.search if key.startswith(f"{top}.")]:
            inner = key[len(top) + 1 :]
            if inner == "name" or any(says(option.fixed, inner) for option in node.options):
                raise broken_rule(f"search.{key}", f"is said in a branch of {top} too; write it once")


def _names(space: SearchSpace) -> dict[str, str]:
    """The meaning of every name in an expression or constraint."""
    keys = [f"{section}.{field}" for section in SECTIONS for field in space.fields(section)]
    keys += ["resources.num_workers", "seed"]
    keys += [leaf.key for leaf in space.tree.leaves() if leaf.key not in keys and leaf.key.count(".") > 1]
    names: dict[str, str] = {}
    for where, expression in _expressions(space):
        for name in expression.names:
            try:
                names[name] = resolve_name(name, keys)
            except ValueError as error:
                raise broken_rule(where, str(error)) from None
    return names


def _expressions(space: SearchSpace) -> Iterator[tuple[str, Expression]]:
    for leaf in space.tree.leaves():
        if isinstance(leaf.node, Expr):
            yield leaf.where, leaf.node.expression
    for index, text in enumerate(space.constraints):
        try:
            expression = Expression(text)
        except ValueError as error:
            raise broken_rule(f"constraints.{index}", str(error)) from None
        if not expression.is_condition:
            raise broken_rule(f"constraints.{index}", f"must be a condition, e.g. a <= b (got {text!r})")
        yield f"constraints.{index}", expression


def _check_fixed(space: SearchSpace) -> None:
    """The sections must fit each other before anything is searched."""
    try:
        TrialSpec.model_validate(space.sections({}))
    except ExpressionError:
        return  # said of the expression's own place
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        if detail["type"] == "space_rule":
            raise broken_rule(str(detail.get("ctx", {}).get("key", "")), rule_of(detail)) from None


def _check_leaves(space: SearchSpace) -> None:
    """Every end of every distribution must be valid in a trial that has it; so must what each branch fixes."""
    selectors = {leaf.name: leaf for leaf in space.tree.leaves() if leaf.selects}
    leaves = {leaf.name: leaf for leaf in space.tree.leaves()}
    checked: set[str] = set()
    drawn: list[str] = []

    def values(name: str, key: str, node: Distribution) -> Any:
        drawn.append(name)
        return node.extremes() if name in selectors else [MISSING]

    for skeleton in itertools.islice(space.tree.enumerate(values), _MAX_COMBINATIONS):
        for name in drawn:
            if name in selectors:
                _check_branch(space, selectors[name], skeleton)
            elif name not in checked:
                checked.add(name)
                for value in leaves[name].node.extremes():  # type: ignore[union-attr]
                    _check_value(space, leaves[name], value, skeleton)
        drawn.clear()


def _check_branch(space: SearchSpace, leaf: Leaf, config: Mapping[str, Scalar]) -> None:
    try:
        sections = space.sections(config)
    except ExpressionError as error:
        raise broken_rule(_where(space, error.key), error.problem) from None
    try:
        TrialSpec.model_validate(sections)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        if leaf.key.endswith(".name") and detail["type"] in ("union_tag_invalid", "literal_error"):
            section, value = leaf.key.partition(".")[0], config.get(leaf.key)
            if section == str(detail["loc"][0]):
                valid = [name for cls in classes_of(section) for name in names_of(cls)]
                raise broken_rule(leaf.where, f"unknown value {value!r}{did_you_mean(str(value), valid)}") from None
        path, problem = explain(error, TrialSpec, sections)
        key = ".".join(path)
        if key in {other.key for other in space.tree.leaves() if isinstance(other.node, Expr)}:
            return  # at values that stand in for others; drawn ones are looked at below
        if not key.startswith(leaf.key.removesuffix(".name")):
            if detail["type"] == "space_rule":
                raise broken_rule(key, problem) from None
            return  # another key's
        raise broken_rule(*_in_option(space, leaf, config, key, problem)) from None


def _in_option(space: SearchSpace, leaf: Leaf, config: Mapping[str, Scalar], key: str, problem: str) -> tuple[str, str]:
    """The place of a key that a branch fixes, and what is wrong with it."""
    for top, node in space.tree.nodes.items():
        if isinstance(node, Branches) and leaf.where == f"search.{top}" and key.startswith(f"{top}."):
            return _place(top, node, config, key), problem
    return leaf.where, f"{key}: {problem}"


def _place(top: str, node: Branches, config: Mapping[str, Scalar], key: str) -> str:
    """The place of a key in the branch that a configuration takes."""
    return f"search.{top}.choice.{node.options.index(node.chosen(top, config))}{key[len(top) :]}"


def _check_value(space: SearchSpace, leaf: Leaf, value: Scalar, skeleton: Mapping[str, Scalar]) -> None:
    try:
        TrialSpec.model_validate(space.sections({**skeleton, leaf.key: value}))
    except ExpressionError as error:
        raise broken_rule(_where(space, error.key), error.problem) from None
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        if detail["type"] == "extra_forbidden":
            path, problem = explain(error, TrialSpec, space.sections({**skeleton, leaf.key: value}))
            if ".".join(path) == leaf.key:
                raise broken_rule(leaf.where, problem) from None
        raise broken_rule(leaf.where, f"{rule_of(detail)} (a bound or choice is {value!r})") from None


def _where(space: SearchSpace, key: str) -> str:
    """The place of an expression."""
    found = [leaf.where for leaf in space.tree.leaves() if leaf.key == key and isinstance(leaf.node, Expr)]
    return found[0] if found else key


def _check_initial(space: SearchSpace) -> None:
    leaves = list(space.tree.leaves())
    keys = list(dict.fromkeys(leaf.key for leaf in leaves))
    for index, point in enumerate(space.initial):
        for key, value in point.items():
            where = f"initial.{index}.{key}"
            nodes = [leaf.node for leaf in leaves if leaf.key == key and not isinstance(leaf.node, Expr)]
            if not nodes:
                raise broken_rule(where, f"is not a searched key{did_you_mean(key, keys)}")
            if not any(node.contains(value) for node in nodes):
                searched = " or ".join(dict.fromkeys(map(str, nodes)))
                raise broken_rule(where, f"must lie in the searched {searched} (got {value!r})")
        taken = space.tree.encoded_keys(point)
        for key in [key for key in point if key not in taken]:
            open_choices = {leaf.key: str(leaf.node) for leaf in leaves if leaf.selects and leaf.key not in point}
            hints = [f"{choice} ({options})" for choice, options in open_choices.items()]
            hint = f"; say which branch is meant with {' or '.join(hints)}" if hints else ""
            problem = f"the point's branches do not search it, or not at this value (got {point[key]!r}){hint}"
            raise broken_rule(f"initial.{index}.{key}", problem)
        params = space.tree.encode(point)
        drawn: list[bool] = []

        def given(name: str, key: str, node: Distribution, params: Any = params, drawn: list[bool] = drawn) -> Any:
            drawn.append(name in params)
            return params.get(name, node.extremes()[0])

        config = space.tree.draw(given)
        if all(drawn) and (broken := _broken(space, config)):
            raise broken_rule(f"initial.{index}", f"breaks the constraint {broken}")


def _check_layouts(space: SearchSpace) -> None:
    """Every combination of batch size and m that the search may draw must fit the workers."""
    names = {leaf.name for leaf in space.tree.leaves() if leaf.selects}

    def values(name: str, key: str, node: Distribution) -> Any:
        if name in names or key in ("training.batch_size", "method.m"):
            return node.values() or node.extremes()
        return [MISSING]

    combinations = list(itertools.islice(space.tree.enumerate(values), _MAX_COMBINATIONS + 1))
    if len(combinations) > _MAX_COMBINATIONS:
        return  # too many to try; each trial is checked when it is drawn
    for config in combinations:
        if _broken(space, config):
            continue
        try:
            TrialSpec.model_validate(space.sections(config)).layout(space.resources.num_workers)
        except (ValidationError, ExpressionError):
            continue  # reported by the key's own rule
        except ValueError as error:
            key = "method.m" if "m" in str(error).split() else "training.batch_size"
            raise broken_rule(_where_drawn(space, key, config), str(error)) from None


def _where_drawn(space: SearchSpace, key: str, config: Mapping[str, Scalar]) -> str:
    """The place that a configuration has a key's value from: a distribution, a branch that fixes it, or the section."""
    for leaf in space.tree.leaves():
        if leaf.key == key in config and not isinstance(leaf.node, Expr) and leaf.node.contains(config[key]):
            return leaf.where
    for top, node in space.tree.nodes.items():
        if not isinstance(node, Branches) or not key.startswith(f"{top}."):
            continue
        if says(node.chosen(top, config).fixed, key[len(top) + 1 :]):
            return _place(top, node, config, key)
    return key


def _check_draws(space: SearchSpace) -> None:
    """Expressions must have valid values, and some configuration must satisfy the constraints."""
    expressions = {leaf.key: leaf for leaf in space.tree.leaves() if isinstance(leaf.node, Expr)}
    if not expressions and not space.constraints:
        return
    rng = random.Random(0)
    num_feasible = 0
    for _ in range(_NUM_DRAWS):
        config = space.tree.draw(lambda name, key, node: node.random(rng))
        if _broken(space, config):
            continue
        num_feasible += 1
        _check_expressions(space, config, expressions)
        if num_feasible == 64:
            return
    if not num_feasible:
        raise broken_rule(
            "constraints", f"none of {_NUM_DRAWS} random configurations satisfies {' and '.join(space.constraints)}"
        )


def _broken(space: SearchSpace, config: Mapping[str, Scalar]) -> str | None:
    """The first constraint that a configuration breaks."""
    try:
        violations = space.violations(config)
    except ExpressionError as error:
        raise broken_rule(_where(space, error.key), error.problem) from None
    except ValueError as error:
        raise broken_rule("constraints", str(error)) from None
    return next((text for text, gap in zip(space.constraints, violations, strict=False) if gap > 0), None)


def _check_expressions(space: SearchSpace, config: Mapping[str, Scalar], expressions: Mapping[str, Leaf]) -> None:
    try:
        sections = space.sections(config)
        TrialSpec.model_validate(sections)
    except ExpressionError as error:
        raise broken_rule(_where(space, error.key), error.problem) from None
    except ValidationError as error:
        path, problem = explain(error, TrialSpec, sections)
        leaf = expressions.get(".".join(path))
        if leaf is not None:
            raise broken_rule(
                leaf.where, f"{leaf.node}: {problem}{f', with {dict(config)}' if config else ''}"
            ) from None


# -- sampler, scheduler, objectives ----------------------------------------------------------------------------------


def _check_search(space: SearchSpace) -> None:
    """Sampler, scheduler, objectives and repeats must fit each other."""
    scheduler, names = space.scheduler.name, [objective.metric for objective in space.objectives]
    if len(set(names)) < len(names):
        raise broken_rule("objective", f"names a metric twice (got {', '.join(names)})")
    _check_measured(space, names)
    if len(names) > 1 and scheduler != "none":
        raise broken_rule(
            "scheduler", f"{scheduler} compares trials by one metric; with several objectives it must be none"
        )
    if len(names) > 1 and space.sampler.name in SINGLE_OBJECTIVE:
        raise broken_rule(
            "sampler", f"{space.sampler.name} has one objective; for several take tpe, nsgaii, gp or random"
        )
    if isinstance(space.scheduler, PBTConfig | PB2Config):
        _check_population(space, space.scheduler)
    for leaf in space.tree.leaves():
        if isinstance(leaf.node, Expr):
            continue
        if isinstance(space.sampler, GridConfig) and leaf.node.values() is None:
            raise broken_rule(
                leaf.where,
                f"sampler {space.sampler.name} needs values that can be listed; {leaf.node} has none: "
                "write {grid: [...]}, or give a step",
            )
        if isinstance(leaf.node, Grid) and not isinstance(space.sampler, GridConfig):
            raise broken_rule(leaf.where, f"grid needs sampler grid (it is {space.sampler.name}); choice does not")


def _check_measured(space: SearchSpace, metrics: list[str]) -> None:
    """Trials measure the validation set, or, without one, the test set; and the user's metrics."""
    evaluated, other = ("test", "val") if space.data.validation_fraction == 0 else ("val", "test")
    own = [metric_name(path) for path in space.training.metrics]
    measured = [f"{evaluated}_{name}" for name in ("accuracy", "loss", *own)]
    for metric in metrics:
        if metric.startswith(f"{other}_") and f"{evaluated}{metric[len(other) :]}" in measured:
            problem = f"must be one of {', '.join(measured)} with data.validation_fraction"
            raise broken_rule("objective.metric", f"{problem} {space.data.validation_fraction:g} (got {metric!r})")
        if metric.startswith(("val_", "test_")) and metric not in measured:
            raise broken_rule("objective.metric", f"unknown metric {metric!r}{did_you_mean(metric, measured)}")


def _check_population(space: SearchSpace, scheduler: PBTConfig | PB2Config) -> None:
    if space.sampler.name not in MEMORYLESS:
        raise broken_rule(
            "sampler",
            f"{scheduler.name} changes what a sampler has proposed, which {space.sampler.name} would take for its "
            f"own; the first configurations must come from one of {', '.join(MEMORYLESS)}",
        )
    if space.repeats > 1:
        raise broken_rule("repeats", f"must be 1 with {scheduler.name}, whose trials copy each other")
    if space.num_trials < 2:
        raise broken_rule("num_trials", f"{scheduler.name} needs a population of at least 2 (got 1)")
    mutable = [key for key in MUTABLE if can_mutate(space, key)]
    for index, key in enumerate(scheduler.mutations or ()):
        where = f"scheduler.mutations.{index}"
        if key not in space.search:
            raise broken_rule(where, f"is not a searched key (got {key!r}{did_you_mean(key, mutable)})")
        if key not in mutable:
            raise broken_rule(where, f"cannot change while a trial runs (got {key!r}; {', '.join(MUTABLE)} can)")
    if not space.mutations:
        raise broken_rule("scheduler", f"{scheduler.name} needs a searched key that can change while a trial runs")
    if isinstance(scheduler, PB2Config):
        for key in space.mutations:
            if not isinstance(space.search[key], Uniform | LogUniform):
                raise broken_rule("scheduler", f"pb2 changes real intervals only ({key} is {space.search[key]})")
    _check_mutated_constraints(space)


def can_mutate(space: SearchSpace, key: str) -> bool:
    """A key that not every trial has cannot be copied from one to another."""
    section = key.partition(".")[0]
    return isinstance(space.search.get(key), Distribution) and f"{section}.name" not in space.search


def _check_mutated_constraints(space: SearchSpace) -> None:
    for index, constraint in enumerate(space.conditions):
        changed = {space._names[name] for name in constraint.names} & set(space.mutations)
        if changed:
            raise broken_rule(
                f"constraints.{index}", f"{space.scheduler.name} cannot keep it, since it changes {', '.join(changed)}"
            )
