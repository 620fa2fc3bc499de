"""Which of the user's files travel to a cluster."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from samtune.errors import UsageError
from samtune.raylib import runtime_env as code
from samtune.raylib.runtime_env import own_files, own_modules, runtime_env
from samtune.user_code import name_function


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with code, data, and things that look like code."""
    (tmp_path / "my_travelling_nets.py").write_text("def make(): ...\n")
    (tmp_path / "my_travelling_package").mkdir()
    (tmp_path / "my_travelling_package" / "__init__.py").touch()
    (tmp_path / "random.py").touch()  # the standard library's comes first on the driver
    (tmp_path / "not-a-name.py").touch()
    (tmp_path / ".#lock.py").symlink_to("nobody@nowhere.1")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "large.bin").write_bytes(bytes(10))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield tmp_path
    sys.modules.pop("my_travelling_nets", None)


def test_the_modules_beside_a_part_travel_and_nothing_else(folder: Path) -> None:
    expected = [str(folder / "my_travelling_nets.py"), str(folder / "my_travelling_package")]
    assert own_modules(["my_travelling_nets:make", 0.1, None]) == expected
    assert runtime_env(["a, my_travelling_nets:make"]) == {"py_modules": expected}


def test_what_is_installed_built_in_or_unknown_does_not_travel(folder: Path) -> None:
    assert own_modules(["torch.nn:Linear", "os.path:join", "sys:exit", "nobody_knows:it", "sgd", "s3://x:y"]) == []
    assert runtime_env(["torch.nn:Linear"]) == {}


def test_code_that_is_too_large_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "MAX_MEGABYTES", 1)
    (folder / "my_travelling_package" / "blob.py").write_bytes(bytes(2**20 + 1))
    with pytest.raises(UsageError, match="larger than 1 MB: keep it in a folder of its own"):
        own_modules(["my_travelling_nets:make"])


def test_of_a_package_travel_its_python_files_and_what_package_data_names(folder: Path) -> None:
    package = folder / "my_travelling_package"
    (folder / "secret").write_text("key")
    for name in (".env", "id_rsa", "train.bin", "labels.json", "inner/deep.py", "inner/.git/config", "inner/words.txt"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("x")
    (package / "linked.py").symlink_to("/etc/passwd")
    (folder / "pyproject.toml").write_text(
        '[tool.setuptools.package-data]\nmy_travelling_package = ["labels.json", "../secret"]\n'
        '[tool.samtune.package-data]\n"*" = ["inner/*.txt"]\n'
    )
    names = ["__init__.py", "inner/deep.py", "inner/words.txt", "labels.json"]
    expected = [folder / "my_travelling_nets.py", *(package / name for name in names)]
    assert own_files(["my_travelling_nets:make"]) == expected
    module, copy = own_modules(["my_travelling_nets:make"])
    assert module == str(folder / "my_travelling_nets.py")
    assert Path(copy).name == package.name
    assert sorted(str(file.relative_to(copy)) for file in Path(copy).rglob("*") if file.is_file()) == names


def test_functions_that_are_given_bring_their_module(folder: Path) -> None:
    import my_travelling_nets

    path = name_function(functools.partial(my_travelling_nets.make), "model")
    assert str(folder / "my_travelling_nets.py") in own_modules([path])


def test_a_script_brings_what_is_beside_it(folder: Path) -> None:
    """Its functions are pickled by value, but not what they import."""
    script = folder / "script_that_travels.py"
    (folder / "random.py").unlink()
    script.write_text(
        "from samtune.user_code import name_function\nfrom samtune.raylib.runtime_env import own_modules\n\n\n"
        "def make(): ...\n\n\nprint(own_modules([name_function(make, 'model')]))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=folder.parent, check=True)
    assert str(folder / "my_travelling_nets.py") in done.stdout


def test_a_ray_job_has_its_code_already(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert runtime_env(["my_travelling_nets:make"]) == {}
