"""Search spaces: what they accept, what they refuse and in which words, and the trials they resolve to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from samtune import SearchSpace
from samtune.config.builtin_spaces import builtin_spaces, summary
from samtune.errors import SpaceError

SMALL = """\
name: small
data: {name: digits}
model: {name: digits_cnn}
method: {name: sam, rho: 0.05}
training:
  epochs: 2
  batch_size: 64
search:
  method.rho: {log_uniform: [0.01, 0.5]}
"""


def refusal(tmp_path: Path, text: str, *overrides: str) -> str:
    """What is said about a space file, without the folder."""
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(SpaceError) as caught:
        SearchSpace.from_yaml(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message.removeprefix(f"{tmp_path}/")


def small(*overrides: str) -> SearchSpace:
    return SearchSpace.from_dict(yaml.safe_load(SMALL), overrides)


# -- refused, with file, line, dotted key, rule, value and the nearest valid key -------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: small", "name: small\nlayers: 3", "space.yaml:2: layers: unknown key"),
        ("epochs: 2", "epoch: 2", "space.yaml:6: training.epoch: unknown key; did you mean 'epochs'?"),
        ("epochs: 2", "epochs: 0", "space.yaml:6: training.epochs: must be greater than or equal to 1 (got 0)"),
        ("epochs: 2", "epochs: two", "space.yaml:6: training.epochs: must be a valid integer (got 'two')"),
        ("epochs: 2", "lr: -1", "space.yaml:6: training.lr: must be greater than 0 (got -1)"),
        ("epochs: 2", "schedule: cosin", "must be 'cosine', 'linear', 'multi_step' or 'constant' (got 'cosin'"),
        ("rho: 0.05", "rho: -0.1", "space.yaml:4: method.rho: must be greater than or equal to 0 (got -0.1)"),
        ("rho: 0.05", "roh: 0.1", "space.yaml:4: method.roh: unknown key; did you mean 'rho'?"),
        ("name: sam", "name: smm", "space.yaml:4: method: unknown name 'smm'; did you mean 'sam'?"),
        ("name: sam, ", "", "space.yaml:4: method: needs a name"),
        ("name: digits}", "name: digit}", "space.yaml:2: data: unknown name 'digit'; did you mean 'digits'?"),
        ("data: {name: digits}\n", "", "space.yaml: data: is required"),
        (
            "[0.01, 0.5]",
            "[0.5, 0.01]",
            "space.yaml:9: search.method.rho: low must be less than high: the interval [0.5, 0.01] is inverted",
        ),
        ("[0.01, 0.5]", "[0.1, 0.1]", "the interval [0.1, 0.1] is empty"),
        ("[0.01, 0.5]", "[0, 0.5]", "space.yaml:9: search.method.rho: log_uniform needs bounds greater than 0"),
        ("[0.01, 0.5]", "[0.01]", "search.method.rho: log_uniform takes two bounds, [low, high] (got [0.01])"),
        ("[0.01, 0.5]", "[0.01, .inf]", "search.method.rho: bounds must be finite"),
        ("log_uniform:", "log_unifrom:", "(got 'log_unifrom'; did you mean 'log_uniform'?)"),
        ("method.rho: {", "method.roh: {", "space.yaml:9: search.method.roh: unknown key; did you mean 'rho'?"),
        ("method.rho: {", "rho: {", "search.rho: unknown key; a searched key is in data, model, method, training"),
        (
            "method.rho: {log_uniform: [0.01, 0.5]}",
            "training.momentum: {uniform: [0.5, 1.5]}",
            "search.training.momentum: must be less than 1 (a bound or choice is 1.5)",
        ),
        (
            "method.rho: {log_uniform: [0.01, 0.5]}",
            "training.batch_size: {choice: [64, 64]}",
            "search.training.batch_size: choice lists a value twice (got 64)",
        ),
        (
            "method.rho: {log_uniform: [0.01, 0.5]}",
            "method.name: {choice: [sam, adma]}",
            "search.method.name: unknown name 'adma'; did you mean",
        ),
        ("epochs: 2", "epochs: 2\n  epochs: 3", "space.yaml:7:3: not valid YAML: the key 'epochs' stands twice"),
        ("data: {name: digits}", "data: {name: digits", "not valid YAML"),
        ("data: {name: digits}", "data: [1, 2", "not valid YAML"),
        (SMALL, "", "must be a mapping with the keys name, data"),
        (SMALL, "- 1\n", "must be a mapping with the keys name, data"),
    ],
)
def test_a_bad_space_gets_one_line_that_names_key_rule_and_value(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in SMALL
    assert message in refusal(tmp_path, SMALL.replace(old, new))


MISTAKES = """\
name: x
data: digits
model: {name: mlp, wdith: 3}
method: {name: sam, rho: {log_uniform: [0.01, 0.5]}}
training: {epochs: 0, batch_size: 32, lr: {log_unform: [0.1, 1]}}
search:
  training.learning: {uniform: [0, 1]}
  method.rhoo: {uniform: [0, 1]}
  training.momentum: {uniform: [1, 0]}
