"""The order of the packages: imports point down, without a circle, and each package keeps from what is not its own."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from samtune.docs.python_api import python_api

ROOT = Path(__file__).parents[1]

LAYERS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("cli",),
    ("terminal", "report", "benchmarks", "docs"),
    ("gpucheck", "launch"),
    ("experiments",),
    ("tune",),
    ("store",),
    ("tracking",),
    ("workers",),
    ("raylib",),
    ("lightning",),
    ("train",),
    ("data", "models"),
    ("preflight",),
    ("config",),
    ("sharpness", "testing"),
    ("sam",),
    ("formatting", "user_source"),
    ("study", "user_code"),
    ("errors", "storage", "undocumented", "lazy", "user_path", "html_table", "notebook", "accelerator"),
)
"""From the top down. Packages of one layer do not import each other."""

HEAVY = {"torch", "torchvision", "ray", "mlflow"}
STANDARD_LIBRARY = set(sys.stdlib_module_names) | {"__future__"}
LIGHT = {*HEAVY, "optuna"}  # what is imported on every start imports none of these
FORBIDDEN: dict[str, set[str]] = {
    "cli": LIGHT,
    "terminal": LIGHT,
    "report": HEAVY,
    "docs": LIGHT,
    "launch": LIGHT,
    "experiments": {"mlflow"},
    "tune": {"mlflow", "torch"},
    "store": {"ray", "mlflow", "torch"},
    "tracking": {"ray", "optuna"},
    "workers": {"ray.tune", "mlflow", "optuna"},
    "raylib": {"mlflow", "optuna"},
    "lightning": {"ray", "mlflow", "optuna"},
    "train": {"ray", "mlflow", "optuna"},
    "data": {"ray", "mlflow", "optuna"},
    "models": {"ray", "mlflow", "optuna"},
    "preflight": LIGHT,
    "config": LIGHT,
    "formatting": LIGHT,
    "study": LIGHT,
    "testing": {"ray", "mlflow", "optuna"},
    "user_code": LIGHT,
    "user_path": LIGHT,
    "user_source": LIGHT,
    "errors": LIGHT,
    "storage": LIGHT,
}
"""What a package must not import, in functions neither. `sam` and `sharpness` are stricter, see below."""

ALLOWED: set[tuple[str, str]] = set()
"""Imports that point up today: (module, what it imports). One that is gone must go from here too."""

CIRCLES: set[frozenset[str]] = {
    # Types in annotations.
    frozenset({"samtune.config.build", "samtune.config.space"}),
    frozenset({"samtune.config.search_rules", "samtune.config.space"}),
    frozenset(
        {
            "samtune.sam.diagnostics",
            "samtune.sam.group_runner",
            "samtune.sam.m_group",
            "samtune.sam.rules.averaged",
            "samtune.sam.rules.base",
            "samtune.sam.rules.efficient",
            "samtune.sam.rules.sam",
            "samtune.sam.rules.sparse",
            "samtune.sam.rules.variants",
            "samtune.sam.train_step",
            "samtune.sam.vectorized_groups",
        }
    ),
}
"""Groups of modules that import each other today, likewise."""


def layer_of(module: str) -> int:
    """0 for the lowest."""
    package = module.split(".")[1]
    (index,) = (index for index, layer in enumerate(reversed(LAYERS)) if package in layer)
    return index


@cache
def modules() -> dict[str, Path]:
    """Every module of samtune but the package itself, which exports what users import."""
    found = {}
    for file in sorted((ROOT / "samtune").rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    found.pop("samtune")
    return found


@cache
def imports(module: str) -> frozenset[str]:
    """The modules that a module imports, in functions and for type checking too."""
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    return frozenset(name for node in ast.walk(tree) for name in imported_by(node)) - {module}


def imported_by(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import(names=aliases):
            yield from (alias.name for alias in aliases)
        case ast.ImportFrom(module=str(module), names=aliases, level=0):
            for alias in aliases:
                yield f"{module}.{alias.name}" if f"{module}.{alias.name}" in modules() else module
        case ast.ImportFrom(level=level) if level > 0:
            raise AssertionError(f"line {node.lineno}: imports are absolute here")


def graph() -> dict[str, set[str]]:
    """Each module with those of samtune that it imports."""
    return {module: {name for name in imports(module) if name in modules()} for module in modules()}


def test_every_module_has_its_layer() -> None:
    listed = {package for layer in LAYERS for package in layer}
    assert {module.split(".")[1] for module in modules()} == listed


def test_imports_point_down() -> None:
    up = {
        (module, name)
        for module, names in graph().items()
        for name in names
        if module.split(".")[1] != name.split(".")[1] and layer_of(name) >= layer_of(module)
    }
    assert up == ALLOWED


def test_packages_form_no_circle() -> None:
    packages: dict[str, set[str]] = {}
    for module, names in graph().items():
        below = {name.split(".")[1] for name in names if (module, name) not in ALLOWED}
        packages.setdefault(module.split(".")[1], set()).update(below - {module.split(".")[1]})
    TopologicalSorter(packages).prepare()


def test_modules_form_no_circle() -> None:
    left = graph()
    for circle in CIRCLES:
        with pytest.raises(CycleError):  # one that is gone must go from the list
            TopologicalSorter({module: left[module] & circle for module in circle}).prepare()
        for module in circle:
            left[module] -= circle
    for module, name in ALLOWED:
        left[module].discard(name)
    TopologicalSorter(left).prepare()


def test_a_package_keeps_from_what_is_not_its_own() -> None:
    found = {
        f"{module} imports {name}"
        for module in modules()
        for name in imports(module)
        for forbidden in FORBIDDEN.get(module.split(".")[1], ())
        if name == forbidden or name.startswith(f"{forbidden}.")
    }
    assert found == set()


def test_only_tracking_imports_mlflow() -> None:
    found = {module.split(".")[1] for module in modules() for name in imports(module) if name.split(".")[0] == "mlflow"}
    assert found == {"tracking"}


@pytest.mark.parametrize("package", ["sam", "sharpness"])
def test_the_mathematics_needs_torch_alone(package: str) -> None:
    own = {"samtune.sam", "samtune.sharpness", "samtune.errors"}
    found = {
        (module, name)
        for module in modules()
        if module.split(".")[1] == package
        for name in imports(module)
        if name.split(".")[0] not in STANDARD_LIBRARY | {"torch"} and ".".join(name.split(".")[:2]) not in own
    }
    assert found <= ALLOWED


def test_the_check_of_a_card_needs_torch_alone() -> None:
    """Of samtune it takes what needs no more itself."""
    own = {"gpucheck", "sam", "testing", "errors", "accelerator"}
    networks = {"samtune.models.resnet", "samtune.models.wide_resnet", "samtune.models.initialise"}
    found = {
        (module, name)
        for module in modules()
        if module.split(".")[1] == "gpucheck" or module in networks
        for name in imports(module)
        if name.split(".")[0] not in STANDARD_LIBRARY | {"torch"}
        and name not in networks
        and (name.split(".")[0] != "samtune" or name.split(".")[1] not in own)
    }
    assert found == set()


@pytest.mark.parametrize("package", ["terminal", "report"])
def test_commands_use_what_the_displays_export(package: str) -> None:
    inside = {
        (module, name)
        for module in modules()
        if module.startswith("samtune.cli")
        for name in imports(module)
        if name.startswith(f"samtune.{package}.")
    }
    assert inside == set()


@pytest.mark.parametrize("package", sorted({module for module in modules() if module.count(".") == 1}))
def test_every_package_says_what_it_knows(package: str) -> None:
    assert ast.get_docstring(ast.parse(modules()[package].read_text(encoding="utf-8")))


def test_the_page_on_the_python_api_is_up_to_date() -> None:
    """Generated from docstrings of all layers; here, so that it runs with every change."""
    page = (ROOT / "samtune" / "docs" / "python-api.md").read_text(encoding="utf-8")
    assert page == python_api(), "run `python -m samtune.docs` and commit samtune/docs/python-api.md"
