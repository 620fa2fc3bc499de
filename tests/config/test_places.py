"""Every rule of a value, wherever the value may stand: the message names file, line, key, rule and value."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from samtune import SearchSpace
from samtune.errors import SpaceError

HEAD = "name: t\ndata: {name: digits}\nmodel: {name: digits_cnn}\n"

RULES = {
    "no number": ("{log_uniform: [a, 0.1]}", "log_uniform: the lower bound must be a number (got 'a')"),
    "inverted": (
        "{log_uniform: [1, 0.1]}",
        "low must be less than high: the interval [1.0, 0.1] is inverted",
    ),
    "empty": ("{uniform: [2, 2]}", "low must be less than high: the interval [2.0, 2.0] is empty"),
    "one bound": ("{uniform: [2]}", "uniform takes two bounds, [low, high] (got [2])"),
    "zero": ("{log_uniform: [0, 1]}", "log_uniform needs bounds greater than 0 (low is 0)"),
    "off the step": ("{uniform: [0, 1], step: 0.3}", "high must be a whole number of steps above low"),
    "unknown option": ("{uniform: [0, 1], stp: 1}", "uniform takes no 'stp'; valid is step"),
    "misspelled": ("{log_unifrom: [1, 2]}", "a distribution is one of uniform, log_uniform, int, log_int, choice"),
    "no expression": ("{expr: '1 +'}", "is not an expression: invalid syntax (got '1 +')"),
    "unknown name": ("{expr: 2 * roh}", "unknown key 'roh'; did you mean 'rho'?"),
    "circle of one": ("{expr: 1 / 0}", "'1 / 0' has no value for these numbers: division by zero"),
    "no option": ("{choice: []}", "choice takes a list of one value or more, e.g. [0.1, 0.2] (got [])"),
    "equal options": ("{choice: [1, 1.0]}", "choice lists a value twice (got 1.0)"),
    "out of range": ("{uniform: [-1.5, 1]}", "must be greater than or equal to 0 (a bound or choice is -1.5)"),
    "option out of range": ("{choice: [0.1, -2.5]}", "must be greater than or equal to 0 (a bound or choice is -2.5)"),
    "wrong option": ("{choice: [0.1, much]}", "must be a valid number (a bound or choice is 'much')"),
    "wrong value": ("much", "must be a valid number (got 'much')"),
    "value out of range": ("-2.5", "must be greater than or equal to 0 (got -2.5)"),
}

IN_FILE = {
    "section": ("method:\n  name: sam\n  rho: VALUE\n", "6: method.rho"),
    "search": ("method: sam\nsearch:\n  method.rho: VALUE\n", "6: search.method.rho"),
    "branch": ("method:\n  choice:\n    - sgd\n    - name: sam\n      rho: VALUE\n", "8: method.rho (in branch sam)"),
    "nested branch": (
        "method:\n  choice:\n    - sgd\n    - choice:\n        - asam\n        - name: sam\n          rho: VALUE\n",
        "10: method.rho (in branch sam)",
    ),
    "branch under search": (
        "search:\n  method:\n    choice:\n      - sgd\n      - name: sam\n        rho: VALUE\n",
        "9: search.method.rho (in branch sam)",
    ),
    "option of a branch's value": (
        "method:\n  choice:\n    - sgd\n    - name: sam\n      rho:\n        choice:\n          - 0.0\n"
        "          - VALUE\n",
        "11: method.rho (in branch sam, option 2)",
    ),
    "merged": ("x-sam: &sam\n  name: sam\n  rho: VALUE\nmethod:\n  <<: *sam\n  m: 16\n", "6: method.rho"),
    "list item": (
        "method: sam\ntraining:\n  schedule: multi_step\n  milestones:\n    - VALUE\n    - 15\n",
        "8: training.milestones.0",
    ),
}
OVERRIDES = {
    "key": ("method.rho=VALUE", "--set method.rho"),
    "search": ("search.method.rho=VALUE", "--set search.method.rho"),
    "section": ("method={name: sam, rho: VALUE}", "--set method: method.rho"),
    "branch": ("method={choice: [sgd, {name: sam, rho: VALUE}]}", "--set method: method.rho (in branch sam)"),
    "whole search": ("search={method.rho: VALUE}", "--set search: search.method.rho"),
}
ONLY_FOR_RHO = ("out of range", "option out of range", "wrong option", "wrong value", "value out of range")
IS_CHOICE = ("no option", "equal options", "option out of range", "wrong option", "wrong value", "value out of range")
"""An option that is a choice gives its options to the outer one; one that is a value is listed by it."""


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.from_text(HEAD + text, "space.yaml", overrides)
    return str(caught.value)


NO_DISTRIBUTION = "a distribution is one of uniform, log_uniform, int, log_int, choice, grid"


@pytest.mark.parametrize(
    ("place", "rule"),
    [(p, r) for p in IN_FILE for r in RULES if p != "option of a branch's value" or r not in IS_CHOICE],
)
def test_a_rule_is_named_where_the_value_was_written(place: str, rule: str) -> None:
    (text, where), (value, problem) = IN_FILE[place], RULES[rule]
    if place == "search" and rule in ("wrong value", "value out of range"):
        problem = NO_DISTRIBUTION
    if place == "list item" and rule in ONLY_FOR_RHO:
        problem = "must be a valid integer"
    said = refusal(text.replace("VALUE", value))
    assert said.startswith(f"space.yaml:{where}: "), said
    assert problem in said
    assert "\n" not in said


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("place", OVERRIDES)
def test_a_rule_names_the_option_that_set_the_value(place: str, rule: str) -> None:
    (override, where), (value, problem) = OVERRIDES[place], RULES[rule]
    if "search" in place and rule in ("wrong value", "value out of range"):
        problem = NO_DISTRIBUTION
    said = refusal("method: {name: sam, rho: 0.05}\n", override.replace("VALUE", value))
    assert said.startswith(f"space.yaml with {where}: "), said
    assert problem in said
    assert "\n" not in said


SEARCHED = (
    "method: {choice: [sgd, {name: sam, rho: {uniform: [0, 1]}}]}\ntraining: {lr: {uniform: [0.1, 1], step: 0.1}}\n"
)


@pytest.mark.parametrize(
    ("point", "problem"),
    [
        ("method.rho: 3.0", "initial.1.method.rho: must lie in the searched uniform 0 … 1 (got 3.0)"),
        ("method.rho: much", "initial.1.method.rho: must lie in the searched uniform 0 … 1 (got 'much')"),
        ("method.roh: 0.1", "initial.1.method.roh: is not a searched key; did you mean 'method.rho'?"),
        ("method.name: asam", "initial.1.method.name: must lie in the searched choice sgd, sam (got 'asam')"),
        ("training.lr: 0.15", "initial.1.training.lr: must lie in the searched uniform 0.1 … 1 step 0.1 (got 0.15)"),
    ],
)
def test_an_initial_point_is_named_where_it_was_written(point: str, problem: str) -> None:
    points = f"initial:\n  - {{training.lr: 0.1}}\n  - training.lr: 0.2\n    {point}\n"
    points = points.replace("  - training.lr: 0.2\n    training", "  - method.name: sam\n    training")
    assert refusal(SEARCHED + points) == f"space.yaml:9: {problem}"
    override = f"initial=[{{training.lr: 0.1}}, {{{point}}}]"
    assert refusal(SEARCHED, override) == f"space.yaml with --set initial: {problem}"


def test_an_initial_point_within_rounding_of_a_step_is_that_step() -> None:
    space = SearchSpace.from_text(f"{HEAD}{SEARCHED}initial: [{{training.lr: {0.1 + 0.2!r}}}]\n", "space.yaml")
    assert space.tree.encode(space.initial[0]) == {"training.lr": 0.3}


def test_all_problems_are_named_each_in_a_line() -> None:
    text = (
        "method: {choice: [sgd, {name: sam, rho: -1, k: 2}]}\n"
        "training: {lr: -1, epochs: {int: [0, 3]}, batch: 3}\nsampler: tpee\nnum_trials: 0\nlayers: 3\n"
    )
    assert [line.split(": ")[:2] for line in refusal(text).splitlines()] == [
        ["space.yaml:4", "method.rho (in branch sam)"],
        ["space.yaml:4", "method.k (in branch sam)"],
        ["space.yaml:5", "training.lr"],
        ["space.yaml:5", "training.batch"],
        ["space.yaml:5", "training.epochs"],
        ["space.yaml:6", "sampler"],
        ["space.yaml:7", "num_trials"],
        ["space.yaml:8", "layers"],
    ]


# -- YAML --------------------------------------------------------------------------------------------------------------


def test_a_key_beside_a_merge_overrides_what_is_merged() -> None:
    text = "x-base: &base {epochs: 2, lr: 0.2}\nmethod: sgd\ntraining: {<<: *base, epochs: 3}\n"
    space = SearchSpace.from_text(HEAD + text, "space.yaml")
    assert (space.training.epochs, space.training.lr) == (3, 0.2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: {name: sgd, on: 3}\n", "space.yaml:4: method.on: unknown key"),
        ("method: sgd\ntraining: {lr: 1:30}\n", "space.yaml:5: training.lr: must be a valid number (got '1:30')"),
        ('method: sgd\ntraining: {lr: "1e-4"}\n', "(got '1e-4'; write numbers without quotes)"),
        ("method: {name: sam, rho: '${training.lr}'}\n", "did you mean {expr: training.lr}?"),
        ("method: sgd\ntraining: {lr: {values: [1, 2]}}\n", "write `lr: {choice: [1, 2]}`"),
        ("method: sgd\ntraining: {lr: {min: 1, max: 2}}\n", "write `lr: {uniform: [1, 2]}`"),
        ("method: sgd\nseed: 3\0\n", "space.yaml:5: not valid YAML: the character U+0000 is not allowed"),
        ("method: sgd\nsearch: {training: {lr: {int: [1, 2]}}}\n", "space.yaml:5: search.training: keys of the search"),
        ("method: sgd\nobjective: {metric: lambda_max}\n", "set training.diagnostics.lambda_max"),
        ("method: sgd\nobjective: [{metric: val_loss}, {metric: sharpness}]\n", "objective.1.metric: sharpness is not"),
        (
            "method: sgd\ntraining: {optimizer: {choice: [{name: sgd, lr: 1}]}}\n",
            "training.optimizer.lr (in branch sgd): is set by training.lr",
        ),
    ],
)
def test_what_yaml_and_the_search_cannot_mean_is_named(text: str, message: str) -> None:
    assert message in refusal(text)


def test_numbers_are_decimal_and_null_is_the_default() -> None:
    text = "method: sgd\nseed: 010\ntraining: {batch_size: 0x40}\nsampler: null\nscheduler: ~\n"
    space = SearchSpace.from_text(HEAD + text, "space.yaml", ["num_trials=007"])
    assert (space.seed, space.training.batch_size, space.sampler.name, space.num_trials) == (10, 64, "tpe", 7)
    again = SearchSpace.from_text(HEAD + text, "space.yaml", ["sampler=random", "sampler=null", "timeout=null"])
    assert (again.sampler.name, again.timeout) == ("tpe", None)
    with pytest.raises(SpaceError, match="--set method"):
        SearchSpace.from_text(HEAD + text, "space.yaml", ["method=null"])


BOMB = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]\n" for i in range(1, 12)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 8)}]}}\n" for i in range(1, 12))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "more than 5,000 keys and values"),
        (MERGES, "more than 5,000 keys and values"),
        ("a: &a [*a]\n", "nested more than 40 deep"),
        ("a: " + "[" * 50_000, "nested more than 40 deep"),
        ("".join(f"k{i}: 1\n" for i in range(15_000)), "more than 5,000 keys and values"),
        ("# much\n" * 1_000_000, "must have at most 200,000 bytes"),
        ("method: sgd\ntraining: {lr: {expr: 'round(10, -10**9)'}}\n", "round takes at most 308 digits"),
        (f"method: sgd\ntraining: {{lr: {{expr: '{'-' * 900}1'}}}}\n", "nested more than 50 deep"),
    ],
)
def test_what_would_take_for_ever_is_refused_at_once(text: str, message: str) -> None:
    began = time.process_time()
    said = refusal(text)
    assert message in said
    assert said.startswith("space.yaml")
    assert "\n" not in said
    assert time.process_time() - began < 3  # a second on a quiet machine


def test_the_package_loads_neither_torch_nor_ray() -> None:
    code = (
        "import importlib, pkgutil, sys, samtune.config as package\n"
        "for module in pkgutil.iter_modules(package.__path__):\n"
        "    importlib.import_module(f'samtune.config.{module.name}')\n"
        "print([name for name in ('torch', 'ray', 'mlflow', 'optuna', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_edit_parses_and_validates_only_what_it_changes() -> None:
    space = SearchSpace.from_yaml("digits.yaml")
    moved = space.replace({"folder": "/elsewhere", "num_trials": 5})
    assert moved.tree is space.tree
    assert moved._resolver is space._resolver
    assert (moved.folder, moved.num_trials, moved.trial({}).training) == ("/elsewhere", 5, space.trial({}).training)
    seeded = space.replace({"seed": 3})
    assert seeded.tree is space.tree
    assert seeded.trial({}).seed == 3
