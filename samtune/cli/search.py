"""`samtune search`."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from samtune.cli.options import (
    Address,
    Code,
    Debug,
    DryRun,
    Estimate,
    Experiment,
    Extend,
    Json,
    LogTo,
    MaxConcurrent,
    Name,
    NoCheck,
    NumTrials,
    NumWorkers,
    Resume,
    RetryFailed,
    Seed,
    Sets,
    Space,
    SpaceFile,
    StoragePath,
    SystemMetrics,
    TrackingUri,
    TrainFunction,
    Trust,
    answer,
    chosen_space,
    stdout_for_json,
)
from samtune.cli.passwords import ask_for_secret
from samtune.cli.starting import LINE, STUDY_LINE, say_start
from samtune.cli.trust import ask_to_trust, say_imports
from samtune.errors import UsageError
from samtune.user_code import use_script

if TYPE_CHECKING:
    from samtune.config.space import SearchSpace
    from samtune.experiments.tuner import Tuner


def search(
    space_file: SpaceFile = None,
    space: Space = None,
    train: TrainFunction = None,
    set_: Sets = None,
    num_trials: NumTrials = None,
    num_workers: NumWorkers = None,
    max_concurrent: MaxConcurrent = None,
    seed: Seed = None,
    resume: Resume = None,
    code: Code = None,
    extend: Extend = False,
    retry_failed: RetryFailed = False,
    name: Name = None,
    storage_path: StoragePath = None,
    tracking_uri: TrackingUri = None,
    experiment: Experiment = None,
    address: Address = None,
    log_to: LogTo = None,
    system_metrics: SystemMetrics = False,
    trust: Trust = False,
    no_check: NoCheck = False,
    dry_run: DryRun = False,
    estimate: Estimate = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Run a search: Optuna proposes, warm worker groups train with SAM, MLflow records everything."""
    if not dry_run and not estimate and (resume or train or space_file or space):
        say_start(STUDY_LINE if resume else LINE)
    from samtune.experiments.tuner import Tuner
    from samtune.tracking.system import SWITCH

    if system_metrics:
        os.environ[SWITCH] = "true"
    changes: dict[str, Any] = {"num_trials": num_trials, "max_concurrent": max_concurrent}
    where: dict[str, Any] = {"storage_path": storage_path, "address": address, "check": not no_check}
    fixed: dict[str, Any] = {"num_workers": num_workers, "seed": seed, "name": name}
    fixed |= {"experiment": experiment}
    where |= {"tracking_uri": tracking_uri, "log_to": log_to or ()}
    space = chosen_space(space_file, space)
    if resume is None and space is None and train is None:
        problem = "a search space is required, such as `samtune search digits.yaml`: a YAML file or a built-in one"
        raise UsageError(f"{problem} (`samtune spaces` lists them)")
    if code is not None:
        if resume is None:
            raise UsageError(f"--code {code}: goes with --resume NAME")
        use_script(code)
    loaded = _load(space, train, set_ or [], is_new=resume is None)
    if resume is not None:
        given = [f"--{key.replace('_', '-')}" for key, value in fixed.items() if value is not None]
        given += ["--train"] if train and space is None else []
        budget, others = _budget_in(set_ or []) if space is None else ({}, [])
        given += [f"--set {key}" for key in others]
        if given:
            raise UsageError(f"--resume {resume}: the study has its own {', '.join(given)}; leave it out")
        only_looks = dry_run and not estimate  # which imports nothing
        if extend and space is None:
            raise UsageError("--extend: goes with --space FILE, the space in which the study continues")
        options: dict[str, Any] = {"space": loaded, "extend": extend, "budget": budget, "retry_failed": retry_failed}
        options |= changes | where
        tuner = ask_to_trust(lambda trust: Tuner.resume(resume, trust=trust, **options), trust or only_looks)
        if not only_looks:
            ask_for_secret(tuner.tracking_uri)
    else:
        if retry_failed or extend:
            raise UsageError(f"--{'extend' if extend else 'retry-failed'}: goes with --resume NAME")
        assert loaded is not None
        tuner = Tuner(loaded, **changes, **where, **fixed)
    if dry_run or estimate:
        _dry_run(tuner, estimate, json_, trust)
    else:
        _search(tuner, json_, debug)


def _load(space: str | None, train: str | None, overrides: list[str], *, is_new: bool) -> SearchSpace | None:
    """The space of the options; a training function alone is one, of SAM with nothing searched, for --set to change."""
    from samtune.config.space import SearchSpace

    if space is not None:
        loaded = SearchSpace.from_yaml(space, overrides)
        return loaded if train is None else loaded.replace({"train": train}, {"train": "--train"})
    if train is None or not is_new:
        return None
    name = re.sub(r"\W", "-", Path(train.partition(":")[0]).stem).strip("-_") or "search"
    return SearchSpace.from_dict({"name": name, "train": train, "method": "sam"}, overrides)


def _budget_in(overrides: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The budget that a resumed study gets, and the keys of the other overrides, which it does not take."""
    from samtune.config.overrides import parse_override

    parsed = dict(map(parse_override, overrides))
    budget = {key.removeprefix("budget."): value for key, value in parsed.items() if key.startswith("budget.")}
    return budget, [key for key in parsed if not key.startswith("budget.")]


def _dry_run(tuner: Tuner, with_estimate: bool, as_json: bool, trust: bool) -> None:
    from samtune.terminal import print_plan

    plan = tuner.plan(import_code=False)
    estimated = None
    if with_estimate:
        from samtune.experiments.estimate import estimate, plan_to_estimate

        plan = ask_to_trust(lambda trust: plan_to_estimate(tuner, trust=trust), trust)
        estimated = estimate(tuner.space, plan)
    if as_json:
        print(json.dumps(plan.to_dict() | ({"estimate": asdict(estimated)} if estimated else {})))
        return
    print_plan(plan)
    if estimated:
        print(f"\nabout {estimated}")


def _search(tuner: Tuner, as_json: bool, debug: bool) -> None:
    from samtune.experiments.json_summary import json_summary
    from samtune.experiments.results import SearchFailedError
    from samtune.terminal import make_console, make_display, print_summary

    console = make_console(stderr=as_json)
    say_imports(console, tuner.space.model_dump())
    tuner.callbacks.append(make_display(console))
    failure: SearchFailedError | None = None
    try:
        with stdout_for_json(as_json):
            results = tuner.fit()
    except SearchFailedError as error:
        failure, results = error, error.results
    with answer():
        print_summary(console, results.study, debug=debug and failure is None)  # else it is printed with the error
        if as_json:
            print(json.dumps(json_summary(results.study)))
    if failure is not None:
        raise failure
    if tuner.interrupted_by is not None:
        raise typer.Exit(128 + tuner.interrupted_by)
