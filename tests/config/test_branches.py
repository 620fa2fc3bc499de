"""Distributions anywhere in the sections, branches, expressions and constraints."""

from __future__ import annotations

import json
import pickle
import random
from typing import Any

import pytest

from samtune import SearchSpace
from samtune.errors import SpaceError

HEAD = "name: t\ndata: {name: digits}\nmodel: {name: digits_cnn}\n"


def space(text: str, *overrides: str, head: str = HEAD) -> SearchSpace:
    return SearchSpace.from_text(head + text, "space.yaml", overrides)


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(SpaceError) as caught:
        space(text, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def draws(searched: SearchSpace, num: int = 200) -> list[dict[str, Any]]:
    rng = random.Random(0)
    return [searched.tree.draw(lambda name, key, node: node.random(rng)) for _ in range(num)]


METHODS = """\
method:
  choice:
    - {name: sgd}
    - {name: sam, rho: {log_uniform: [0.01, 0.5]}, m: {choice: [worker, 16]}}
    - {name: frob_sam, rho: 0.02, lambda: {log_uniform: [0.001, 0.1]}, num_samples: {int: [2, 4]}}
"""


def test_a_distribution_may_stand_where_its_value_would() -> None:
    inline = space("method: {name: sam, rho: {log_uniform: [0.01, 0.5]}}\ntraining: {lr: {uniform: [0.1, 0.2]}}\n")
    listed = space(
        "method: {name: sam}\nsearch: {method.rho: {log_uniform: [0.01, 0.5]}, training.lr: {uniform: [0.1, 0.2]}}\n"
    )
    assert inline.search == listed.search
    assert inline.trial({"method.rho": 0.3, "training.lr": 0.15}) == listed.trial(
        {"method.rho": 0.3, "training.lr": 0.15}
    )


def test_each_branch_has_its_own_keys() -> None:
    searched = space(METHODS)
    own = {
        "sgd": {"method.name"},
        "sam": {"method.name", "method.rho", "method.m"},
        "frob_sam": {"method.name", "method.lambda", "method.num_samples"},
    }
    seen = set()
    for config in draws(searched):
        name = config["method.name"]
        seen.add(name)
        assert set(config) == own[name]
        method: Any = searched.trial(config).method
        assert method.name == name
        if name == "frob_sam":
            assert (method.rho, method.lam) == (0.02, config["method.lambda"])
            assert method.num_directions == config["method.num_samples"]
    assert seen == set(own)


def test_a_choice_within_a_choice_gives_its_options_to_it() -> None:
    searched = space("method: {choice: [{name: sgd}, {choice: [{name: sam}, {name: asam, rho: {uniform: [0, 1]}}]}]}\n")
    assert {config["method.name"] for config in draws(searched)} == {"sgd", "sam", "asam"}


def test_a_value_may_be_one_of_some_or_drawn_from_an_interval() -> None:
    searched = space("method: {name: sam, rho: {choice: [0.0, {log_uniform: [0.01, 0.5]}]}}\n")
    rhos = [config["method.rho"] for config in draws(searched)]
    assert 60 < rhos.count(0.0) < 140
    assert all(rho == 0.0 or 0.01 <= rho <= 0.5 for rho in rhos)
    assert searched.tree.encode({"method.rho": 0.1}) == {
        "method.rho.choice": "log_uniform 0.01 … 0.5",
        "method.rho": 0.1,
    }


def test_branches_without_names_go_by_what_they_fix() -> None:
    searched = space(
        "method: {name: sam}\n"
        "training:\n"
        "  choice:\n"
        "    - {optimizer: sgd, lr: {log_uniform: [0.01, 1.0]}}\n"
        "    - {optimizer: adamw, lr: {log_uniform: [1e-4, 1e-2]}, weight_decay: 0.05}\n"
    )
    for config in draws(searched):
        training = searched.trial(config).training
        assert config["training"].startswith(f"optimizer={training.optimizer}")
        assert training.weight_decay == (0.05 if training.optimizer == "adamw" else 5e-4)
        assert (training.lr <= 0.01) == (training.optimizer == "adamw") or training.lr == 0.01
    # The same key in two branches is two parameters of the sampler.
    names = {name for config in draws(searched) for name in searched.tree.encode(config)}
    assert names == {"training", "training.lr (optimizer=sgd)", "training.lr (optimizer=adamw, weight_decay=0.05)"}


def test_two_branches_may_have_the_same_name() -> None:
    searched = space("method: {choice: [{name: sam, p: inf}, {name: sam, m: 16, rho: {uniform: [0.1, 0.2]}}]}\n")
    assert {config["method"] for config in draws(searched)} == {"sam, p=inf", "sam, m=16"}
    method: Any = searched.trial({"method": "sam, m=16", "method.rho": 0.15}).method
    assert (method.p, method.m, method.rho) == (2.0, 16, 0.15)  # nothing of the other branch is left


def test_lists_are_searched_whole_or_item_by_item() -> None:
    whole = space("method: {name: sgd}\ntraining: {schedule: multi_step, milestones: {choice: [[3, 5], [4, 6]]}}\n")
    assert {config["training.milestones"] for config in draws(whole)} == {"3, 5", "4, 6"}
    assert whole.trial({"training.milestones": "4, 6"}).training.milestones == [4, 6]
    items = space(
        "method: {name: sgd}\ntraining: {schedule: multi_step, milestones: [{int: [3, 5]}, {expr: 'epochs // 2'}]}\n"
    )
    assert set().union(*draws(items)) == {"training.milestones.0"}
    assert items.trial({"training.milestones.0": 4}).training.milestones == [4, 10]


def test_keys_of_the_search_go_to_every_branch_that_has_them() -> None:
    searched = space(METHODS + "search: {method.rho_schedule: {choice: [constant, linear]}}\n")
    assert all(("method.rho_schedule" in config) == (config["method.name"] != "sgd") for config in draws(searched))


@pytest.mark.parametrize(
    "text",
    [
        METHODS,
        "method: {name: sam, rho: {choice: [0.0, {uniform: [0.1, 0.2], step: 0.05}]}}\n",
        "method: {name: sam}\ntraining: {lr: {expr: '2 * rho'}, milestones: {choice: [[1], [2]]}}\n",
        "method: {name: sam, rho: {grid: [0.1, 0.2]}}\nconstraints: ['rho < 0.15']\n",
    ],
)
def test_a_space_is_written_read_changed_and_sent_without_loss(text: str) -> None:
    searched = space(text)
    written = SearchSpace.from_text(searched.to_yaml(), "copy")
    assert written.model_dump() == searched.model_dump()
    assert written.search == searched.search
    for copy in (written, pickle.loads(pickle.dumps(searched)), searched.replace({"max_failures": 1})):
        for config in draws(searched, 20):
            assert copy.trial(config) == searched.trial(config)
            assert copy.tree.encode(config) == searched.tree.encode(config)


def test_every_draw_is_a_point_that_can_be_given_as_an_initial_one() -> None:
    searched = space(METHODS)
    for config in draws(searched, 20):
        again = space(METHODS).replace({"initial": [config]})
        assert again.tree.encode(again.initial[0]) == searched.tree.encode(config)


# -- set over ----------------------------------------------------------------------------------------------------------


def test_setting_the_name_takes_that_branch() -> None:
    assert set(space(METHODS, "method.name=sam").search) == {"method.rho", "method.m"}
    assert space(METHODS, "method.name=frob_sam").method.rho == 0.02
    assert space(METHODS, "method.name=asam").search == {}


def test_setting_a_key_fixes_it_in_every_branch_that_has_it() -> None:
    fixed = space(METHODS, "method.rho=0.3")
    for config in draws(fixed):
        assert "method.rho" not in config
        assert getattr(fixed.trial(config).method, "rho", 0.3) == 0.3
    assert "no choice of method has this key" in refusal(METHODS, "method.k=3")
    assert "training.lr" in space(METHODS, "training.lr={log_uniform: [0.1, 1]}").search


# -- expressions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expr", "value"),
    [
        ("5e-4 * lr / 0.1", 5e-4),
        ("training.lr", 0.1),
        ("min(lr, 0.05) + max(0, -1)", 0.05),
        ("sqrt(batch_size) / 2 ** 4", 128**0.5 / 16),
        ("0.3 if method.name == 'sam' else 0.1", 0.3),
        ("log(exp(0.25))", 0.25),
        ("abs(-rho)", 0.05),
        ("rho * num_workers", 0.05),
        ("floor(3.7) % 2 * 0.5", 0.5),
    ],
)
def test_expressions_are_arithmetic_over_the_trial_s_keys(expr: str, value: float) -> None:
    searched = space(f'method: {{name: sam}}\ntraining: {{lr: 0.1, weight_decay: {{expr: "{expr}"}}}}\n')
    assert searched.trial({}).training.weight_decay == pytest.approx(value, rel=1e-12)