constraints: [rhoo <= 0.3, rho <= lr]
initial: [{method.rhoo: 0.1}]
objective: {metric: val_acuracy}
scheduler: ashaa
num_trials: -1
"""


def test_all_problems_are_found_in_one_run_and_none_that_comes_of_another(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(MISTAKES)
    with pytest.raises(SpaceError) as caught:
        SearchSpace.from_yaml(tmp_path / "space.yaml")
    found = [line.removeprefix(f"{tmp_path}/space.yaml:") for line in str(caught.value).splitlines()]
    assert [line.partition(": ")[0] + ": " + line.split(": ")[1] for line in found] == [
        "3: model.wdith",
        "5: training.lr",
        "5: training.epochs",
        "7: search.training.learning",
        "8: search.method.rhoo",
        "9: search.training.momentum",
        "13: scheduler",
        "14: num_trials",
    ]


def test_a_problem_that_was_held_back_is_found_when_the_others_are_mended(tmp_path: Path) -> None:
    """What was held back above, since it may come of others, is found once these are mended."""
    mended = MISTAKES.replace("rhoo", "rho").replace("method.rho: {uniform: [0, 1]}", "method.m: {choice: [8, 16]}")
    for wrong, right in (
        ("log_unform", "log_uniform"),
        ("[1, 0]", "[0, 0.9]"),
        ("  training.learning: {uniform: [0, 1]}\n", ""),
    ):
        mended = mended.replace(wrong, right)
    (tmp_path / "space.yaml").write_text(mended.replace("wdith", "width").replace("epochs: 0", "epochs: 1"))
    with pytest.raises(SpaceError, match="unknown metric 'val_acuracy'; did you mean 'val_accuracy'"):
        SearchSpace.from_yaml(tmp_path / "space.yaml", ["scheduler=asha", "num_trials=4"])


def test_yaml_that_does_not_parse_names_line_and_column(tmp_path: Path) -> None:
    assert refusal(tmp_path, "name: x\ndata: ]\n").startswith("space.yaml:2:7: not valid YAML")


def test_an_initial_point_outside_the_search_is_refused(tmp_path: Path) -> None:
    text = SMALL + "initial:\n  - {method.rho: 0.1}\n  - {method.rho: 2.0}\n"
    message = "space.yaml:12: initial.1.method.rho: must lie in the searched log_uniform 0.01 … 0.5 (got 2.0)"
    assert refusal(tmp_path, text) == message
    text = SMALL + "initial:\n  - {training.lr: 0.1}\n"
    assert "initial.0.training.lr: is not a searched key" in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.batch_size=63", "resources.num_workers=2"], "63"),
        (["method.m=24"], "24"),
        (["method.m=48", "resources.num_workers=2"], "48"),
        (["search.training.batch_size={choice: [64, 63]}", "resources.num_workers=2"], "63"),
        (["search.method.m={choice: [worker, 24]}"], "24"),
    ],
)
def test_a_batch_or_m_that_does_not_fit_the_workers_is_refused(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    said = refusal(tmp_path, SMALL, *overrides)
    assert message in said
    assert "batch_size" in said


def test_a_file_that_is_missing_names_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpaceError, match=r"cifra\.yaml: no such search space.*did you mean 'cifar'") as caught:
        SearchSpace.from_yaml("cifra.yaml")
    assert str(tmp_path / "cifra.yaml") in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs", "--set training.epochs: must be dotted.key=value"),
        ("=3", "must be dotted.key=value"),
        ("training.epochs=[1", "the value is not valid YAML"),
        ("training.epochs.x=1", "has no keys below it"),
        ("training.epcohs=1", "space.yaml with --set training.epcohs: unknown key; did you mean 'epochs'?"),
        ("training.epochs=0", "space.yaml with --set training.epochs: must be greater than or equal to 1 (got 0)"),
        ("method.name=adamw", "method.name: adamw needs training.optimizer adamw (it is sgd)"),
        (
            "method={name: momentum_sam}#training.momentum=0",
            "momentum_sam needs training.optimizer sgd with momentum > 0",
        ),
        ("method.m=workers", "method.m: must be a valid integer, or 'worker' or 'global' (got 'workers')"),
    ],
)
def test_a_bad_override_is_refused(tmp_path: Path, override: str, message: str) -> None:
    assert message in refusal(tmp_path, SMALL, *override.split("#"))


# -- accepted --------------------------------------------------------------------------------------------


def test_numbers_are_read_as_people_write_them() -> None:
    space = small("training.weight_decay=1e-4", "training.lr=1", "method.rho=5e-2")
    assert space.training.weight_decay == 0.0001
    assert space.training.lr == 1.0
    assert space.method.rho == 0.05


def test_setting_a_searched_key_fixes_it() -> None:
    space = small("initial=[{method.rho: 0.1}]", "method.rho=0.2")
    assert space.search == {}
    assert space.initial == [{}]
    assert space.trial({}).method.rho == 0.2


def test_a_trial_is_the_space_with_the_searched_keys_set() -> None:
    space = small("seed=7")
    trial = space.trial({"method.rho": 0.3})
    assert trial.method.rho == 0.3
    assert trial.seed == 7
    assert trial.params()["training.epochs"] == 2
    assert trial.params()["method.name"] == "sam"
    with pytest.raises(SpaceError, match=r"method\.rho"):
        space.trial({"method.rho": -1.0})


def test_a_searched_method_has_only_its_own_keys() -> None:
    space = small("search.method.name={choice: [sgd, sam]}")
    assert next(key for key, _ in space.distributions()) == "method.name"
    assert space.is_active("method.rho", {"method.name": "sam"})
    assert not space.is_active("method.rho", {"method.name": "sgd"})
    assert space.trial({"method.name": "sgd"}).num_passes == 2.0
    assert space.trial({"method.name": "sam", "method.rho": 0.1}).num_passes == 4.0


def test_the_written_space_reads_as_an_equal_one(tmp_path: Path) -> None:
    space = SearchSpace.from_yaml("digits.yaml", ["num_trials=3"])
    path = tmp_path / "copy.yaml"
    path.write_text(space.to_yaml())
    assert SearchSpace.from_yaml(path).model_dump() == space.model_dump()


def test_the_written_space_has_no_value_beside_a_search() -> None:
    space = small(
        "method.rho=0.07",
        "search={method.rho: {log_uniform: [0.01, 0.5]}, training.lr: {log_uniform: [0.01, 0.5]}}",
        "training.groups=[{match: .*bias, lr_factor: {uniform: [0.5, 2.0]}}]",
    )
    written = yaml.safe_load(space.to_yaml())
    assert "rho" not in written["method"]
    assert "lr" not in written["training"]
    assert written["training"]["groups"][0].keys() == {"match", "weight_decay", "weight_decay_factor", "rho_factor"}
    assert written["search"].keys() == {"method.rho", "training.lr", "training.groups.0.lr_factor"}
    copy = SearchSpace.from_text(space.to_yaml(), "copy")
    assert copy.model_dump() == space.model_dump()
    config = {"method.rho": 0.2, "training.lr": 0.3, "training.groups.0.lr_factor": 1.5}
    assert copy.trial(config) == space.trial(config)


def test_each_searched_method_keeps_its_own_defaults_in_the_written_space() -> None:
    """asam's rho is 0.5, sam's 0.05: a default of one of them that is written would be the other's value too."""
    space = small("method={name: {choice: [sam, asam, gsam]}, m: 4, eta: 0.3, alpha: 0.2}", "search={}")
    copy = SearchSpace.from_text(space.to_yaml(), "copy")
    assert yaml.safe_load(space.to_yaml())["method"] == {"m": 4, "eta": 0.3, "alpha": 0.2}
    for name, rho in (("sam", 0.05), ("asam", 0.5), ("gsam", 0.05)):
        assert getattr(copy.trial({"method.name": name}).method, "rho", None) == rho
        assert copy.trial({"method.name": name}) == space.trial({"method.name": name})


