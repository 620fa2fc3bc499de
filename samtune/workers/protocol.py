"""What workers, Trainables and the coordinator say to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from samtune.config.trial import TrialSpec
from samtune.errors import one_line, safe_text
from samtune.study import EpochRecord

MAX_ERROR = 500
"""Characters of the one line that says why a trial failed."""


class Reply(StrEnum):
    """The coordinator's answers to a worker."""

    CONTINUE = "continue"
    END = "end"  # this trial is over; asked for an assignment: the search is over
    ASK_AGAIN = "ask again"  # nothing to say yet
    SAVE = "save"  # write a checkpoint of this epoch and ask again (rank 0 only)
    RESTART = "restart"  # the coordinator was lost and knows nothing of this group: its workers must be replaced


class Outcome(StrEnum):
    """How a trial ended on the workers."""

    COMPLETED = "completed"  # all its epochs
    STOPPED = "stopped"  # ended from outside: scheduler, Ctrl-C
    FAILED = "failed"


@dataclass(frozen=True)
class Failure:
    """Why a trial failed: one line, and the worker's traceback where there is one.

    Its texts are made safe here, in the one place that all of them pass: what an error says may be no valid UTF-8.

    Attributes:
        diverged: the training loss was not finite.
        fault: not the trial's error but the machine's, such as a full disk: the next trial would meet it too.
    """

    error: str
    traceback: str = ""
    diverged: bool = False
    fault: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "error", one_line(self.error, MAX_ERROR))
        object.__setattr__(self, "traceback", safe_text(self.traceback))


@dataclass(frozen=True)
class WorkerId:
    """Who asks: a rank of a group, in one of the group's lives (all processes of a group are replaced together).

    Attributes:
        node: Ray's id of the machine it runs on.
        error_file: the file of that machine that the process writes its errors to; empty where that is not known.
        kernel_kills: see `samtune.workers.worker_endings`, when the process started.
    """

    group: int
    rank: int
    generation: str
    node: str = field(default="", compare=False)
    error_file: str = field(default="", compare=False)
    kernel_kills: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Assignment:
    """One trial as handed to a group. Numbers rise: all ranks of a group act on the same one.

    Attributes:
        key: names the trial's checkpoints; it stays the same in a resumed search.
        runs_freely: no scheduler decides after its epochs whether it goes on.
    """

    number: int
    trial_id: str
    key: str
    spec: TrialSpec
    attempt: int
    runs_freely: bool = False


@dataclass(frozen=True)
class Progress:
    """What became of a trial since the last question.

    Attributes:
        epochs: those that are new.
        started_at: when its workers took it (seconds since 1970).
    """

    epochs: list[EpochRecord]
    outcome: Outcome | None = None
    failure: Failure | None = None
    started_at: float | None = field(default=None, compare=False)