def test_an_expression_may_use_another_and_follows_what_is_drawn() -> None:
    searched = space(
        "method: {name: frob_sam, lambda: {uniform: [0.1, 0.2]}, rho: {expr: 'lambda / 2'}}\n"
        "training: {lr: {expr: 'method.rho * 4'}}\n"
    )
    assert searched.trial({"method.lambda": 0.2}).training.lr == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("expr", "message"),
    [
        ("2 * weihgt_decay", "training.lr: unknown key 'weihgt_decay'; did you mean 'weight_decay'?"),
        ("2 * name", "'name' is ambiguous: write one of data.name, model.name, method.name"),
        ("lr + 1", "expressions go in a circle: training.lr -> training.lr"),
        ("1 / 0", "'1 / 0' has no value for these numbers: division by zero"),
        ("1 +", "is not an expression"),
        ("__import__('os')", "unknown function '__import__'"),
        ("(1).__class__", "a key is written section.key"),
        ("[1, 2]", "may use keys, numbers, + - * /"),
        ("9 ** 9 ** 9", "has no value"),
        ("-rho", "= -rho: must be greater than 0 (got -0.05)"),
        ("method.name", "= method.name: must be a valid number (got 'sam')"),
        ("k", "unknown key 'k'"),
        ("'a' * 10", "'a' is not a number"),
    ],
)
def test_an_expression_that_has_no_valid_value_is_refused(expr: str, message: str) -> None:
    said = refusal(f'method: {{name: sam}}\ntraining: {{lr: {{expr: "{expr}"}}}}\n')
    assert said.startswith("space.yaml:5: training.lr: ")
    assert message in said


