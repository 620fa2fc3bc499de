"""What pyproject.toml, the README, the gate and the workflow say of versions and tests agrees."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
QUICK = "pytest -n 2 -m 'not slow'"


def python_versions() -> list[str]:
    kinds = (re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", text) for text in PROJECT["classifiers"])
    return [kind[1] for kind in kinds if kind]


def test_the_same_versions_of_python_everywhere() -> None:
    supported = Requirement(f"python{PROJECT['requires-python']}").specifier
    minors = [f"3.{minor}" for minor in range(8, 20)]
    assert python_versions() == [minor for minor in minors if supported.contains(f"{minor}.1")]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    assert workflow["jobs"]["quick"]["strategy"]["matrix"]["python"] == python_versions()


@pytest.mark.parametrize("name", ["ray", "torch", "optuna", "mlflow"])
def test_what_samtune_reaches_into_has_an_upper_bound(name: str) -> None:
    (requirement,) = (each for each in map(Requirement, PROJECT["dependencies"]) if each.name == name)
    (most,) = (Version(each.version) for each in requirement.specifier if each.operator == "<")
    least = min(Version(each.version) for each in requirement.specifier if each.operator == ">=")
    assert most.release[0] <= least.release[0] + 1


def test_the_readme_and_the_workflow_run_the_quick_suite_and_the_gate_runs_all() -> None:
    assert QUICK in (ROOT / "README.md").read_text()
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    assert workflow["jobs"]["quick"]["steps"][-1]["run"] == QUICK
    (command,) = re.findall(r"^run \.venv/bin/pytest(.*)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert not re.search(r"(^|\s)-[mk]\b", command)
