"""The journal of a study: every event, appended and synced as it happens. The truth when a search is resumed.

One JSON object a line. The file is locked while its search runs, so nobody resumes a running search, and `status`
knows whether one is.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from samtune.errors import RunError, UsageError
from samtune.formatting import format_bytes
from samtune.store.checksums import DamagedLineError, from_line, to_line
from samtune.store.ownership import is_signed, sign
from samtune.store.study_files import drop_torn_line, is_name, open_to_append, read_file, whole_lines
from samtune.study import Callback, EpochLog, EpochRecord, Objective, Study, Trial, TrialState
from samtune.tracking.credentials import hide_credentials, shown_command

FILE_NAME = "journal.jsonl"

_TRIAL_FIELDS = ("id", "number", "config", "params", "num_epochs", "started_at", "perturbations")
_STUDY_FIELDS = (
    *("name", "kind", "num_trials", "space_yaml", "plan"),
    *("storage_path", "tracking_uri", "experiment", "command"),
)


class Journal(Callback):
    """Writes the journal of a search. The first of all callbacks: when the others run, the event is already on disk.

    Args:
        folder: of the study; exists.

    Raises:
        UsageError: another process runs this study.
    """

    def __init__(self, folder: Path) -> None:
        # For this user alone: it holds the command line.
        self._path = folder / FILE_NAME
        self._file: IO[bytes] = open_to_append(self._path, mode=0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise running_already(folder.name, self._path) from error
        drop_torn_line(self._path)

    def on_study_start(self, study: Study) -> None:
        fields = {name: getattr(study, name) for name in _STUDY_FIELDS}
        self._write(
            "study",
            **fields,
            objectives=[asdict(objective) for objective in study.objectives],
            versions=study.versions,
            signature=sign(study.space_yaml, study.tracking_uri),
            experiment_id=study.experiment_id,
            parent_run_id=study.parent_run_id,
            started_at=study.started_at,
            ended_at=study.ended_at,
            pid=os.getpid(),
        )

    def on_trial_start(self, study: Study, trial: Trial) -> None:
        self._write("trial", **{name: getattr(trial, name) for name in _TRIAL_FIELDS})

    def on_trial_change(self, study: Study, trial: Trial) -> None:
        self.on_trial_start(study, trial)

    def on_epoch(self, study: Study, trial: Trial, metrics: dict[str, float]) -> None:
        record = trial.history.records[-1]
        place = None if record.group is None else (record.group, record.ended_at)
        self._write("epoch", sync=False, id=trial.id, metrics=metrics, place=place)

    def on_trial_end(self, study: Study, trial: Trial) -> None:
        self._write(
            "end",
            id=trial.id,
            state=trial.state,
            error=trial.error,
            traceback=trial.traceback,
            diverged=trial.diverged,
            started_at=trial.started_at,
            ended_at=trial.ended_at,
        )

    def on_study_end(self, study: Study) -> None:
        self._write("study_end", stopped_by=study.stopped_by, usage=study.usage, ended_at=study.ended_at)
        self.close()

    def close(self) -> None:
        """Releases the lock."""
        self._file.close()

    def _write(self, event: str, *, sync: bool = True, **fields: Any) -> None:
        line = (to_line({"event": event, "time": time.time(), **fields}) + "\n").encode()
        end = os.fstat(self._file.fileno()).st_size
        try:
            while line:
                line = line[self._file.write(line) :]
            if sync:
                os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file.fileno(), end)  # not half a line, which the next would continue
            free = format_bytes(shutil.disk_usage(self._path.parent).free)
            raise RunError(f"{self._path}: cannot be written: {error.strerror} ({free} are free there)") from error


def read_journal(folder: Path) -> Study:
    """The study as the journal in its folder tells it.

    Raises:
        UsageError: there is no study in the folder, or its journal is damaged.
    """
    path = folder / FILE_NAME
    try:
        journal = read_file(path)
    except FileNotFoundError as error:
        others = (p.parent.name for p in folder.parent.glob(f"*/{FILE_NAME}"))
        raise no_study(str(folder), str(path), others) from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_journal(journal, str(path))


def parse_journal(journal: bytes, path: str) -> Study:
    """The study from its journal. Interrupted trials are RUNNING: a resume continues them.

    Args:
        path: where it is from, for messages.

    Raises:
        UsageError: the journal is damaged.
    """
    # The driver may have died while it wrote the last line, which has no end then.
    lines = whole_lines(journal).split(b"\n")[:-1]
    study: Study | None = None
    stopped_by: str | None = None
    usage: dict[str, float] = {}
    trials: dict[str, Trial] = {}
    for index, line in enumerate(lines):
        try:
            entry = from_line(line)
        except DamagedLineError as error:
            raise UsageError(f"{path}:{index + 1}: the journal is damaged: {error}") from error
        try:
            if entry["event"] == "study":
                study = _study(entry)
            elif entry["event"] == "study_end":
                stopped_by, usage = entry["stopped_by"], entry["usage"]
            else:
                _apply(entry, trials)
            written_at = entry["time"]
        except KeyError as error:
            problem = f"was not written by this version of samtune (it lacks {error})"
            raise UsageError(f"{path}:{index + 1}: {problem}") from error
        except (ValueError, TypeError) as error:
            raise UsageError(f"{path}:{index + 1}: the journal is damaged: {error}") from error
        if study is not None:
            # As far as is known. The lines about the study itself say when it ended, where it had.
            said = entry.get("ended_at") if entry["event"] in ("study", "study_end") else None
            study.ended_at = written_at if said is None else float(said)
    if study is None:
        raise UsageError(f"{path}: the journal is damaged: it has no complete line about the study")
    study.trials, study.stopped_by, study.usage = list(trials.values()), stopped_by, usage
    return study


def running_already(name: str, locked: Path) -> UsageError:
    """What whoever wants to run a study hears where another process of this machine runs it."""
    return UsageError(f"study {name} is running already: {locked} is locked")


def is_running(folder: Path) -> bool:
    """Whether a process holds the journal of this study."""
    with (folder / FILE_NAME).open("r", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def is_unwritten(folder: Path) -> bool:
    """Whether the folder has a journal without a complete line: its study never started."""
    path = folder / FILE_NAME
    return path.is_file() and b"\n" not in read_file(path)


def _checked(name: Any, of: str) -> str:
    """A name that becomes one of a file or a folder. Raises ValueError where it would lead elsewhere."""
    if not is_name(name):
        raise ValueError(f"{name!r} cannot be the {of}: it names files of the study")
    return str(name)


def _study(entry: dict[str, Any]) -> Study:
    _checked(entry["name"], "name of a study")
    study = Study(
        **{"kind": "search", **{name: entry[name] for name in _STUDY_FIELDS if name != "kind" or name in entry}},
        objectives=tuple(Objective(**fields) for fields in entry["objectives"]),
        versions=entry["versions"],
        is_own=is_signed(entry.get("signature"), entry["space_yaml"], entry["tracking_uri"]),
        experiment_id=entry["experiment_id"],
        parent_run_id=entry["parent_run_id"],
        started_at=entry["started_at"],
    )
    study.tracking_uri = hide_credentials(study.tracking_uri)  # journals of samtune 0.1.0 hold them
    study.command = shown_command(study.command)
    return study


def _apply(entry: dict[str, Any], trials: dict[str, Trial]) -> None:
    """One event on a trial."""
    event = entry["event"]
    if event == "trial":
        fields = {name: entry[name] for name in _TRIAL_FIELDS}
        _checked(entry["id"], "id of a trial")
        known = trials.get(entry["id"])
        trials[entry["id"]] = Trial(**fields, state=TrialState.RUNNING, history=known.history if known else EpochLog())
    elif event == "epoch":
        trials[entry["id"]].history.append(EpochRecord(entry["metrics"], *(entry["place"] or ())))
    elif event == "end":
        trial = trials[entry["id"]]
        trial.error, trial.traceback = entry["error"], entry["traceback"]
        # Journals of samtune 0.1.0 say it in the error's text alone.
        trial.diverged = entry.get("diverged", "diverged: " in (entry["error"] or ""))
        trial.started_at, trial.ended_at = entry["started_at"], entry["ended_at"]
        trial.state = TrialState(entry["state"])


def no_study(folder: str, path: str, others: Iterable[str]) -> UsageError:
    """The error about a folder without a journal.

    Args:
        others: names of the studies beside it.
    """
    from samtune.config.yaml_source import did_you_mean

    near = did_you_mean(folder.rpartition("/")[2], sorted(others))
    return UsageError(f"{folder}: no study of that name: {path} does not exist{near}")
