"""Large tensors in blocks: sums stay exact over a block, and what is made of one stays in a processor's cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SIZE = 2**17  # entries; torch sums float32 squares one after another: over 10 million the norm is off by 4e-4


def in_blocks(*vectors: Sequence[Tensor]) -> list[list[Tensor]]:
    """The same vectors as more and smaller tensors, cut at the same places: views of a tensor's memory.

    Tensors on an accelerator, where a kernel's start costs more than it saves, and those that are not contiguous in all
    of the vectors, or in channels-last order in all, are left whole.
    """
    if max(map(Tensor.numel, vectors[0]), default=0) <= SIZE:
        return [list(vector) for vector in vectors]
    cut: list[list[Tensor]] = [[] for _ in vectors]
    for tensors in zip(*vectors, strict=True):
        if tensors[0].numel() > SIZE and (flat := _flattened(tensors)) is not None:
            for blocks, tensor in zip(cut, flat, strict=True):
                blocks.extend(torch.split(tensor, SIZE))
        else:
            for blocks, tensor in zip(cut, tensors, strict=True):
                blocks.append(tensor)
    return cut


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor is contiguous, in torch's own order or with its channels last."""
    return tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)


def _flattened(tensors: Sequence[Tensor]) -> list[Tensor] | None:
    """Views of CPU tensors of one shape as they lie in memory; None where that differs between them."""
    if not all(tensor.is_cpu for tensor in tensors):
        return None
    if all(tensor.is_contiguous() for tensor in tensors):
        return [tensor.detach().view(-1) for tensor in tensors]
    if all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in tensors):
        return [tensor.detach().permute(0, 2, 3, 1).view(-1) for tensor in tensors]
    return None
