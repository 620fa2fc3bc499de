"""The user's own functions in a space."""

from __future__ import annotations

from pathlib import Path

import pytest

from samtune import user_code
from samtune.config.space import SearchSpace
from samtune.errors import UsageError
from samtune.experiments.tuner import Tuner
from samtune.user_code import (
    functions_in,
    given_functions,
    given_in,
    name_function,
    resolve_function,
    use_script,
)


def make_net(num_classes: int, input_shape: tuple[int, ...]) -> None: ...


def make_data() -> None: ...


def loss(outputs: object, targets: object) -> None: ...


def test_functions_may_stand_in_a_space_and_its_yaml_names_them() -> None:
    space = SearchSpace.from_dict(
        {
            "name": "own",
            "model": {"name": make_net, "options": {"width": 3}},
            "data": make_data,
            "method": {"name": "sam"},
            "training": {"loss": loss, "metrics": [make_net, make_data]},
        }
    )
    assert (space.model.name, space.data.name) == ("given:make_net", "given:make_data")
    assert space.training.metrics == ["given:make_net", "given:make_data"]
    assert "name: given:make_net" in space.to_yaml()
    params = space.trial({}).params()
    assert given_functions(params.values()) == {
        "given:make_net": make_net,
        "given:make_data": make_data,
        "given:loss": loss,
    }
    assert resolve_function("given:make_net", "model.name") is make_net


def test_a_pair_of_data_becomes_a_function_that_returns_it() -> None:
    pair = ([1], [2])
    path = name_function(pair, "data")
    assert path == "given:data"
    assert resolve_function(path, "data.name")() is pair


def test_a_lambda_is_called_by_what_it_is_for() -> None:
    assert name_function(lambda: None, "loss") == "given:loss"


def test_a_function_that_this_process_was_not_given() -> None:
    with pytest.raises(UsageError, match=r"model.name: given:other is a Python object of the process that began"):
        resolve_function("given:other", "model.name")


@pytest.mark.parametrize(
    ("metrics", "taken"), [(["own:accuracy"], "accuracy"), (["a:f", "b:f"], "f"), ([lambda: 0, lambda: 1], "metrics")]
)
def test_two_metrics_of_one_name_are_refused(metrics: list[object], taken: str) -> None:
    with pytest.raises(UsageError, match=rf"training.metrics: .* {taken} is taken"):
        SearchSpace.from_dict(
            {
                "name": "own",
                "data": {"name": "digits"},
                "model": {"name": "digits_cnn"},
                "method": {"name": "sam"},
                "training": {"metrics": metrics},
            }
        )


def test_functions_in_the_keys_of_a_training_function() -> None:
    tuner = Tuner({"name": "own", "method": "sam", "config": {"make": make_net, "label": "a:b"}}, train=loss)
    space = tuner.space
    assert (space.train, space.config) == ("given:loss", {"make": "given:make_net", "label": "a:b"})
    assert given_in(space.config)["make"] is make_net
    assert functions_in(space.model_dump()) == []  # what stands in `config` is the function's own business
    replaced = Tuner(SearchSpace.from_yaml("digits.yaml"), train=loss).space
    assert (replaced.train, "model" in replaced.model_dump()) == ("given:loss", False)


def test_a_function_in_a_file_is_named_by_an_absolute_path_in_a_study(tmp_path: Path) -> None:
    space = {"name": "own", "train": "code/my.py:train", "method": "sam", "folder": str(tmp_path)}
    assert Tuner(space).space.train == f"{tmp_path}/code/my.py:train"
    assert functions_in(Tuner(space).space.model_dump()) == [("train", f"{tmp_path}/code/my.py:train")]


SCRIPT = """
from samtune import SearchSpace, Tuner

def script_net(num_classes, input_shape):
    return None

space = SearchSpace.from_dict({"name": "x", "data": "digits", "model": script_net, "method": "sam",
                               "training": {"loss": lambda outputs, targets: 0}})

if __name__ == "__main__":
    raise AssertionError("it was run")
"""


def test_a_script_has_what_it_puts_into_a_space_and_what_is_at_its_top_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_code, "_given", {})
    monkeypatch.setattr(user_code, "_scripts", [])
    script = tmp_path / "a_script_of_mine.py"
    script.write_text(SCRIPT)
    use_script(str(script))
    assert resolve_function("given:script_net", "model.name").__module__ == "a_script_of_mine"
    assert resolve_function("given:loss", "training.loss")(1, 2) == 0
    with pytest.raises(UsageError, match=r"given:other is neither at the top level of .*a_script_of_mine.py nor in a"):
        resolve_function("given:other", "model.name")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "code .*: is not there, or no file"),
        ("x = 1 / 0\n", r"code .*: bad_script_\d.py:1: ZeroDivisionError: division by zero"),
        (
            f"{SCRIPT}\nTuner(space).fit()\n",
            'code .*: it starts a study as it is imported: put that below `if __name__ == "__main__":`',
        ),
    ],
)
def test_a_script_that_cannot_be_imported_is_one_line(text: str | None, problem: str, tmp_path: Path) -> None:
    script = tmp_path / f"bad_script_{len(problem) % 10}.py"
    if text is not None:
        script.write_text(text)
    with pytest.raises(UsageError, match=problem):
        use_script(str(script))
