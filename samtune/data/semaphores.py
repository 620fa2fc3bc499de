"""The names of the semaphores between a process and those it has started: taken away as soon as nobody needs them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import synchronize, util
from typing import Any


class SemaphoreNames:
    """Names in /dev/shm, which only processes that are being started look up.

    A process that ends in order removes its own. Ray's workers do not: they are killed, and with them the helper of
    multiprocessing's that would clean up after them. An open semaphore works without its name.

    Uses what multiprocessing does not document: its registry of what is to be done at the end. There is no other way to
    the names, which it makes up itself.
    """

    def __init__(self) -> None:
        self._removals: list[Any] = []

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Remembers the semaphores that are made inside.

        Raises:
            OSError: there is no space left for them; says where.
        """
        known = set(util._finalizer_registry)  # type: ignore[attr-defined]
        try:
            yield
        except OSError as error:
            if error.errno != errno.ENOSPC or error.filename is not None:
                raise
            reason = "no space left for the processes that read images (data.loader_processes: 0 reads without them)"
            raise OSError(errno.ENOSPC, reason, "/dev/shm") from error
        self._removals += [
            removal
            for key, removal in list(util._finalizer_registry.items())  # type: ignore[attr-defined]
            if key not in known and removal._callback is synchronize.SemLock._cleanup  # type: ignore[attr-defined]
        ]

    def remove(self) -> None:
        """Takes the names away. All processes that share the semaphores must have been started."""
        while self._removals:
            self._removals.pop()()
