"""This process's limits (`ulimit`) that Ray does not survive, looked at before it is started.

Ray's processes end with lines of C++ where a limit is too low, or wait for minutes for one that could not start.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from contextlib import suppress

import psutil

from samtune.errors import ResourceError
from samtune.formatting import format_bytes

_OPEN_FILES = 256
"""A search on one worker ends without a word at 64 (Ray's raylet fails) and runs at 256."""
_WANTED_OPEN_FILES = 4096
"""Ray's processes on the head hold a few connections to each worker."""
_THREADS = 400
"""Of the processes of a search on one worker, together; more workers add about 40 each."""
_PROGRAM_BYTES = 6e9
"""Address space of the largest process of a search on CPUs, beside Ray's object store: that of a worker with torch."""
_STORE_SHARE, _MAX_STORE_BYTES = 0.3, 200e9
"""Ray's default for the object store, which each of its processes maps: of the machine's memory, and at most."""


def check_limits() -> None:
    """Raises the soft limit of open files as far as it may, and looks at the limits.

    Raises:
        ResourceError: one is lower than what a search on a single worker takes.
    """
    _raise_open_files()
    problems = [problem for problem in (_open_files(), _address_space(), _threads()) if problem]
    if problems:
        raise ResourceError("; ".join(problems))


def _raise_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _WANTED_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _open_files() -> str | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _OPEN_FILES:
        return None
    return f"the limit of open files (`ulimit -n`) is {soft}: Ray needs at least {_OPEN_FILES}; raise it"


def _address_space() -> str | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    needed = _PROGRAM_BYTES + min(_STORE_SHARE * psutil.virtual_memory().total, _MAX_STORE_BYTES)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return None
    return (
        f"the limit of address space (`ulimit -v`) is {format_bytes(soft)}: Ray and torch need at least "
        f"{format_bytes(needed)} on this machine; set it to unlimited and limit the memory by a cgroup instead"
    )


def _threads() -> str | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft == resource.RLIM_INFINITY or os.geteuid() == 0:  # root is not held to it
        return None
    left = soft - sum(_threads_of(psutil.process_iter(), os.getuid()))
    if left >= _THREADS:
        return None
    return (
        f"the limit of processes and threads (`ulimit -u`) is {soft}, of which this user has {max(left, 0)} left: Ray "
        f"needs about {_THREADS}; raise it"
    )


def _threads_of(processes: Iterable[psutil.Process], user: int) -> Iterable[int]:
    for process in processes:
        with suppress(psutil.Error):
            if process.uids().real == user:
                yield process.num_threads()