def test_an_expression_that_only_some_trials_can_have_is_refused() -> None:
    said = refusal("method: {name: {choice: [sgd, sam]}}\ntraining: {lr: {expr: '2 * rho'}}\n")
    assert "training.lr: '2 * rho' uses method.rho, which the trial does not have" in said
    assert "in a circle: training.lr -> training.weight_decay -> training.lr" in refusal(
        "method: {name: sam}\ntraining: {lr: {expr: weight_decay}, weight_decay: {expr: lr}}\n"
    )


# -- constraints -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constraint", "config", "violation"),
    [
        ("method.rho <= training.lr", {"method.rho": 0.3, "training.lr": 0.1}, 0.2),
        ("method.rho <= training.lr", {"method.rho": 0.05, "training.lr": 0.1}, 0.0),
        ("0.1 <= rho <= 0.2", {"method.rho": 0.3, "training.lr": 0.1}, 0.1),
        ("rho < 0.1 and lr < 0.05", {"method.rho": 0.3, "training.lr": 0.1}, 0.25),
        ("rho < 0.1 or lr < 0.05", {"method.rho": 0.3, "training.lr": 0.1}, 0.05),
        ("not rho < 0.5", {"method.rho": 0.3, "training.lr": 0.1}, 1.0),
    ],
)
def test_a_constraint_is_missed_by_a_measure(constraint: str, config: dict[str, Any], violation: float) -> None:
    searched = space(
        "method: {name: sam, rho: {uniform: [0.01, 1]}}\ntraining: {lr: {uniform: [0.01, 1]}}\n"
        f"constraints: ['{constraint}']\n"
    )
    assert searched.violations(config) == [pytest.approx(violation)]


def test_a_constraint_does_not_hold_for_trials_without_its_keys() -> None:
    searched = space(METHODS + "constraints: ['rho <= 0.02']\n")
    assert searched.violations({"method.name": "sgd"}) == [0.0]
    assert searched.violations({"method.name": "sam", "method.rho": 0.05, "method.m": 16})[0] > 0


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ("['rho > 3']", "constraints: none of 2000 random configurations satisfies rho > 3"),
        ("['rho + 3']", "constraints.0: must be a condition, e.g. a <= b (got 'rho + 3')"),
        ("['rho < 1', 'roh < 1']", "constraints.1: unknown key 'roh'; did you mean 'rho'?"),
        ("['m <= 3']", "'m <= 3' has no value for m = 'worker'"),
        ("['rho <']", "constraints.0: is not an expression"),
    ],
)
def test_a_constraint_that_cannot_work_is_refused(constraints: str, message: str) -> None:
    assert message in refusal(f"method: {{name: sam, rho: {{uniform: [0.1, 0.2]}}}}\nconstraints: {constraints}\n")


