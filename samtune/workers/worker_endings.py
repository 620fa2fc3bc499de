"""How a worker process ended that is gone: by a signal, for lack of memory, or by what its own code called.

Ray sees the end of a connection, and no exit status. What the process wrote last tells the rest: Python's fault handler
names a fatal signal, and samtune notes a call that ends the process.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import re
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from samtune.errors import one_line
from samtune.workers.protocol import WorkerId

LOOK_SECONDS = 8.0
"""How long a node may take to say what a process there wrote last."""

_NOTE = "samtune: this worker "
_TAIL_BYTES = 20_000
_MAX_LINE = 200  # characters

_exit = os._exit
_one_at_a_time = threading.Lock()


def note_calls_of_exit() -> None:
    """From now on a call of `os._exit`, which leaves no trace, is noted where this process writes its errors."""
    process = os.getpid()

    def noted_exit(status: int) -> NoReturn:
        if os.getpid() != process:  # a forked child, which ends like this in order
            _exit(status)
        caller = sys._getframe(1)
        end_process(f"called os._exit({status}) ({caller.f_code.co_filename}, line {caller.f_lineno})", status)

    os._exit = noted_exit


def end_process(words: str, status: int = 1) -> NoReturn:
    """Ends this process at once and says why; `words` continue `worker 0 ...`."""
    with suppress(OSError):
        os.write(2, f"\n{_NOTE}{words}\n".encode(errors="backslashreplace"))
    _exit(status)


def error_file() -> str:
    """The file that this process writes its errors to; Ray gives each worker one of its own."""
    with suppress(OSError):
        return os.readlink("/proc/self/fd/2")
    return ""


def kernel_kills() -> int:
    """How many processes the kernel has killed on this node for lack of memory, since it was started."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


async def losses_among(actors: Mapping[int, bytes]) -> dict[int, str]:
    """What Ray says of those of a group's processes that have ended, but for those that Ray Train has ended.

    Args:
        actors: Ray's handles of them, pickled.
    """
    try:
        handles = await asyncio.to_thread(_unpickle, list(actors.values()))
    except Exception:  # whatever its classes raise: the group restarts all the same, without the reason
        return {}
    said = await asyncio.gather(*(_ray_says(handle) for handle in handles))
    return {rank: text for rank, text in zip(actors, said, strict=True) if text is not None}


def _unpickle(actors: list[bytes]) -> list[Any]:
    """In a thread: the first handle imports Ray Train, which two threads cannot do at once."""
    with _one_at_a_time:
        return [pickle.loads(actor) for actor in actors]


async def _ray_says(actor: Any) -> str | None:
    import ray

    try:
        await asyncio.wait_for(actor.__ray_ready__.remote(), LOOK_SECONDS)
    except ray.exceptions.RayActorError as error:
        return None if "ray.kill" in str(error) else str(error)
    except TimeoutError:
        pass
    return None


async def ending_of(worker: WorkerId | None, ray_says: str) -> str:
    """How a lost process ended, as it continues `worker 0 ...`.

    Args:
        worker: None where nothing is known of it.
        ray_says: Ray's words on it.
    """
    if (told := told_by_ray(ray_says)) is not None:
        return told
    written, kills = await _look(worker) if worker is not None and worker.error_file else ("", 0)
    return describe(ray_says, written, killed_by_kernel=worker is not None and kills > worker.kernel_kills)


def describe(ray_says: str, written: str, *, killed_by_kernel: bool = False) -> str:
    """How a process ended that Ray has lost the connection to.

    Args:
        written: the end of what it wrote to its standard error.
        killed_by_kernel: whether the kernel killed a process of its node meanwhile, for lack of memory.
    """
    if (told := told_by_ray(ray_says)) is not None:
        return told
    if note := re.search(rf"^{_NOTE}(.*)$", written, re.MULTILINE):
        return one_line(note[1], _MAX_LINE)
    if fatal := re.search(r"^Fatal Python error: (.*)$", written, re.MULTILINE):
        frame = re.search(r'^  File "(.*)", line (\d+) in (.*)$', written[fatal.end() :], re.MULTILINE)
        where = f" in {frame[3]} ({frame[1]}, line {frame[2]})" if frame else ""
        return f"crashed: {one_line(fatal[1], _MAX_LINE)}{where}"
    if killed_by_kernel:
        return "was killed by the kernel, since its node ran out of memory"
    if "End of file" in ray_says:
        return "was killed by SIGKILL, or ended by native code without a word"
    return f"ended: {one_line(ray_says, 2 * _MAX_LINE)}"


def told_by_ray(text: str) -> str | None:
    """Of what Ray itself ended, or saw end in order; None where its words do not tell."""
    if "running low on memory" in text:
        found = re.search(r"Memory on the node \(IP: (\S+),.*?\) was (\S+) used / (\S+) limit", text, re.DOTALL)
        detail = f"node {found[1]} had {found[2]} of {found[3]} in use" if found else one_line(text, 2 * _MAX_LINE)
        return f"was ended by Ray's memory monitor: {detail}"
    if "receives a SIGTERM" in text:
        return "was ended by SIGTERM"
    if code := re.search(r"exits with an exit code (\d+)", text):
        return f"ended with exit code {code[1]}"
    if re.search(r"node (has )?died|node was (terminated|preempted)|its node has died", text):
        return "was lost with its node"
    return None


async def _look(worker: WorkerId) -> tuple[str, int]:
    """The end of what a process wrote, and `kernel_kills` of its node; nothing where the node does not answer."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(worker.node, soft=False)
    look = ray.remote(_tail).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    with suppress(ray.exceptions.RayError, TimeoutError):
        found: tuple[str, int] = await asyncio.wait_for(look.remote(worker.error_file), LOOK_SECONDS)
        return found
    return "", 0


def _tail(path: str) -> tuple[str, int]:
    """On the node of the lost process."""
    try:
        with Path(path).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return file.read().decode(errors="backslashreplace"), kernel_kills()
    except OSError:
        return "", kernel_kills()