def test_replace_changes_keys_and_validates() -> None:
    space = small().replace({"num_trials": 5, "resources.num_workers": 2})
    assert (space.num_trials, space.resources.num_workers) == (5, 2)
    with pytest.raises(SpaceError, match=r"resources\.num_workers"):
        space.replace({"resources.num_workers": 0})
    with pytest.raises(SpaceError, match="batch_size"):
        space.replace({"resources.num_workers": 3})


def test_a_file_in_the_working_directory_goes_before_the_built_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert SearchSpace.from_yaml("digits.yaml").name == "digits"
    (tmp_path / "digits.yaml").write_text(SMALL)
    assert SearchSpace.from_yaml("digits.yaml").name == "small"


# -- shipped ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", builtin_spaces())
def test_every_key_of_a_shipped_space_has_a_comment(name: str) -> None:
    text = builtin_spaces()[name].read_text()
    bare = [
        line
        for line in text.splitlines()
        if ":" in line
        and not line.startswith("#")
        and "#" not in line
        and not line.rstrip().endswith(":")
        and not line.strip().startswith(("- {", "- name:"))
    ]
    assert bare == []
    assert len(summary(builtin_spaces()[name])) > 20
    SearchSpace.from_yaml(builtin_spaces()[name])


def test_the_paper_s_values_are_the_first_initial_point_of_cifar() -> None:
    space = SearchSpace.from_yaml("cifar.yaml")
    assert space.initial[0] == {"method.rho": 0.05, "training.lr": 0.1, "training.weight_decay": 5e-4}
    model: Any = space.model
    assert (model.depth, model.width) == (28, 10)
    assert (space.training.batch_size, space.training.epochs, space.training.schedule) == (256, 200, "cosine")


