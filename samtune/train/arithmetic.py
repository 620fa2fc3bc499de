"""What `auto` stands for on a device, in one place with the reasons: precision, TF32, memory layout, convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch

from samtune.accelerator import use_tf32
from samtune.config.training import TrainingConfig

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Capabilities:
    """What the decisions go by.

    Attributes:
        kind: `cuda`, `cpu`, …
        capability: of a CUDA device, e.g. (8, 0) for an A100; None elsewhere.
        has_onednn: whether it is a CPU whose convolutions oneDNN computes.
    """

    kind: str
    capability: tuple[int, int] | None = None
    has_onednn: bool = False

    @classmethod
    def of(cls, device: torch.device) -> Capabilities:
        """Of a device of this machine."""
        is_nvidia = device.type == "cuda" and torch.version.cuda is not None
        capability = torch.cuda.get_device_capability(device) if is_nvidia else None
        has_onednn: bool = device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        return cls(device.type, capability, has_onednn)

    def at_least(self, major: int) -> bool:
        """Whether it is an NVIDIA card of that generation or a newer one."""
        return self.capability is not None and self.capability >= (major, 0)


@dataclass(frozen=True)
class Arithmetic:
    """How a trial computes: the configuration with each `auto` decided. Kept in the trial's checkpoint, so that a trial
    which resumes on another card goes on as it began."""

    precision: Precision = "fp32"
    tf32: bool | None = None
    """None: torch's own settings, which the trial leaves alone."""
    channels_last: bool = False
    benchmark: bool = False
    """Whether cuDNN tries its convolutions on each new shape, and keeps the fastest."""

    @classmethod
    def chosen(cls, config: TrainingConfig, device: Capabilities, *, may_be_channels_last: bool = True) -> Arithmetic:
        """What a configuration means on a device, for a network that `auto` may bring into that order or not.

        - bf16 from compute capability 8 on: older cards emulate it. Weights stay fp32. bf16 has the range of fp32, so
          that no loss is scaled; fp16, the only choice on older cards, is never chosen for the user.
        - TF32 from 8 on, for what autocast leaves in fp32: losses and norms are sums, which TF32 does not touch.
        - channels_last from 7 on: tensor cores read convolutions' inputs in that order, and would be fed by copies. And
          on a CPU with oneDNN, which takes it as it is; pooling then goes through neighbors in memory.
        - cuDNN's trial runs on NVIDIA cards: all batches of a training have one shape.
        """
        precision: Precision = "bf16" if device.at_least(8) else "fp32"
        if config.precision != "auto":
            precision = config.precision
        return cls(
            precision=precision,
            tf32=(device.at_least(8) or None if config.tf32 == "auto" else config.tf32) if device.capability else None,
            channels_last=_in_channels_last(config, may_be_channels_last and (device.at_least(7) or device.has_onednn)),
            benchmark=device.capability is not None,
        )

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Sets what torch keeps for the whole process, and brings it back at the end."""
        cudnn = torch.backends.cudnn
        before = cudnn.benchmark
        cudnn.benchmark = self.benchmark or before
        try:
            with nullcontext() if self.tf32 is None else use_tf32(self.tf32):
                yield
        finally:
            cudnn.benchmark = before

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)

    def resumed(self, config: TrainingConfig, state: dict[str, Any] | None) -> Arithmetic:
        """As the trial began, whatever this device would choose; what the configuration names stays its own (PBT).

        A checkpoint of an earlier version has no state: `auto` did not exist, and nothing was changed by default.
        """
        began = Arithmetic() if state is None else Arithmetic(**state)
        return replace(
            self,
            precision=began.precision if config.precision == "auto" else config.precision,
            # Without an NVIDIA card there is no TF32, and the setting would reach some CPUs.
            tf32=began.tf32 if config.tf32 == "auto" and self.benchmark else self.tf32,
            channels_last=_in_channels_last(config, began.channels_last),
        )


def _in_channels_last(config: TrainingConfig, auto: bool) -> bool:
    """As the configuration says, or `auto` stands for; not with `fully_shard`, which takes contiguous weights."""
    if config.channels_last != "auto":
        return config.channels_last
    return auto and config.parallel == "ddp"
