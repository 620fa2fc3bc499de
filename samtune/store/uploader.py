"""Sends the files of a study, written in a working copy on this machine, to its folder in remote storage."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from samtune.errors import one_line
from samtune.storage import join, read_bytes, write_bytes
from samtune.store.journal import FILE_NAME as JOURNAL
from samtune.store.lease import RENEW_SECONDS, Lease, LeaseLostError
from samtune.store.local_folder import SPACE_FILE
from samtune.store.optuna_journal import FILE_NAME as OPTUNA
from samtune.store.study_files import whole_lines
from samtune.study import Callback, Study, Trial

MIN_PAUSE = 0.5
REST = 9.0  # a pause is so many times as long as what was sent took
RETRY_SECONDS = 5.0
_MARK = b'{"event": "mirrored", '


class Mirror(Callback):
    """Sends every event within a moment, in a thread of its own; a store that is away never holds the search up.

    Object stores have no appending: files are sent whole, no more often than so that sending takes a tenth of the
    time. The journal is sent last and says how long Optuna's was when it was read, so that what is fetched again is
    one moment of the search.

    Args:
        local, uri: the working copy and the study's folder.
        lease, lock: on the one and the other; given back at the end.
        say: called with one line when the store fails, when it recovers, and with what is unsent.
        stop: called with the reason when another driver has taken the study over.
        patience: seconds that the end of the search waits.
    """

    def __init__(
        self,
        local: Path,
        uri: str,
        lease: Lease,
        lock: IO[str],
        *,
        say: Callable[[str], None],
        stop: Callable[[str], None],
        patience: float = 20.0,
    ) -> None:
        self._local, self._uri, self._lease, self._lock = local, uri, lease, lock
        self._say, self._stop, self._patience = say, stop, patience
        self._changed, self._closing = threading.Event(), threading.Event()
        self._renewed_at, self._failing = time.time(), False
        self._sent = self._given_up = False
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)

    def on_study_start(self, study: Study) -> None:
        self._changed.set()
        if self._thread.ident is None:
            self._thread.start()

    def on_trial_start(self, study: Study, trial: Trial) -> None:
        self._changed.set()

    def on_trial_change(self, study: Study, trial: Trial) -> None:
        self._changed.set()

    def on_epoch(self, study: Study, trial: Trial, metrics: dict[str, float]) -> None:
        self._changed.set()

    def on_trial_end(self, study: Study, trial: Trial) -> None:
        self._changed.set()

    def on_study_end(self, study: Study) -> None:
        """After the journal's: sends what is left, for a bounded time."""
        self._closing.set()
        self._changed.set()
        if self._thread.ident is not None:
            self._thread.join(self._patience)
        self._given_up = True
        self._lock.close()
        if not self._sent:
            self._say(
                f"warning: the last events of the study could not be sent to {self._uri}; they are in {self._local} "
                f"(`samtune search --resume {study.name}` on this machine sends them)"
            )

    def _run(self) -> None:
        while not self._given_up:
            self._changed.wait(RENEW_SECONDS / 2)
            closing, started = self._closing.is_set(), time.monotonic()
            try:
                self._renew()
                if self._changed.is_set():
                    self._changed.clear()
                    self._send()
                if closing:
                    self._lease.release()
                    self._sent = True
                    return
                self._note_success()
                pause = max(MIN_PAUSE, REST * (time.monotonic() - started))
            except LeaseLostError as error:
                self._say(f"warning: {error}; this search stops")
                self._stop(str(error))
                return
            except (OSError, ValueError) as error:
                self._changed.set()
                self._note_failure(error)
                pause = RETRY_SECONDS
            if closing:
                time.sleep(MIN_PAUSE)
            else:
                self._closing.wait(pause)

    def _send(self) -> None:
        send(self._local, self._uri)

    def _renew(self) -> None:
        if time.time() - self._renewed_at >= RENEW_SECONDS:  # the monotonic clock stands still while a machine sleeps
            self._lease.renew()
            self._renewed_at = time.time()

    def _note_failure(self, error: Exception) -> None:
        if not self._failing:
            reason = one_line(error, 300)
            self._say(f"warning: the study cannot be sent to {self._uri} (the search continues): {reason}")
        self._failing = True

    def _note_success(self) -> None:
        if self._failing:
            self._say(f"{self._uri} takes the study's files again")
        self._failing = False


def send(local: Path, uri: str) -> None:
    """Sends the files of a working copy.

    Raises:
        OSError: the store does not take them; what it has is still one moment of the search.
    """
    journal = (local / JOURNAL).read_bytes()
    journal = whole_lines(journal)
    optuna = _content(local / OPTUNA) or b""  # read after the journal: it knows no less
    mark = {"event": "mirrored", "time": time.time(), "optuna_bytes": len(optuna)}
    write_bytes(join(uri, SPACE_FILE), _content(local / SPACE_FILE) or b"")
    write_bytes(join(uri, OPTUNA), optuna)
    write_bytes(join(uri, JOURNAL), journal + json.dumps(mark).encode() + b"\n")


def newest_journal(local: Path, uri: str) -> tuple[bytes | None, bool]:
    """The journal of a study, and whether it is the remote one.

    The working copy's counts if it continues the remote one: its driver died, or ended, with events unsent.
    Where both have events that the other lacks, another machine went on with the study: the remote one is what it did.
    """
    here, there = _content(local / JOURNAL), read_bytes(join(uri, JOURNAL))
    if there is None or (here is not None and here.startswith(_split(there)[0])):
        return here, False
    return there, True


def fetch(local: Path, uri: str) -> bool:
    """Brings a working copy up to the remote study, if that is the newer.

    Returns:
        Whether events that only the working copy had were given up.
    """
    journal, remote = newest_journal(local, uri)
    if journal is None or not remote:
        return False
    events, optuna_bytes = _split(journal)
    here = _content(local / JOURNAL)
    (local / OPTUNA).write_bytes((read_bytes(join(uri, OPTUNA)) or b"")[:optuna_bytes])
    (local / JOURNAL).write_bytes(events)
    return here is not None and not events.startswith(whole_lines(here))


def _split(journal: bytes) -> tuple[bytes, int | None]:
    """The events of a remote journal, and how long Optuna's was at its last."""
    start = journal.rstrip(b"\n").rfind(b"\n") + 1
    if not journal.startswith(_MARK, start):
        return journal, None
    return journal[:start], json.loads(journal[start:])["optuna_bytes"]


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
