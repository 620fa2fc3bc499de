"""The rules between sampler, scheduler, objectives and what is searched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from samtune.config.distributions import Distribution, Grid, LogUniform, Uniform
from samtune.config.located import Located, Place, Problem
from samtune.config.method_base import BaseOptimizerConfig
from samtune.config.samplers import MEMORYLESS, SINGLE_OBJECTIVE, GridConfig
from samtune.config.search import METRICS, MUTABLE, PERTURBATION_METRICS, PB2Config, PBTConfig, mode_of
from samtune.config.searched import Expr
from samtune.config.sections import names_of
from samtune.config.training import metric_name
from samtune.config.trial import OPEN_SECTION
from samtune.config.yaml_source import did_you_mean

if TYPE_CHECKING:
    from samtune.config.space import SearchSpace


def check_search(space: SearchSpace, root: Located) -> Iterator[Problem]:
    """The broken rules of a space whose parts are valid.

    Args:
        root: what was written.
    """
    scheduler, metrics = space.scheduler.name, [objective.metric for objective in space.objectives]
    if len(set(metrics)) < len(metrics):
        yield _problem(root, "objective", f"names a metric twice (got {', '.join(metrics)})")
    yield from _check_measured(space, root)
    if len(metrics) > 1 and scheduler != "none":
        rule = f"{scheduler} compares trials by one metric; with several objectives it must be none"
        yield _problem(root, "scheduler", rule)
    if len(metrics) > 1 and space.sampler.name in SINGLE_OBJECTIVE:
        rule = f"{space.sampler.name} has one objective; for several take tpe, nsgaii, gp or random"
        yield _problem(root, "sampler", rule)
    if space.train is not None and space.repeats > 1:
        rule = f"must be 1 with train: one call of {space.train} trains one model (got {space.repeats})"
        yield _problem(root, "repeats", rule)
    yield from _check_grid(space)
    if isinstance(space.scheduler, PBTConfig | PB2Config):
        yield from _check_population(space, space.scheduler, root)


def _problem(root: Located, key: str, rule: str) -> Problem:
    return Problem(root.place_of(key.split(".")), rule)


def _check_grid(space: SearchSpace) -> Iterator[Problem]:
    is_grid = isinstance(space.sampler, GridConfig)
    for leaf in space.tree.leaves():
        if isinstance(leaf.node, Expr):
            continue
        if is_grid and leaf.node.values() is None:
            rule = f"sampler {space.sampler.name} needs values that can be listed; {leaf.node} has none"
            yield Problem(leaf.place, f"{rule}: write {{grid: [...]}}, or give a step")
        if isinstance(leaf.node, Grid) and not is_grid:
            yield Problem(leaf.place, f"grid needs sampler grid (it is {space.sampler.name}); choice does not")


# -- objectives ------------------------------------------------------------------------------------------------------


def _check_measured(space: SearchSpace, root: Located) -> Iterator[Problem]:
    """Trials measure the validation set, or, without one, the test set; the user's metrics; and what is asked for.

    A training function measures whatever it likes.
    """
    if space.train is not None:
        for index, objective in enumerate(space.objectives):
            yield from _check_mode(objective.metric, root, index)
        return
    evaluated, other = ("test", "val") if space.data.validation_fraction == 0 else ("val", "test")
    own = [metric_name(path) for path in space.training.metrics if path != "accuracy"]
    standard = ("loss",) if space.training.of_numbers else ("accuracy", "loss")
    measured = [f"{evaluated}_{name}" for name in (*standard, *own)]
    for index, objective in enumerate(space.objectives):
        metric, place = objective.metric, _metric_place(root, index)
        if metric.startswith(f"{other}_") and f"{evaluated}{metric[len(other) :]}" in measured:
            rule = f"must be one of {', '.join(measured)} with data.validation_fraction"
            yield Problem(place, f"{rule} {space.data.validation_fraction:g} (got {metric!r})")
        elif metric.startswith(("val_", "test_")) and metric not in measured:
            yield Problem(place, f"unknown metric {metric!r}{did_you_mean(metric, measured)}")
        elif not metric.startswith(("val_", "test_")) and metric not in METRICS:
            yield Problem(place, f"unknown metric {metric!r}{did_you_mean(metric, METRICS)}")
        elif missing := _missing(space, metric):
            yield Problem(place, missing)
        elif metric in measured:
            yield from _check_mode(metric, root, index)


def _check_mode(metric: str, root: Located, index: int) -> Iterator[Problem]:
    """Of a metric of the user's, whose name may not tell whether more of it is better."""
    objective = root.child("objective")
    given = objective.child(index) if objective is not None and isinstance(objective.value, list) else objective
    if given is not None and given.child("mode") is None and mode_of(metric) is None:
        yield Problem(
            _metric_place(root, index), f"the name {metric!r} does not tell what is better; set mode: max or min"
        )