def test_reading_a_space_loads_neither_torch_nor_ray_nor_mlflow() -> None:
    code = (
        "import sys; from samtune import SearchSpace; SearchSpace.from_yaml('cifar.yaml').trial({}); "
        "print([m for m in ('torch', 'ray', 'mlflow', 'optuna', 'numpy', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_another_method_leaves_behind_what_it_does_not_have() -> None:
    space = SearchSpace.from_yaml("digits.yaml", ["method.name=sgd"])
    assert space.trial({}).num_passes == 12
    assert set(space.search) == {"training.lr", "training.weight_decay"}
    assert set(space.initial[0]) == {"training.lr", "training.weight_decay"}
    with pytest.raises(SpaceError, match=r"method\.rho: unknown key"):
        SearchSpace.from_yaml("digits.yaml", ["method.name=sgd", "method.rho=0.1"])


def test_an_empty_search_can_be_filled_by_an_override(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(SMALL.replace("  method.rho: {log_uniform: [0.01, 0.5]}\n", ""))
    space = SearchSpace.from_yaml(path, ["search.training.lr={uniform: [0.1, 0.2]}"])
    assert list(space.search) == ["training.lr"]


def test_the_search_goes_the_way_that_the_metric_says() -> None:
    assert small().objective.mode == "max"
    assert small("objective.metric=val_loss").objective.mode == "min"
    assert small("objective.metric=val_loss", "objective.mode=max").objective.mode == "max"
    assert small("objective={metric: train_accuracy}").objective.mode == "max"


def test_a_wide_search_is_validated_in_no_time() -> None:
    space = small("search.training.batch_size={int: [32, 1000000000]}", "resources.num_workers=2")
    assert space.search["training.batch_size"].high == 1_000_000_000


def test_the_given_keys_are_those_written_and_those_searched() -> None:
    text = SMALL + "  training.lr: {log_uniform: [0.01, 0.5]}\n"
    space = SearchSpace.from_text(text, "small.yaml", {"training.momentum": 0.8})
    written = ["data.name", "model.name", "method.name", "training.epochs", "training.batch_size", "training.momentum"]
    assert space.given_keys == [*written, "method.rho", "training.lr"]
    branches = SearchSpace.from_text(
        text.replace("{name: sam, rho: 0.05}", "{choice: [{name: sam}, {name: sgd}]}").replace(
            "  method.rho: {log_uniform: [0.01, 0.5]}\n", ""
        ),
        "small.yaml",
    )
    assert [key for key in branches.given_keys if key.startswith("method")] == ["method"]


def test_a_key_where_none_is_free_says_where_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        SpaceError, match=r"model\.width: unknown key; .*; what .* takes itself goes into model\.options"
    ):
        SearchSpace.from_yaml("digits.yaml", ["model={name: 'my.py:net', width: 3}"])
    with pytest.raises(SpaceError, match=r"width: unknown key; .* function reads goes into config\.width"):
        SearchSpace.from_dict({"name": "t", "train": "my.py:train", "width": 3, "training": {"epochs": 1}})
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").touch()
    with pytest.raises(SpaceError, match=r"^mine\.yml: no such search space: .*; did you mean 'mine\.yaml'\?$"):
        SearchSpace.from_yaml("mine.yml")


def test_whether_more_of_an_own_metric_is_better_is_told_by_its_name_or_asked_for() -> None:
    own = {"name": "t", "train": "my.py:train", "method": "sam", "training": {"epochs": 1}}
    for metric, mode in {"f1_macro": "max", "val_top5": "max", "val_loss": "min", "accuracy_of_b": "max"}.items():
        assert SearchSpace.from_dict({**own, "objective": {"metric": metric}}).objective.mode == mode
    with pytest.raises(SpaceError, match=r"the name 'quality' does not tell what is better; set mode: max or min$"):
        SearchSpace.from_dict({**own, "objective": [{"metric": "val_loss"}, {"metric": "quality"}]})
    space = SearchSpace.from_dict({**own, "objective": {"metric": "quality", "mode": "max"}})
    assert SearchSpace.from_text(space.to_yaml(), "stored").objective == space.objective
