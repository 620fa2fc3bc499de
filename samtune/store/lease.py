"""Who runs a study in remote storage: an object beside it that its driver renews."""

from __future__ import annotations

import getpass
import json
import os
import socket
import time
from dataclasses import dataclass
from typing import Any

from samtune.errors import UsageError
from samtune.storage import delete_file, join, read_bytes, write_bytes

FILE_NAME = "lease.json"
RENEW_SECONDS = 60.0
STALE_SECONDS = 300.0
"""After which a driver that has not renewed its lease is taken for dead. Clocks may differ by less than this."""
SETTLE_SECONDS = 1.0
"""Between writing the lease and reading it back: of two drivers that wrote at once, the last one has it."""


class LeaseLostError(Exception):
    """Another driver has taken the study over."""


@dataclass(frozen=True)
class Lease:
    """The right to write one study.

    Object stores have no locks. A driver that finds no lease, a stale one or its own predecessor's writes its own and
    looks again; it renews it from then on, and stops when it finds another's.

    Args:
        uri: of the study's folder.
        owner: names the working copy of the study, whose own lock keeps other processes of this machine out: what a
            dead driver on it has left is no obstacle to the next.
    """

    uri: str
    owner: str

    def check(self) -> None:
        """Raises UsageError where another driver has it."""
        held = self._read()
        if held is not None and held["owner"] != self.owner and _age(held) < STALE_SECONDS:
            raise self._refused(held)

    def acquire(self) -> None:
        """Raises UsageError where another driver has it."""
        self.check()
        self._write()
        time.sleep(SETTLE_SECONDS)
        held = self._read()
        if held is None or held["owner"] != self.owner:
            raise self._refused(held or {})

    def renew(self) -> None:
        """Raises LeaseLostError where another driver has taken it, and perhaps given it back already."""
        held = self._read()
        if held is None:
            raise LeaseLostError(
                f"{FILE_NAME} is gone: another driver has taken the study over, or somebody deleted it"
            )
        if held["owner"] != self.owner:
            raise LeaseLostError(f"{_who(held)} has taken the study over")
        self._write()

    def release(self) -> None:
        """The study is free for others."""
        held = self._read()
        if held is not None and held["owner"] == self.owner:
            delete_file(self._file)

    def is_held(self) -> bool:
        """Whether a living driver, this or another, has it."""
        held = self._read()
        return held is not None and _age(held) < STALE_SECONDS

    @property
    def _file(self) -> str:
        return join(self.uri, FILE_NAME)

    def _read(self) -> dict[str, Any] | None:
        content = read_bytes(self._file)
        held: dict[str, Any] | None = None if content is None else json.loads(content)
        return held

    def _write(self) -> None:
        host, process = socket.gethostname(), os.getpid()
        held = {"owner": self.owner, "user": getpass.getuser(), "host": host, "process": process, "time": time.time()}
        write_bytes(self._file, json.dumps(held).encode())

    def _refused(self, held: dict[str, Any]) -> UsageError:
        left = max(0.0, STALE_SECONDS - _age(held))
        return UsageError(
            f"{self.uri}: the study is running already: {_who(held)} has it, last seen {_age(held):.0f} s ago "
            f"(if that driver is dead, try again in {left:.0f} s or delete {FILE_NAME} there)"
        )


def _age(held: dict[str, Any]) -> float:
    return float(max(0.0, time.time() - held.get("time", time.time())))


def _who(held: dict[str, Any]) -> str:
    if not held:
        return "another driver"
    return f"{held['user']}@{held['host']} (process {held['process']})"