def _metric_place(root: Located, index: int) -> Place:
    objective = root.child("objective")
    is_list = objective is not None and isinstance(objective.value, list)
    return root.place_of(("objective", index, "metric") if is_list else ("objective", "metric"))


def _missing(space: SearchSpace, metric: str) -> str | None:
    """What no trial of the space measures, and the key that would measure it."""
    if metric == "train_accuracy" and space.training.of_numbers:
        return f"train_accuracy is not measured with training.loss {space.training.loss}; set train_loss"
    if metric in ("lambda_max", "m_sharpness"):
        key = f"training.diagnostics.{metric}"
        searched = any(leaf.key in (key, "training.diagnostics", "training") for leaf in space.tree.leaves())
        if not searched and getattr(space.training.diagnostics, metric, None) is None:
            return f"{metric} is not measured; set {key}, e.g. to 10: every 10 epochs"
    methods = [str(name) for name in space.tree.names("method")]
    if metric in PERTURBATION_METRICS and set(methods) <= set(names_of(BaseOptimizerConfig)):
        return f"{metric} is not measured by {' or '.join(methods)}; set method.name to one that perturbs, e.g. sam"
    return None


# -- populations -----------------------------------------------------------------------------------------------------


def _check_population(space: SearchSpace, scheduler: PBTConfig | PB2Config, root: Located) -> Iterator[Problem]:
    if space.sampler.name not in MEMORYLESS:
        rule = (
            f"{scheduler.name} changes what a sampler has proposed, which {space.sampler.name} would take for its "
            f"own; the first configurations must come from one of {', '.join(MEMORYLESS)}"
        )
        yield _problem(root, "sampler", rule)
    if space.repeats > 1:
        yield _problem(root, "repeats", f"must be 1 with {scheduler.name}, whose trials copy each other")
    if space.data.folds is not None or any(leaf.key == "data.folds" for leaf in space.tree.leaves()):
        yield _problem(root, "data.folds", f"cannot be used with {scheduler.name}, whose trials copy each other")
    if space.training.bootstrap or any(leaf.key == "training.bootstrap" for leaf in space.tree.leaves()):
        rule = f"must be 0 with {scheduler.name}: a trial that copies another has labels of its own"
        yield _problem(root, "training.bootstrap", rule)
    if space.num_trials < 2:
        yield _problem(root, "num_trials", f"{scheduler.name} needs a population of at least 2 (got 1)")
    mutable = [key for key in MUTABLE if can_mutate(space, key)]
    for index, key in enumerate(scheduler.mutations or ()):
        where = f"scheduler.mutations.{index}"
        if key not in space.search:
            yield _problem(root, where, f"is not a searched key (got {key!r}{did_you_mean(key, mutable)})")
        elif key not in mutable and not (key.partition(".")[0] == OPEN_SECTION and can_mutate(space, key)):
            yield _problem(root, where, f"cannot change while a trial runs (got {key!r}; {', '.join(MUTABLE)} can)")
    if not space.mutations:
        yield _problem(root, "scheduler", f"{scheduler.name} needs a searched key that can change while a trial runs")
    if isinstance(scheduler, PB2Config):
        for key in space.mutations:
            if key in space.search and not isinstance(space.search[key], Uniform | LogUniform):
                rule = f"pb2 changes real intervals only ({key} is {space.search[key]})"
                yield _problem(root, "scheduler", rule)
    yield from _check_mutated_constraints(space, root)


def can_mutate(space: SearchSpace, key: str) -> bool:
    """A key that not every trial has cannot be copied from one to another."""
    section = key.partition(".")[0]
    return isinstance(space.search.get(key), Distribution) and f"{section}.name" not in space.search


def _check_mutated_constraints(space: SearchSpace, root: Located) -> Iterator[Problem]:
    for index, constraint in enumerate(space.conditions):
        changed = {space.names[name] for name in constraint.names} & set(space.mutations)
        if changed:
            rule = f"{space.scheduler.name} cannot keep it, since it changes {', '.join(sorted(changed))}"
            yield _problem(root, f"constraints.{index}", rule)
