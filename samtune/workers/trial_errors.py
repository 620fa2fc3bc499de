"""What an error in a trial is about: the trial, another rank, the device, or the machine."""

from __future__ import annotations

import sys
import traceback

from samtune.errors import is_machine_fault, safe_text
from samtune.user_path import causes_of, place_of
from samtune.workers.protocol import Failure


def failure_of(error: BaseException) -> Failure:
    """The error as it is reported: any text in it can be sent, stored and printed.

    Where code of the user's raised it, or called what did, the line begins with the place: `my_loss.py:5 in focal`.
    """
    line = _ended(error) or _out_of_memory(error) or f"{type(error).__name__}: {safe_text(error)}"
    if (place := place_of(error)) is not None:
        line = f"{place}: {line}"
    return Failure(line, "".join(traceback.format_exception(error)), fault=is_fault(error))


def _ended(error: BaseException) -> str | None:
    """What to say of code that tried to end its process."""
    if isinstance(error, SystemExit):
        return f"SystemExit: the trial's code called sys.exit({error.code!r})"
    if isinstance(error, KeyboardInterrupt):
        return "KeyboardInterrupt: raised by the trial's code"
    return None


def _out_of_memory(error: BaseException) -> str | None:
    """What to say of a device whose memory does not suffice: how much the trial took, and what takes less."""
    torch = sys.modules.get("torch")
    if torch is None or not any(isinstance(cause, torch.OutOfMemoryError) for cause in causes_of(error)):
        return None
    peak = ""
    if torch.cuda.is_initialized():
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        peak = memory_peak(torch.cuda.max_memory_allocated(), total)
    return (
        f"OutOfMemoryError: the device's memory does not suffice{peak}; a smaller training.batch_size or model, or "
        "training.accumulate, which runs a batch in parts, takes less"
    )


def memory_peak(peak: int, total: int) -> str:
    """A trial's peak, for messages."""
    return f" (the trial's peak was {peak / 2**30:.2f} of {total / 2**30:.2f} GiB)"


def forget_peak() -> None:
    """Before a trial: the peak that it is told is its own."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def is_fault(error: BaseException) -> bool:
    """Whether a machine is at fault, so that the next trial would meet the same error.

    A checkpoint that does not fit on the disk is a trial's: one of a smaller network may.
    """
    from samtune.train.checkpoint import CheckpointError

    causes = list(causes_of(error))
    if any(isinstance(cause, CheckpointError) for cause in causes):
        return False
    return any(is_machine_fault(cause) for cause in causes)


def is_about_a_peer(error: BaseException) -> bool:
    """Whether a collective broke because another rank left it. Gloo raises plain RuntimeErrors that name its source."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def ruins_the_device(error: BaseException) -> bool:
    """Whether the CUDA context is of no use any more: after a failed kernel every further call fails too."""
    import torch

    ruinous = getattr(torch, "AcceleratorError", ())
    return (isinstance(error, ruinous) or "CUDA error" in str(error)) and not isinstance(error, torch.OutOfMemoryError)