def test_combinations_that_a_constraint_rules_out_need_not_fit_the_workers() -> None:
    text = "method: {name: sam, m: {choice: [16, 48]}}\ntraining: {batch_size: {choice: [64, 96]}}\n"
    assert "48" in refusal(text)
    assert space(text + "constraints: ['m == 16 or batch_size == 96']\n").num_trials == 16


# -- refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: {name: sam, rho: {log_unifrom: [1, 2]}}", "space.yaml:4: method.rho: a distribution is one of"),
        ("method: {name: sam, rho: {log_unifrom: [1, 2]}}", "(got 'log_unifrom'; did you mean 'log_uniform'?)"),
        ("method: {name: sam, roh: {uniform: [1, 2]}}", "space.yaml:4: method.roh: unknown key; did you mean 'rho'?"),
        ("method: {name: sam, rho: {uniform: [0, 1], stp: 1}}", "method.rho: uniform takes no 'stp'; valid is"),
        ("method: {name: sam, rho: {uniform: [0, 1], step: 0.3}}", "the last below 1 is 0.9"),
        ("method: {name: sam, rho: {log_uniform: [0.1, 1], step: 0.1}}", "log_uniform has no step (got 0.1)"),
        ("method: {name: sam, rho: {uniform: [-1, 1]}}", "method.rho: must be greater than or equal to 0 (a bound"),
        (
            "method: {choice: [{name: sgd}, {name: sam, roh: 3}]}",
            "method.roh (in branch sam): unknown key; did you",
        ),
        ("method: {choice: [{name: sgd}, {name: sam, roh: {int: [1, 2]}}]}", "method.roh (in branch sam): unknown key"),
        (
            "method: {choice: [{name: sgd}, {name: sam, rho: -3}]}",
            "method.rho (in branch sam): must be greater than or equal",
        ),
        ("method: {choice: [{name: sam, rho: -3}]}", "method.rho (in branch sam): must be greater than or equal"),
        (
            "method: {choice: [{name: sgd}, {name: smm}]}",
            "space.yaml:4: method (in branch smm): unknown name 'smm'; did you mean 'sam'?",
        ),
        ("method: {choice: [{name: sgd}], m: 3}", "method: choice takes no 'm'; keys of a branch stand in its"),
        ("method: {choice: [1, 2]}", "method: as a whole it is a choice between mappings"),
        ("method: {name: sam}\nsearch: {method: {choice: [{name: sgd}]}}", "search.method: method is fixed too"),
        (
            "method: {name: sam, rho: {grid: [0.1]}}\ntraining: {lr: {uniform: [0.1, 1]}}",
            "training.lr: sampler grid needs",
        ),
        ("method: {name: sam, rho: {grid: [0.1]}}\nsampler: {name: tpe}", "method.rho: grid needs sampler grid"),
        ("method: {name: sam, lambda: 0.1}", "space.yaml:4: method.lambda: unknown key"),
        ("method: {choice: [sgd, sgd]}", "method: choice lists a value twice (got 'sgd')"),
        (
            "method: {choice: [sgd, {name: sam, rho: 0.1}, asam]}\nsearch: {method.rho: {int: [1, 3]}}",
            "search.method.rho: is also set in a branch of method",
        ),
        (
            "method:\n  choice:\n    - {name: asam, m: 8}\n    - {name: sam, m: 24}",
            "space.yaml:7: method.m (in branch sam): m",
        ),
        ("method: sam\nsearch: [a]", "space.yaml:5: search: must be a mapping of dotted keys"),
        ("method: 3", "space.yaml:4: method: must be a mapping of keys to values (got 3)"),
        (
            "method:\n  choice:\n    - sgd\n    - {name: sam, m: 24}",
            "space.yaml:7: method.m (in branch sam): m must divide",
        ),
        (
            "method:\n  choice:\n    - sgd\n    - name: sam\n      m: {choice: [worker, 24]}",
            "space.yaml:8: method.m (in branch sam): m must divide",
        ),
        (METHODS + "initial: [{method.rho: 3.0}]", "initial.0.method.rho: must lie in the searched log_uniform"),
        (METHODS + "initial: [{method.name: asam}]", "initial.0.method.name: must lie in the searched choice"),
        (
            "method: {name: sam, rho: {int: [1, 2]}}\nsearch: {method.rho: {int: [1, 3]}}",
            "method.rho: is searched in the",
        ),
        (f"{METHODS}search: {{method.rho: {{int: [1, 3]}}}}", "search.method.rho: is searched with method too"),
        (f"{METHODS}search: {{method.name: {{choice: [sgd]}}}}", "search.method.name: is searched with method too"),
        (METHODS + "scheduler: {name: pbt}", "pbt needs a searched key that can change while a trial runs"),
    ],
)
def test_a_mistake_is_named_where_it_was_written(text: str, message: str) -> None:
    assert message in refusal(text + "\n")


