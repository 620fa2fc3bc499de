"""TF32, which torch keeps in settings of the whole process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def use_tf32(on: bool) -> Iterator[None]:
    """Float32 products and convolutions on an NVIDIA card round their inputs to TF32 inside, or do not; then as before.

    TF32 keeps float32's range and 10 of its 23 bits of mantissa. For CUDA devices alone: some CPUs go by the first
    setting too. These are torch's older settings: once the newer ones (`fp32_precision`) are written, to read the older
    raises, and torch.compile and users' code read them.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if on else "highest")
    torch.backends.cudnn.allow_tf32 = on
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
