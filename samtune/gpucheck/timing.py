"""Milliseconds and memory of a step, within a budget of time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from samtune.gpucheck.card import Card, seconds, synchronize
from samtune.gpucheck.steps import LIMIT, Setting, Step, contestants, graphed, train_step
from samtune.sam.rules.base import Rule
from samtune.sam.rules.sam import SAMRule

WARM_UP = 3


class Budget:
    """Seconds that are left; what was not done for want of them is noted."""

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes
        self.left_out: list[str] = []

    def has_room_for(self, what: str) -> bool:
        """Whether there is time; if not, notes what is left out."""
        if time.monotonic() < self._end:
            return True
        self.left_out.append(what)
        return False


@dataclass(frozen=True)
class Timed:
    """A contestant in a setting. `problem` says why there is no time."""

    setting: str
    name: str
    milliseconds: float | None = None
    of_limit: float | None = None
    """Its time as a multiple of the limit's in the same rounds."""
    of_peak: float | None = None
    """Products and convolutions per second, over what a large matrix product reaches on this device."""
    peak_mib: float | None = None
    """Largest memory while it ran; on a GPU alone."""
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For the JSON."""
        return {key: value for key, value in asdict(self).items() if value not in (None, "")}

    @property
    def row(self) -> str:
        """In the table."""
        if self.milliseconds is None:
            return f"{self.name:26} {self.problem}"
        ratio = f"{self.of_limit:9.3f}" if self.of_limit is not None else " " * 9
        share = f"{self.of_peak:8.1%}" if self.of_peak is not None else " " * 8
        memory = f"{self.peak_mib:9.0f}" if self.peak_mib is not None else f"{'-':>9}"
        return f"{self.name:26}{self.milliseconds:11.2f}{ratio}{share}{memory}"


HEAD = f"{'':28}{'ms/step':>11}{'/ limit':>9}{'of peak':>8}{'peak MiB':>9}"


def time_setting(setting: Setting, peers: list[str], rounds: int, peak: float) -> list[Timed]:
    """All contestants of a setting, in turn.

    Args:
        peak: TFLOP/s that count as 100%.
    """
    with setting.in_force():
        makers = contestants(setting, peers)
        problems: dict[str, str] = {}
        memory = {name: _peak_mib(setting.device, make, problems, name) for name, make in makers.items()}
        steps = _made({name: make for name, make in makers.items() if name not in problems}, problems)
        times = _rounds(steps, rounds, setting.device)
    flops = setting.network.flops(setting.batch_size)
    return [
        _timed(setting.name, name, times, memory[name], problems, (1 if name == "SGD" else 2) * flops, peak)
        for name in makers
    ]


def time_compiled(setting: Setting, rounds: int) -> list[Timed]:
    """SGD and SAM with the network compiled; each apart, since compiling fills caches of the whole process."""
    found = []
    for name, rule in (("SGD compiled", Rule), ("SAM m=b compiled", SAMRule)):
        torch.compiler.reset()
        with setting.in_force():
            problems: dict[str, str] = {}
            steps = _made({name: lambda rule=rule: train_step(setting, rule, compiled=True)}, problems)  # type: ignore[misc]
            times = _rounds(steps, rounds, setting.device, problems)
        found.append(_timed(setting.name, name, times, None, problems))
    torch.compiler.reset()
    return found


def time_graphs(setting: Setting, rounds: int) -> list[Timed]:
    """The whole step as one CUDA graph."""
    found = []
    for name, groups in (("SAM m=b graph", 1), ("SAM m=b/8 graph", 8)):
        problems: dict[str, str] = {}
        times: dict[str, list[float]] = {}
        if setting.device.type != "cuda":
            problems[name] = "needs a GPU"
        else:
            with setting.in_force():
                made = _made({name: lambda groups=groups: graphed(setting, groups)}, problems)  # type: ignore[misc]
                times = _rounds(made, rounds, setting.device, problems)
        found.append(_timed(setting.name, name, times, None, problems))
    return found


def peaks(card: Card, measured: dict[str, float]) -> list[str]:
    """The lines on what counts as 100%."""
    sheet = card.data_sheet
    return [
        f"{precision}: {tflops:.2f} TFLOP/s in a large matrix product"
        + (f", {sheet[precision]:g} in the data sheet" if precision in sheet else "")
        for precision, tflops in measured.items()
    ]


# -- parts -------------------------------------------------------------------------------------------------------------


def _made(makers: dict[str, Callable[[], Step]], problems: dict[str, str]) -> dict[str, Step]:
    steps = {}
    for name, make in makers.items():
        with _noted(problems, name):
            steps[name] = make()
    return steps


def _rounds(
    steps: dict[str, Step], rounds: int, device: torch.device, problems: dict[str, str] | None = None
) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, after the warm-up."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for index in range(WARM_UP + rounds):
        for name, step in list(steps.items()):
            if problems is None:
                elapsed = seconds(step, device)
            else:
                with _noted(problems, name):
                    elapsed = seconds(step, device)
                if name in problems:
                    del steps[name]
                    continue
            if index >= WARM_UP:
                found[name].append(elapsed)
    return found


def _peak_mib(device: torch.device, make: Callable[[], Step], problems: dict[str, str], name: str) -> float | None:
    """Of two steps of a contestant that is alone on the card. On a CPU they are not run: torch does not count there."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    with _noted(problems, name):
        step = make()
        step()
        step()
        synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


@contextmanager
def _noted(problems: dict[str, str], name: str) -> Iterator[None]:
    """One contestant that does not work here leaves the others their turn."""
    try:
        yield
    except torch.OutOfMemoryError:
        problems[name] = "out of memory"
    except Exception as error:
        problems[name] = f"not run: {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]}"


def _timed(
    setting: str,
    name: str,
    times: dict[str, list[float]],
    memory: float | None,
    problems: dict[str, str],
    flops: int | None = None,
    peak: float | None = None,
) -> Timed:
    own = times.get(name)
    if not own:
        return Timed(setting, name, problem=problems.get(name, "not run"))
    median = statistics.median(own)
    limits = times.get(LIMIT)
    ratio = statistics.median(a / b for a, b in zip(own, limits, strict=True)) if limits else None
    share = flops / median / 1e12 / peak if flops is not None and peak is not None else None
    return Timed(setting, name, 1e3 * median, ratio, share, memory)
