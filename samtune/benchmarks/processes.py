"""The processes of a command while it runs: what they are, the CPU time that each has taken, and what it imports."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

PACKAGES = (
    "torch",
    "torchvision",
    "ray.train",
    "ray.tune",
    "ray.data",
    "optuna",
    "mlflow",
    "sqlalchemy",
    "pandas",
    "pyarrow",
    "sklearn",
    "scipy",
)
"""The imports that are shown: what takes long."""

_SPY = f"""
import os, sys, threading, time
def spy(path, names):
    while True:
        found = " ".join(name for name in names if name in sys.modules)
        with open(path + ".new", "w") as file:
            file.write(found)
        os.replace(path + ".new", path)
        time.sleep(0.2)
path = os.path.join(os.path.dirname(__file__), str(os.getpid()))
threading.Thread(target=spy, args=(path, {PACKAGES!r}), daemon=True).start()
"""


@dataclass
class Process:
    """One process, as last seen: its CPU seconds, all its threads together."""

    title: str
    seconds: float = 0.0
    at_milestone: float = 0.0


class Processes:
    """A command's processes, followed from outside.

    Args:
        folder: for what each process says of its imports.
    """

    def __init__(self, folder: Path) -> None:
        self.found: dict[int, Process] = {}
        self._folder = folder

    def environment(self) -> dict[str, str]:
        """Of a command whose processes say what they import: Python runs a `sitecustomize.py` in each."""
        (self._folder / "sitecustomize.py").write_text(_SPY, encoding="utf-8")
        path = os.pathsep.join(filter(None, (str(self._folder), os.environ.get("PYTHONPATH"))))
        return os.environ | {"PYTHONPATH": path}

    def look(self, root: psutil.Process) -> None:
        """Reads all processes once."""
        with suppress(psutil.Error):
            for each in [root, *root.children(recursive=True)]:
                with suppress(psutil.Error):
                    title, times = _title(each.cmdline()), each.cpu_times()
                    process = self.found.setdefault(each.pid, Process(title))
                    if title and title != "ray::IDLE":
                        process.title = title
                    process.seconds = times.user + times.system

    @property
    def seconds(self) -> float:
        """CPU time of all, of those that have ended too."""
        return sum(process.seconds for process in self.found.values())

    def mark(self) -> None:
        """Notes the CPU time of all processes, as of now."""
        for process in self.found.values():
            process.at_milestone = process.seconds

    def imports(self, pid: int) -> list[str]:
        """What of `PACKAGES` a process has imported; empty for one that is not Python's."""
        file = self._folder / str(pid)
        return file.read_text(encoding="utf-8").split() if file.exists() else []

    def table(self) -> str:
        """All processes, those that take most first; processes of one name that import the same are one row."""
        rows: dict[tuple[str, str], list[Process]] = {}
        for pid, process in self.found.items():
            rows.setdefault((process.title, " ".join(self.imports(pid))), []).append(process)
        lines = [f"  {'process':30}{'n':>3}{'to first worker':>17}{'in all':>8}  imports"]
        for (title, imports), each in sorted(rows.items(), key=lambda row: -sum(p.seconds for p in row[1])):
            before, whole = sum(p.at_milestone for p in each), sum(p.seconds for p in each)
            lines.append(f"  {title[:29]:30}{len(each):3}{before:17.1f}{whole:8.1f}  {imports}".rstrip())
        before = sum(process.at_milestone for process in self.found.values())
        return "\n".join([*lines, f"  {'together':30}{len(self.found):3}{before:17.1f}{self.seconds:8.1f}"])


def digits_search(folder: Path, name: str, num_trials: int, settings: Sequence[str]) -> list[str]:
    """The command of a search on digits that starts a Ray of its own, with these settings (`--set`)."""
    command = [sys.executable, "-m", "samtune", "search", "digits.yaml", "--name", name, "--address", "local"]
    command += ["--num-trials", str(num_trials), "--storage-path", str(folder)]
    return [*command, *(f"--set={setting}" for setting in settings)]


def _title(command: list[str]) -> str:
    """What a process is, from its command line: Ray's name of an actor, else the script, module or program."""
    if not command:
        return ""
    if command[0].startswith("ray::"):
        return command[0].split(".")[0].split("(")[0]
    if "-m" in command:
        return f"python -m {command[command.index('-m') + 1]}"
    scripts = [word for word in command if word.endswith(".py")]
    path = Path(scripts[0] if scripts else command[0])
    return f"{path.parent.name}/{path.name}" if scripts else path.name
