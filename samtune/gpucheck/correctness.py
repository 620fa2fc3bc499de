"""What every method promises, on the device: the CPU's result, weights restored, repeatable, no wait for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from samtune.gpucheck.methods import METHODS, Checked
from samtune.sam.train_step import TrainStep
from samtune.testing.problem import BATCH_SIZE, batch, examples, flat_weights, make_network

NUM_STEPS = 4
TOLERANCE = 1e-9
"""Of the weights after four steps in float64, against the CPU's, relative to the largest weight."""

Precision = Literal["fp32", "bf16", "fp16"]


class BrokenPromiseError(Exception):
    """A promise that does not hold, with the figures."""


class CannotAskError(Exception):
    """A promise that this device cannot be asked for, with the reason."""


@dataclass(frozen=True)
class Outcome:
    """Of one promise for one method. `holds` is None where it could not be asked."""

    method: str
    promise: str
    holds: bool | None
    detail: str = ""

    @property
    def cell(self) -> str:
        """In the table."""
        return "-" if self.holds is None else "ok" if self.holds else "FAIL"


class Trained:
    """A small network after some steps of a method on a device."""

    def __init__(
        self,
        checked: Checked,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        *,
        lr: float = 0.1,
        precision: Precision = "fp32",
        steps: int = NUM_STEPS,
    ) -> None:
        self.device, self.dtype = device, dtype
        self.model = make_network(dtype).to(device)
        momentum: dict[str, Any] = {"momentum": 0.9, "fused": device.type == "cuda"}
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=lr, **momentum)
        self.step = TrainStep(
            self.model,
            nn.CrossEntropyLoss(),
            self.optimizer,
            checked.method,
            batch_size=BATCH_SIZE,
            seed=3,
            precision=precision,
        )
        self.step.begin_epoch(0, 1, steps_per_epoch=NUM_STEPS, examples=self._examples)
        self.start = self.weights
        for index in range(steps):
            self.step(*self.batch(index))

    def _examples(self, count: int) -> tuple[Tensor, Tensor]:
        inputs, targets = examples(count, self.dtype)
        return inputs.to(self.device), targets.to(self.device)

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Of a step, the same on every device."""
        inputs, targets = batch(index, dtype=self.dtype)
        return inputs.to(self.device), targets.to(self.device)

    @property
    def weights(self) -> Tensor:
        """All of them as one vector on the CPU."""
        return flat_weights(self.model).cpu().clone()

    @property
    def state(self) -> Tensor:
        """Weights and momenta, on the CPU."""
        momenta = [self.optimizer.state[p]["momentum_buffer"].flatten() for p in self.step.parameters]
        return torch.cat([flat_weights(self.model), *momenta]).cpu().clone()


# -- promises ----------------------------------------------------------------------------------------------------------


def equals_cpu(checked: Checked, device: torch.device) -> str:
    """Four steps in float64 end where the CPU's do, up to rounding."""
    if checked.draws and device.type != "cpu":
        raise CannotAskError("draws its random numbers on the device, which has other ones than the CPU")
    here = Trained(checked, device, torch.float64).weights
    there = Trained(checked, torch.device("cpu"), torch.float64).weights
    error = ((here - there).abs().max() / there.abs().max()).item()
    return _within(error, TOLERANCE, "of the largest weight")


def restores(checked: Checked, device: torch.device) -> str:
    """With a learning rate of 0, w is bit for bit what it was, in the same memory."""
    trained = Trained(checked, device, lr=0.0, steps=0)
    places = [parameter.data_ptr() for parameter in trained.model.parameters()]
    for index in range(NUM_STEPS):
        trained.step(*trained.batch(index))
        moved = int((trained.weights != trained.start).sum())
        if moved:
            raise BrokenPromiseError(f"{moved} of {trained.start.numel()} weights are not restored bit for bit")
    if places != [parameter.data_ptr() for parameter in trained.model.parameters()]:
        raise BrokenPromiseError("a parameter has other memory than before")
    return ""


def repeats(checked: Checked, device: torch.device) -> str:
    """The same seed gives the same bits."""
    first, second = Trained(checked, device).weights, Trained(checked, device).weights
    if not torch.equal(first, second):
        raise BrokenPromiseError(f"two runs differ by {(first - second).abs().max().item():.1e}")
    return ""


