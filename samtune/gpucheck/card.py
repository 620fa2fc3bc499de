"""What the check runs on: the card, the versions, and what the card can do at most."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from samtune.accelerator import use_tf32

NO_GPU = "no GPU: sizes reduced, not a measurement of a GPU"
PRECISIONS = ("bf16", "tf32", "fp32")

DATA_SHEETS: dict[str, dict[str, float]] = {
    "H200": {"fp32": 67, "tf32": 494, "bf16": 989},
    "H100 PCIe": {"fp32": 51, "tf32": 378, "bf16": 756},
    "H100": {"fp32": 67, "tf32": 494, "bf16": 989},
    "A100": {"fp32": 19.5, "tf32": 156, "bf16": 312},
    "L40S": {"fp32": 91.6, "tf32": 183, "bf16": 362},
    "RTX 4090": {"fp32": 82.6, "tf32": 82.6, "bf16": 165},
    "RTX 3090": {"fp32": 35.6, "tf32": 35.6, "bf16": 71},
}
"""Dense TFLOP/s as the makers print them (tensor cores for tf32 and bf16, fp32 accumulation); the first name that is
part of the card's counts. What a card reaches in a large matrix product is measured as well, on every card."""


@dataclass(frozen=True)
class Card:
    """A device and what is installed for it."""

    name: str
    is_gpu: bool
    has_bf16: bool
    memory_gib: float | None
    capability: str | None
    torch: str
    cuda: str | None
    cudnn: int | None
    python: str
    system: str
    date: str

    @property
    def data_sheet(self) -> dict[str, float]:
        """TFLOP/s by precision; empty for a card that is not in the list."""
        return next((peak for name, peak in DATA_SHEETS.items() if name in self.name), {})

    def lines(self) -> list[str]:
        """The head of the report."""
        first = f"{self.name}, torch {self.torch}"
        if self.is_gpu:
            first += f", CUDA {self.cuda}, cuDNN {self.cudnn}, {self.memory_gib:.0f} GiB, capability {self.capability}"
        return [first, f"Python {self.python}, {self.system}, {self.date}"] + ([] if self.is_gpu else [NO_GPU])

    def as_dict(self) -> dict[str, Any]:
        """For the JSON."""
        return {**asdict(self), "data_sheet_tflops": self.data_sheet}


def describe(device: torch.device) -> Card:
    """The card behind a device."""
    is_gpu = device.type == "cuda"
    properties = torch.cuda.get_device_properties(device) if is_gpu else None
    return Card(
        name=properties.name if properties else f"CPU, {torch.get_num_threads()} threads",
        is_gpu=is_gpu,
        has_bf16=torch.cuda.is_bf16_supported(including_emulation=False) if is_gpu else True,
        memory_gib=properties.total_memory / 2**30 if properties else None,
        capability=f"{properties.major}.{properties.minor}" if properties else None,
        torch=torch.__version__,
        cuda=torch.version.cuda if is_gpu else None,
        cudnn=torch.backends.cudnn.version() if is_gpu else None,  # type: ignore[no-untyped-call]
        python=platform.python_version(),
        system=platform.platform(),
        date=time.strftime("%Y-%m-%d"),
    )


def measured_peak(device: torch.device, precision: str, size: int, rounds: int = 5) -> float:
    """TFLOP/s of the best of a few products of two size x size matrices."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left = torch.randn(size, size, device=device, dtype=dtype)
    with use_tf32(precision == "tf32"):
        best = min(seconds(lambda: left @ left, device) for _ in range(rounds + 1))
    return 2 * size**3 / best / 1e12


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Of one call, the device's work included."""
    synchronize(device)
    started = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