@pytest.mark.parametrize(
    ("point", "problem"),
    [
        (
            {"method.rho": 0.2},
            "(got 0.2); say which branch is meant with method.name (choice sam, asam, sgd, universal)",
        ),
        ({"method.name": "sgd", "method.rho": 0.2}, "the point's branches do not search it"),
        ({"method.name": "asam", "method.rho": 0.05}, "or not at this value (got 0.05)"),
        ({"method.name": "asam", "method.rho": 0.2}, ""),
        ({"method.rho": 0.2, "method.lambda": 0.3}, ""),
        ({"method.name": "sam", "method.rho": 0.05}, ""),
    ],
)
def test_no_key_of_an_initial_point_is_overlooked(point: dict[str, Any], problem: str) -> None:
    branches = (
        "{name: sam, rho: {log_uniform: [0.01, 0.5]}}, {name: asam, rho: {log_uniform: [0.1, 5]}}, sgd, "
        "{name: universal, rho: {log_uniform: [0.01, 0.5]}, lambda: {uniform: [0, 1]}}"
    )
    text = f"method: {{choice: [{branches}]}}\ninitial: [{json.dumps(point)}]\n"
    if problem:
        message = refusal(text)
        assert "initial.0.method.rho: " in message
        assert problem in message
    else:
        assert len(space(text).tree.encode(point)) == len({"method.name", *point})


LISTED = "search: {method: {choice: [{name: sgd}, {name: sam, rho: {uniform: [0.1, 1]}}]}}\n"
BOTH = """
method: sam
search: {method.rho: {uniform: [0.1, 0.5]}, training.lr: {uniform: [0.1, 0.5]}}
initial: [{method.rho: 0.2}]
"""
LR = {"training.lr": "uniform 0.1 … 0.5"}


@pytest.mark.parametrize(
    ("text", "override", "searched"),
    [
        # One key, searched inline or in a list, under either of its names.
        (
            "method: {name: sam, rho: {uniform: [0.1, 1]}}",
            "search.method.rho={int: [1, 2]}",
            {"method.rho": "int 1 … 2"},
        ),
        (
            "method: {name: sam, rho: {uniform: [0.1, 1]}}",
            "search={method.rho: {int: [1, 2]}}",
            {"method.rho": "int 1 … 2"},
        ),
        (
            "method: sam\ntraining: {schedule: multi_step, milestones: [{int: [5, 10]}, 15], epochs: 20}",
            "search.training.milestones.0={int: [3, 8]}",
            {"training.milestones.0": "int 3 … 8"},
        ),
        (
            "method: {name: frob_sam, lam: {uniform: [0.1, 1]}}",
            "search.method.lambda={uniform: [0.2, 0.3]}",
            {"method.lambda": "uniform 0.2 … 0.3"},
        ),
        ("method: {name: frob_sam, lam: {uniform: [0.1, 1]}}", "method.lam=0.3", {}),
        # A whole section, over keys listed under search.
        (BOTH, "method={name: sam, rho: {uniform: [0.0, 0.1]}}", {"method.rho": "uniform 0 … 0.1"} | LR),
        (BOTH, "method={choice: [sgd, {name: sam, rho: 0.1}]}", {"method": "choice sgd, sam"} | LR),
        (BOTH, "search.method={choice: [sgd, asam]}", {"method": "choice sgd, asam"} | LR),
        (BOTH, "training={lr: 0.3, epochs: 3}", {"method.rho": "uniform 0.1 … 0.5"}),
        # A section that is searched as a whole, inline or listed.
        ("method: {choice: [sgd, sam]}", "search={method: {choice: [sgd, asam]}}", {"method": "choice sgd, asam"}),
        (LISTED, "method=sgd", {}),
        (LISTED, "method=sam", {"method.rho": "uniform 0.1 … 1"}),
        (LISTED, "method.name=sam", {"method.rho": "uniform 0.1 … 1"}),
        (LISTED, "method={name: sgd}", {}),
        (LISTED, "search.method={choice: [sgd, asam]}", {"method": "choice sgd, asam"}),
        (
            "method: {choice: [{choice: [sgd, {name: sam, rho: {int: [1, 2]}}]}, asam]}",
            "method=sam",
            {"method.rho": "int 1 … 2"},
        ),
    ],
)
def test_what_is_set_stands_instead_of_all_that_the_file_says_of_the_key(
    text: str, override: str, searched: dict[str, str]
) -> None:
    assert {key: str(node) for key, node in space(text + "\n", override).search.items()} == searched


