"""A function is looked up by its source: nothing of a stranger's runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from samtune.errors import UsageError
from samtune.user_source import check_named, look_up, named_functions

SOURCE = """
from pathlib import Path
Path({mark!r}).touch()
NUMBER = 3
alias = None or Path
def plain(num_classes, *, input_shape, width=8): ...
def anything(*args, **kwargs): ...
@staticmethod
def decorated(): ...
class Net: ...
if NUMBER:
    def conditional(a): ...
else:
    from os import path as conditional
try:
    from os import system
except ImportError:
    pass
"""


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that must not appear."""
    (tmp_path / "looked_up.py").write_text(SOURCE.format(mark=str(tmp_path / "ran")))
    (tmp_path / "looked_up_broken.py").write_text("def f(:\n")
    (tmp_path / "looked_up_dynamic.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom os.path import *\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield tmp_path / "ran"
    assert not (tmp_path / "ran").exists()
    assert "looked_up" not in sys.modules


@pytest.mark.parametrize(
    ("path", "kwargs"),
    [
        ("looked_up:plain", {"num_classes": 2, "input_shape": (1,)}),
        ("looked_up:anything", {"x": 1}),
        ("looked_up:decorated", {"x": 1}),
        ("looked_up:Net", {"x": 1}),
        ("looked_up:alias", {}),
        ("looked_up:system", {"command": "touch"}),
        ("looked_up_dynamic:join", {}),
        ("os:system", {"command": "touch"}),
        ("sys:exit", {}),
        ("torch.nn:Linear", {}),
    ],
)
def test_what_may_well_be_a_function_passes(mark: Path, path: str, kwargs: dict[str, Any]) -> None:
    look_up(path, "model.name", **kwargs)


@pytest.mark.parametrize(
    ("path", "kwargs", "message"),
    [
        ("looked_upp:plain", {}, "cannot be imported: No module named 'looked_upp'"),
        ("looked_up.inner:plain", {}, "cannot be imported: No module named 'looked_up.inner'"),
        ("looked_up:plian", {}, r"cannot be imported: .*looked_up\.py has no plian"),
        ("looked_up:NUMBER", {}, r"must be a function or a class \(it is of type int\)"),
        ("looked_up:plain", {"num_classes": 2}, "missing a required .*argument: 'input_shape'"),
        ("looked_up:plain", {"num_classes": 2, "input_shape": (1,), "depth": 3}, "unexpected keyword argument 'depth'"),
        ("looked_up_broken:f", {}, "cannot be imported: SyntaxError"),
    ],
)
def test_most_mistakes_are_found(mark: Path, path: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        look_up(path, "model.name", **kwargs)
    assert str(caught.value).startswith("model.name: ")


def test_the_functions_of_a_space_and_their_files(mark: Path) -> None:
    tree = {
        "warm_start": ["mlflow:earlier"],
        "model": {"name": "looked_up:plain"},
        "training": {"metrics": ["looked_up:anything", "given:mine"]},
        "search": {"data": [{"name": "digits"}, {"name": "os:system", "options": {"command": "touch x"}}]},
        "sampler": {"name": "looked_up:plain"},
    }
    file = mark.with_name("looked_up.py")
    assert [(f.key, f.path, f.where) for f in named_functions(tree)[:2]] == [
        ("model.name", "looked_up:plain", str(file)),
        ("training.metrics.0", "looked_up:anything", str(file)),
    ]
    assert [f.path for f in named_functions(tree)] == ["looked_up:plain", "looked_up:anything", "os:system"]
    assert str(named_functions(tree)[0]) == f"model.name looked_up:plain ({file})"
    check_named(tree)
