"""The working directory holds modules of the user's, and none of anybody else's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from samtune.user_path import find_module, is_installed

MARK = "open({!r}, 'w').close()\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with a stranger's `redis.py`, which nothing installs, and code of the user's."""
    ran = tmp_path / "ran"
    (tmp_path / "redis.py").write_text(MARK.format(str(ran)))
    (tmp_path / "mine.py").write_text("import neighbor\n\n\ndef make():\n    import lazy_neighbor\n")
    (tmp_path / "neighbor.py").touch()
    (tmp_path / "lazy_neighbor.py").touch()
    return tmp_path


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    setup = f"import sys\nfrom samtune.user_path import *\nadd_user_folders([{str(folder)!r}])\n"
    return subprocess.run([sys.executable, "-P", "-c", setup + code], cwd=folder, capture_output=True, text=True)


def test_a_library_does_not_import_from_the_working_directory(folder: Path) -> None:
    """`requests` here stands for any installed library that looks whether another one is there."""
    library = (
        "import importlib.util, requests\n"
        "requests.__dict__['look'] = None\n"
        "exec(compile('def look():\\n    import redis', requests.__file__, 'exec'), requests.__dict__)\n"
        "try: requests.look()\n"
        "except ModuleNotFoundError: print('not found')\n"
    )
    done = run(library, folder)
    assert done.stdout == "not found\n", done.stderr
    assert not (folder / "ran").exists()


def test_the_user_s_modules_find_their_neighbors(folder: Path) -> None:
    done = run(
        "from samtune.user_code import resolve_function\nresolve_function('mine:make', 'model.name')()\n"
        "print([name for name in ('neighbor', 'lazy_neighbor') if name in sys.modules])\n",
        folder,
    )
    assert done.stdout == "['neighbor', 'lazy_neighbor']\n", done.stderr


def test_finding_a_module_runs_nothing(folder: Path) -> None:
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").write_text(MARK.format(str(folder / "ran")))
    (folder / "package" / "inner.py").write_text(MARK.format(str(folder / "ran")))
    done = run("print(find_module('package.inner').origin, find_module('package.none'), find_module('none.x'))", folder)
    assert done.stdout == f"{folder / 'package' / 'inner.py'} None None\n", done.stderr
    assert not (folder / "ran").exists()


def test_what_is_installed() -> None:
    assert is_installed(subprocess.__file__)
    assert is_installed(str(Path(pytest.__file__)))
    assert not is_installed(__file__)
    assert find_module("torch.nn").origin.endswith("torch/nn/__init__.py")  # type: ignore[union-attr]


def test_a_file_is_imported_by_its_path_whatever_else_has_its_name(folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir()
    (inner / "test.py").write_text("import beside\n\n\ndef train(trial):\n    return 'mine'\n")  # not Python's
    (inner / "beside.py").touch()
    (folder / "lazy_neighbor.py").write_text("open = open\n")
    (folder / "mine.py").write_text("raise SystemExit")  # of the same name, and not the one that is meant
    (inner / "mine.py").write_text("def train(trial):\n    return __name__\n")
    done = run(
        "import test\nfrom samtune.user_code import resolve_function\n"
        "one = resolve_function('inner/test.py:train', 'train')\n"
        f"again = resolve_function({str(inner / 'test.py')!r} + ':train', 'train')\n"
        "print(one(None), one is again, 'inner' in test.__file__)\n"
        "print(resolve_function('inner/mine.py:train', 'train')(None).partition('_')[0])\n"
        "print(resolve_function('elsewhere/lazy_neighbor.py:open', 'train') is open)\n"
        "try: resolve_function('inner/none.py:train', 'train')\n"
        "except ValueError as error: print(error)\n",
        folder,
    )
    first, second, elsewhere, third = done.stdout.splitlines()
    assert (first, second) == ("mine True False", "mine"), done.stderr
    assert elsewhere == "True"  # on a node that the file has travelled to as a module
    assert third.startswith("train: inner/none.py:train cannot be imported: No module named 'none'")