def test_setting_a_key_in_branches_reaches_those_of_a_choice_within_a_choice() -> None:
    text = "method: {choice: [{choice: [sgd, {name: sam, rho: {int: [1, 2]}}]}, asam]}\n"
    fixed = space(text, "method.rho=0.2")
    assert {spec.method.name: getattr(spec.method, "rho", None) for spec in map(fixed.trial, draws(fixed))} == {
        "sgd": None,
        "sam": 0.2,
        "asam": 0.2,
    }


def test_a_name_alone_stands_for_its_section() -> None:
    short = space("method: {choice: [sgd, {name: sam, rho: {uniform: [0, 1]}}]}\nsampler: random\nscheduler: asha\n")
    spelt = space(
        "method: {choice: [{name: sgd}, {name: sam, rho: {uniform: [0, 1]}}]}\n"
        "sampler: {name: random}\nscheduler: {name: asha}\n"
    )
    assert short.model_dump() == spelt.model_dump()
    assert space("search: {method: {choice: [sgd, sam]}}\n").distributions()[0][0] == "method"
    assert "method: unknown name 'smm'; did you mean 'sam'?" in refusal("method: smm\n")


def test_a_name_may_be_set_in_place_of_its_section() -> None:
    sgd = space("method: {name: sam, rho: {uniform: [0, 1]}}\n").replace({"method": "sgd", "scheduler": "asha"})
    assert (sgd.method.name, sgd.scheduler.name, sgd.search) == ("sgd", "asha", {})
    wide = "name: t\ndata: digits\nmodel: {name: digits_cnn, width: 32}\nmethod: sam\n"
    wide += "sampler: {name: tpe, num_startup_trials: 6}\n"
    for key in ("model", "model.name"):  # keeps what the new name has too
        assert space("", f"{key}=mlp", head=wide).model.name == "mlp"
        assert space("", f"{key}=digits_cnn", head=wide).model.width == 32  # type: ignore[union-attr]
    for key in ("sampler", "sampler.name"):
        assert space("", f"{key}=random", head=wide).sampler.name == "random"
        assert space("", f"{key}=tpe", head=wide).sampler.num_startup_trials == 6  # type: ignore[union-attr]


def test_an_initial_point_must_keep_the_constraints() -> None:
    text = "method: {name: sam, rho: {uniform: [0.1, 0.5]}}\nconstraints: ['rho < 0.3']\ninitial: [{method.rho: 0.4}]\n"
    assert "initial.0: breaks the constraint rho < 0.3" in refusal(text)


@pytest.mark.parametrize(("written", "kept"), [("lam", "lambda"), ("num_directions", "num_samples")])
def test_other_names_of_keys_are_understood(written: str, kept: str) -> None:
    searched = space(f"method: {{name: frob_sam, {written}: {{int: [2, 4]}}}}\ninitial: [{{method.{written}: 3}}]\n")
    assert list(searched.search) == [f"method.{kept}"]
    assert searched.initial == [{f"method.{kept}": 3}]
    assert searched.trial({f"method.{kept}": 3}).params()[f"method.{kept}"] == 3
