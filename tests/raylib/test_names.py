"""Ray's private side: what samtune uses of it is there, and only `samtune.raylib` and one test helper use it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ray_internals
from helpers.undocumented import problem_of, problem_of_variable

from samtune.raylib import environment, names
from samtune.undocumented import Undocumented, Variable

ROOT = Path(__file__).parents[2]
DOORS = (ROOT / "samtune/raylib", ROOT / "tests/raylib", ROOT / "tests/helpers/ray_internals.py")
NAMES = (*names.NAMES, *ray_internals.NAMES)
VARIABLES = (*environment.VARIABLES, *ray_internals.VARIABLES)

PUBLIC_MODULES = {
    *("ray", "ray.actor", "ray.exceptions", "ray.cluster_utils", "ray.util.scheduling_strategies", "ray.util.state"),
    *(
        "ray.train",
        "ray.train.collective",
        "ray.train.torch",
        "ray.tune",
        "ray.tune.integration.ray_train",
        "ray.tune.search",
    ),
}
PUBLIC_VARIABLES = {"RAY_ADDRESS", "RAY_TMPDIR", "RAY_USAGE_STATS_ENABLED", "RAY_HEAD_IP", "RAY_AUTH"}
PUBLIC_VARIABLES |= {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
PRIVATE = {part for name in NAMES for part in re.split("[:.]", name.path) if part.startswith("_")}
"""Ray's private names, as they are written after a dot."""


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.path)
def test_the_name_is_there_and_takes_the_call(name: Undocumented) -> None:
    assert problem_of(name) is None
    assert name.why
    assert name.instead


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.name)
def test_the_variable_is_read_where_it_was(variable: Variable) -> None:
    assert problem_of_variable(variable) is None
    assert variable.why


def test_a_name_that_is_gone_or_takes_another_call_is_found() -> None:
    pbt = "ray.tune.schedulers.pbt:PopulationBasedTraining"
    assert "no attribute '_exploits'" in str(problem_of(Undocumented(f"{pbt}._exploits", "a", "b")))
    assert "too many positional" in str(problem_of(Undocumented(f"{pbt}._exploit", "a", "b", "(self, 1, 2, 3, 4)")))
    wrong = Undocumented(f"{pbt}._exploit", "a", "b", override="samtune.raylib.schedulers:ASHA.on_trial_add")
    assert "does not override" in str(problem_of(wrong))
    assert problem_of_variable(Variable("TUNE_NO_SUCH_VARIABLE", "ray.tune.constants", "a")) is not None


def test_only_the_doors_use_what_ray_does_not_document() -> None:
    files = [file for folder in ("samtune", "tests") for file in sorted((ROOT / folder).rglob("*.py"))]
    outside = [file for file in files if not any(file.is_relative_to(door) for door in DOORS)]
    assert len(outside) > 200
    found = [f"{file.relative_to(ROOT)}:{line}" for file in outside for line in uses(file.read_text(encoding="utf-8"))]
    assert found == []


def test_every_use_in_the_package_is_listed() -> None:
    """The other way round: what `samtune.raylib` touches of Ray with an underscore is in the list."""
    for file in sorted((ROOT / "samtune/raylib").glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        own = {node.attr for node in ast.walk(tree) if is_stored_on_self(node)} | {
            node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
                assert node.attr in PRIVATE, f"{file.name}:{node.lineno}: {node.attr}"
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ray."):
                parts = {*str(node.module).split("."), *(alias.name for alias in node.names)}
                assert {part for part in parts if is_private(part)} <= PRIVATE, f"{file.name}:{node.lineno}"


@pytest.mark.parametrize(
    "source",
    [
        "import ray._private.state",
        "from ray.train.v2._internal import constants",
        "from ray.core.generated import autoscaler_pb2",
        "ray._raylet.GcsClient()",
        "def f(controller): controller._tune_controller._actor_cache.clear()",
        "class A(PopulationBasedTraining):\n    def _exploit(self): ...",
        "environ['TUNE_RESULT_BUFFER_LENGTH'] = '0'",
        "env = dict(RAY_TRAIN_METRICS_ENABLED='0')",
        "resources = {'node:__internal_head__': 1}",
    ],
)
def test_a_use_is_seen(source: str) -> None:
    assert list(uses(source))


def test_importing_it_does_not_import_torch() -> None:
    modules = [f"samtune.raylib.{file.stem}" for file in (ROOT / "samtune/raylib").glob("*.py")]
    code = f"import {', '.join(modules)}, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


def uses(source: str) -> Iterator[str]:
    """Lines of a module that use Ray's private side."""
    for node in ast.walk(ast.parse(source)):
        what = used_by(node)
        if what is not None:
            yield f"{getattr(node, 'lineno', 0)}: {what}"


def used_by(node: ast.AST) -> str | None:
    match node:
        case ast.Import(names=aliases):
            modules = [alias.name for alias in aliases if alias.name.split(".")[0] == "ray"]
            return next((module for module in modules if module not in PUBLIC_MODULES), None)
        case ast.ImportFrom(module=str(module)) if module.split(".")[0] == "ray":
            return module if module not in PUBLIC_MODULES else None
        case ast.Attribute(attr=attr) if is_private(attr):
            return attr if attr in PRIVATE - SHARED or ast.unparse(node).startswith("ray.") else None
        case ast.FunctionDef(name=name):
            return name if name in PRIVATE - SHARED else None
        case ast.Constant(value=str(text)) | ast.keyword(arg=str(text)):
            is_variable = re.fullmatch(r"(RAY|TUNE)_\w+", text) and text not in PUBLIC_VARIABLES
            return text if is_variable or "__internal_" in text else None
    return None


SHARED = {"_metric", "_private", "_start", "_step"}
"""Names that other classes have too: seen only where Ray's own module is named."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_stored_on_self(node: ast.AST) -> bool:
    match node:
        case ast.Attribute(value=ast.Name(id="self"), ctx=ast.Store()):
            return True
    return False
