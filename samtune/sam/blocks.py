"""Large tensors in blocks: sums stay exact over a block, and what is made of one stays in a processor's cache."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

SIZE = 2**17  # entries; torch sums float32 squares one after another: over 10 million the norm is off by 4e-4


def in_blocks(*vectors: Sequence[Tensor]) -> list[list[Tensor]]:
    """The same vectors as more and smaller tensors, cut at the same places: views of a tensor's memory.

    Tensors on an accelerator, where a kernel's start costs more than it saves, and those that are not contiguous in all
    of the vectors, are left whole.
    """
    if max(map(Tensor.numel, vectors[0]), default=0) <= SIZE:
        return [list(vector) for vector in vectors]
    cut: list[list[Tensor]] = [[] for _ in vectors]
    for tensors in zip(*vectors, strict=True):
        if tensors[0].numel() > SIZE and all(tensor.is_cpu and tensor.is_contiguous() for tensor in tensors):
            for blocks, tensor in zip(cut, tensors, strict=True):
                blocks.extend(tensor.detach().view(-1).split(SIZE))
        else:
            for blocks, tensor in zip(cut, tensors, strict=True):
                blocks.append(tensor)
    return cut