def survives_low_precision(checked: Checked, device: torch.device, *, precision: Precision, share: float) -> str:
    """Under autocast the weights stay float32, and move as in float32 up to a share of the way."""
    exact, found = Trained(checked, device), Trained(checked, device, precision=precision)
    skipped = found.step.epoch_metrics()["skipped_steps"]
    if skipped:
        raise BrokenPromiseError(f"{skipped:.0f} of {NUM_STEPS} steps were skipped")
    if found.weights.dtype != torch.float32:
        raise BrokenPromiseError(f"the weights are {found.weights.dtype}")
    way = (exact.weights - exact.start).norm()
    return _within(((found.weights - exact.weights).norm() / way).item(), share, "of the way")


def skips_what_is_not_finite(checked: Checked, device: torch.device) -> str:
    """A batch with a NaN leaves weights and momentum as they are; the next step is taken."""
    trained = Trained(checked, device, steps=1)
    before = trained.state
    inputs, targets = trained.batch(1)
    inputs[0, 0] = torch.nan
    trained.step(inputs, targets)
    if not torch.equal(trained.state, before):
        raise BrokenPromiseError("a step whose gradient is NaN left something behind")
    trained.step(*trained.batch(2))
    if torch.equal(trained.state, before) or not trained.state.isfinite().all():
        raise BrokenPromiseError("the step after the one that was skipped was not taken")
    return ""


def does_not_wait(checked: Checked, device: torch.device) -> str:
    """A step never makes the host wait for the device."""
    if device.type != "cuda":
        raise CannotAskError("needs a GPU")
    trained = Trained(checked, device, steps=2)  # the first makes the optimizer's state
    batches = [trained.batch(index) for index in (2, 3)]
    with _no_waiting():
        for inputs, targets in batches:
            trained.step(inputs, targets)
    return ""


@contextmanager
def _no_waiting() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    except RuntimeError as error:
        raise BrokenPromiseError(f"the host waits for the device: {str(error).splitlines()[0]}") from error
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _within(error: float, limit: float, of_what: str) -> str:
    text = f"{error:.1e} {of_what}"
    if not error < limit:
        raise BrokenPromiseError(f"{text}, more than {limit:g}")
    return text


PROMISES: dict[str, Callable[[Checked, torch.device], str]] = {
    "= CPU": equals_cpu,
    "restores": restores,
    "repeats": repeats,
    "bf16": partial(survives_low_precision, precision="bf16", share=0.1),
    "fp16": partial(survives_low_precision, precision="fp16", share=0.03),
    "skips NaN": skips_what_is_not_finite,
    "no wait": does_not_wait,
}
"""By the head of the column: a function that returns a detail, or raises `BrokenPromiseError` or `CannotAskError`."""


def check_methods(device: torch.device, methods: dict[str, Checked] = METHODS) -> list[Outcome]:
    """Every promise of every method."""
    return [_ask(name, promise, device, methods[name]) for name in methods for promise in PROMISES]


def _ask(name: str, promise: str, device: torch.device, checked: Checked) -> Outcome:
    try:
        return Outcome(name, promise, True, PROMISES[promise](checked, device))
    except CannotAskError as reason:
        return Outcome(name, promise, None, str(reason))
    except BrokenPromiseError as fault:
        return Outcome(name, promise, False, str(fault))
    except Exception as error:  # the other rows are wanted too
        return Outcome(name, promise, False, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")


def format_outcomes(outcomes: list[Outcome]) -> list[str]:
    """A row per method, a column per promise; what failed and what could not be asked below."""
    width = max(len(outcome.method) for outcome in outcomes)
    lines = [" " * width + "".join(f"{promise:>11}" for promise in PROMISES)]
    for method in dict.fromkeys(outcome.method for outcome in outcomes):
        cells = {outcome.promise: outcome.cell for outcome in outcomes if outcome.method == method}
        lines.append(f"{method:{width}}" + "".join(f"{cells[promise]:>11}" for promise in PROMISES))
    lines += [f"FAIL {each.method}, {each.promise}: {each.detail}" for each in outcomes if each.holds is False]
    reasons = dict.fromkeys((each.promise, each.detail) for each in outcomes if each.holds is None)
    return lines + [f"- {promise}: {reason}" for promise, reason in reasons]
