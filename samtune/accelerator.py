"""TF32, which torch keeps in settings of the whole process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def use_tf32(on: bool) -> Iterator[None]:
    """Float32 products and convolutions on an NVIDIA card round their inputs to TF32 inside, or do not; then as before.

    TF32 keeps float32's range and 10 of its 23 bits of mantissa. Elsewhere than on CUDA nothing changes: torch reads
    these two settings there alone.
    """
    settings = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    for setting in settings:
        setting.fp32_precision = "tf32" if on else "ieee"
    try:
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value
