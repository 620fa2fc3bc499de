"""A search that waits at a certain point for as long as a test likes, whatever the speed of the machine."""

from __future__ import annotations

from pathlib import Path

_MODULE = """
import os
import time

calls = 0


def held(outputs, targets):
    global calls
    calls += 1
    while calls > {epochs} and os.path.exists({gate!r}):
        time.sleep(0.02)
    return (0 * outputs).mean()
"""


def wait_after(folder: Path, epochs: int) -> tuple[Path, tuple[str, str]]:
    """Writes a metric of one's own that is called once per epoch and, while a file exists, does not come back from its
    calls after so many epochs of a worker, over all its trials.

    Args:
        folder: the working directory of the search; the validation set is one batch.

    Returns:
        The file, to be deleted when the search shall go on; and the options of `samtune search` that use the metric.
    """
    gate = folder / "gate"
    gate.touch()
    (folder / "waits.py").write_text(_MODULE.format(epochs=epochs, gate=str(gate)))
    return gate, ("--set", "training.metrics=[waits:held]")
