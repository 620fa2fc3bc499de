"""What layers update in their forward, whatever layer it is: saved, and put back."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from samtune.sam import vectors


class RunningState:
    """The buffers of modules: BatchNorm's and InstanceNorm's statistics, scripted ones, a user's own.

    All buffers count, since a layer does not say which it updates, and torch's own normalisation updates them without
    a trace in their version counters. They are small beside the weights.

    Args:
        modules: each by itself, without its children.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._holders = [module for module in modules if len(module._buffers)]

    def save(self) -> SavedState:
        """A copy of it."""
        return SavedState(self._holders)


class SavedState:
    """The buffers of modules as they were when this was made."""

    def __init__(self, holders: list[nn.Module]) -> None:
        self._holders = holders
        self._places: list[tuple[nn.Module, str]] = []
        buffers: list[Tensor] = []
        seen: set[int] = set()
        for module in holders:
            for name, buffer in module._buffers.items():
                if isinstance(buffer, Tensor) and id(buffer) not in seen and _is_writable(buffer):
                    seen.add(id(buffer))
                    self._places.append((module, name))
                    buffers.append(buffer)
        self.values = vectors.copies(buffers)
        """Copies of the buffers."""

    def restore(self) -> None:
        """Goes back to it. Where a forward has put a new tensor in place of a buffer, that one gets the old values."""
        self._assign(self.values)

    def restore_unless(self, keep: Tensor) -> None:
        """Goes back to it unless `keep` (a boolean scalar tensor) holds, without waiting for an accelerator."""
        if not self._places:
            return
        if keep.device.type == "cpu":
            if not keep:
                self.restore()
            return
        now = SavedState(self._holders)
        same = [(a, b.shape) for a, b in zip(now._places, now.values, strict=True)] == [
            (a, b.shape) for a, b in zip(self._places, self.values, strict=True)
        ]
        if same:
            self._assign(vectors.where(keep, now.values, self.values))
        elif not keep:
            self.restore()

    @torch.no_grad()
    def _assign(self, values: list[Tensor]) -> None:
        targets, sources = [], []
        for (module, name), value in zip(self._places, values, strict=True):
            buffer = module._buffers[name]
            if isinstance(buffer, Tensor) and buffer.shape == value.shape:
                targets.append(buffer)
                sources.append(value)
            else:
                setattr(module, name, value.clone())
        vectors.copy_(targets, sources)


def _is_writable(buffer: Tensor) -> bool:
    """An expanded buffer cannot be updated in place, nor written back."""
    if buffer.layout is not torch.strided:
        return False
    return buffer.is_contiguous() or all(
        stride or size <= 1 for stride, size in zip(buffer.stride(), buffer.shape, strict=True)
    )
