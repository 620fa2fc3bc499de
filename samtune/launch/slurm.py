"""A batch script for Slurm that runs a search on one node or many, and goes on where it was stopped."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from samtune.config.search import ResourcesConfig
from samtune.errors import UsageError
from samtune.launch.slurm_script import SCRIPT
from samtune.raylib.cluster import Node, group_capacity

_TIME = re.compile(r"\d+|\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d(:\d\d)?)?")
_STUDY = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class SlurmJob:
    """What the script asks of Slurm, and what it runs.

    Attributes:
        space: path of the YAML file, or the name of a built-in space.
        study: name of the study, the same whenever the job runs again.
        time: as Slurm writes it, e.g. `4:00:00` or `1-12`; None: the partition's own.
        gpus: of a node.
        cpus: of a node.
        grace: seconds before the end of the time, or of a pre-empted job, at which the search is told to save.
    """

    space: str
    study: str
    nodes: int = 1
    time: str | None = None
    gpus: int = 0
    cpus: int = 8
    partition: str | None = None
    account: str | None = None
    storage_path: str | None = None
    tracking_uri: str | None = None
    grace: int = 120

    def check(self, resources: ResourcesConfig) -> None:
        """Raises UsageError where Slurm would refuse the job, or its nodes can never hold a trial's workers."""
        for argument, value in (("nodes", self.nodes), ("cpus", self.cpus)):
            if value < 1:
                raise UsageError("must be at least 1", argument=argument, value=value)
        if self.gpus < 0:
            raise UsageError("must be at least 0", argument="gpus", value=self.gpus)
        if self.time is not None and not _TIME.fullmatch(self.time):
            problem = "must be as Slurm writes it: minutes, 4:00:00 (hours) or 1-12 (days-hours)"
            raise UsageError(problem, argument="time", value=self.time)
        if not _STUDY.fullmatch(self.study):
            raise UsageError("must be letters, digits, _, . and -", argument="name", value=self.study)
        for argument, text in (("partition", self.partition), ("account", self.account)):
            if text is not None and not re.fullmatch(r"[\w.,-]+", text):
                raise UsageError("must be letters, digits, _, . and -", argument=argument, value=text)
        group_capacity(resources, [Node(float(self.cpus), float(self.gpus))] * self.nodes)

    def script(self) -> str:
        """The text, for `sbatch`."""
        values = {
            "directives": "\n".join(f"#SBATCH --{line}" for line in self._directives()),
            "bin": shlex.quote(str(Path(sys.executable).parent)),
            "space": shlex.quote(_absolute(self.space)),
            "study": shlex.quote(self.study),
            "where": " ".join(["--storage-path", shlex.quote(_storage(self.storage_path))]),
            "new": "" if self.tracking_uri is None else f" --tracking-uri {shlex.quote(self.tracking_uri)}",
            "gpus": self.gpus,
        }
        return re.sub(r"@(\w+)@", lambda match: str(values[match[1]]), SCRIPT)

    def _directives(self) -> list[str]:
        lines = [f"job-name={self.study}", f"nodes={self.nodes}", "ntasks-per-node=1", f"cpus-per-task={self.cpus}"]
        if self.gpus:
            lines.append(f"gpus-per-node={self.gpus}")
        optional = {"time": self.time, "partition": self.partition, "account": self.account}
        lines += [f"{key}={value}" for key, value in optional.items() if value is not None]
        return [*lines, f"signal=B:TERM@{self.grace}", "requeue", "open-mode=append", "output=%x-%j.log"]


def _absolute(space: str) -> str:
    """A file by its whole path, for a job that may start elsewhere; a built-in space by its name."""
    path = Path(space).expanduser()
    return str(path.absolute()) if path.is_file() else space


def _storage(given: str | None) -> str:
    """Where the study is kept: beside the job by default, which all nodes must see."""
    if given is None:
        return str(Path("samtune-results").absolute())
    return given if "://" in given else str(Path(given).expanduser().absolute())
