"""The search spaces that travel with samtune, and how a name on the command line becomes a file."""

from __future__ import annotations

from pathlib import Path

from samtune.config.yaml_source import did_you_mean
from samtune.errors import SpaceError

PAPERS = {
    "": "samtune",
    "sam": "Sharpness-Aware Minimization (Foret et al., ICLR 2021)",
    "universal": "A Universal Class of Sharpness-Aware Minimization Algorithms (Tahmasebi et al., ICML 2024)",
}
"""What the folders of the built-in spaces stand for, in the order in which they are listed."""


def builtin_folder() -> Path:
    """The folder of the built-in spaces: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "search_spaces"
    return installed if installed.is_dir() else package.parent / "search_spaces"


def builtin_spaces() -> dict[str, Path]:
    """File name (with folder, if any) -> path of every built-in space, sorted."""
    folder = builtin_folder()
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def grouped_spaces() -> dict[str, dict[str, Path]]:
    """Folder -> its spaces by name, in the order of `PAPERS`."""
    spaces = builtin_spaces()
    folders = dict.fromkeys([*PAPERS, *(name.rpartition("/")[0] for name in spaces)])
    return {folder: {n: p for n, p in spaces.items() if n.rpartition("/")[0] == folder} for folder in folders}


def find_builtin(name: str) -> Path:
    """A built-in space by its file name; `.yaml` and the folder may be left out.

    Raises:
        SpaceError: there is none of that name.
    """
    spaces = builtin_spaces()
    wanted = name if name.endswith((".yaml", ".yml")) else f"{name}.yaml"
    alike = [path for known, path in spaces.items() if wanted in (known, known.rpartition("/")[2])]
    if wanted in spaces or len(alike) == 1:
        return spaces.get(wanted, alike[0])
    stems = [known.removesuffix(".yaml") for known in spaces]
    near = did_you_mean(wanted.removesuffix(".yaml"), stems, "`samtune spaces` lists them")
    raise SpaceError(f"{name}: no built-in space of that name{near}")


def find_space(name_or_path: str) -> Path:
    """`cifar.yaml` is ./cifar.yaml if that exists, else the built-in one; `.yaml` and the folder may be left out.

    Raises:
        SpaceError: neither exists.
    """
    spaces = builtin_spaces()
    names = [name_or_path] if name_or_path.endswith((".yaml", ".yml")) else [name_or_path, f"{name_or_path}.yaml"]
    for name in names:
        path = Path(name).expanduser()
        if path.is_file():
            return path
        if name in spaces:
            return spaces[name]
        alike = [path for known, path in spaces.items() if known.rpartition("/")[2] == name]
        if len(alike) == 1:
            return alike[0]
    looked = [Path(name).expanduser() for name in names]
    where = " or ".join(str(path.absolute()) for path in looked)
    stem, *stems = (name.removesuffix(".yaml").removesuffix(".yml") for name in (names[-1], *spaces))
    here = (path.with_suffix(suffix) for path in looked for suffix in (".yaml", ".yml"))
    near = next((f"; did you mean {str(path)!r}?" for path in here if path.is_file()), None)
    raise SpaceError(
        f"{name_or_path}: no such search space: there is no {where}, and no built-in space of that name"
        f"{near or did_you_mean(stem, stems, '`samtune spaces` lists them')}"
    )


def summary(path: Path) -> str:
    """The first comment line of a space: what it is, in one line."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("#") and line.strip("# \n"):
                return line.strip("# \n")
    return ""
