"""Losses that end their own process, once."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor
from torch.nn.functional import cross_entropy

GATE = "SAMTUNE_TEST_DYING"
"""Names a file that must be there for a process to die, and that it removes."""


def exits(outputs: Tensor, targets: Tensor) -> Tensor:
    if _is_open():
        os._exit(3)
    return cross_entropy(outputs, targets)


def aborts(outputs: Tensor, targets: Tensor) -> Tensor:
    if _is_open():
        os.abort()
    return cross_entropy(outputs, targets)


def _is_open() -> bool:
    try:
        Path(os.environ[GATE]).unlink()
    except FileNotFoundError:
        return False
    return True
