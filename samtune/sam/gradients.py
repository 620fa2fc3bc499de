"""The gradient of a loss by some of the weights, as dense tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gradients_of(
    loss: Tensor, parameters: Sequence[Tensor], *, only: Sequence[int] | None = None, create_graph: bool = False
) -> list[Tensor | None]:
    """∇loss, one tensor per parameter, None where the loss does not depend on it. Nothing is added to `.grad`.

    Args:
        only: positions of the parameters whose gradient is wanted, the others' is None; None: all.

    Raises:
        ValueError: an activation checkpoint in the model cannot do this.
    """
    chosen = range(len(parameters)) if only is None else only
    if not chosen:
        return [None] * len(parameters)
    wanted = [parameters[index] for index in chosen]
    try:
        found = torch.autograd.grad(loss, wanted, allow_unused=True, create_graph=create_graph)
    except RuntimeError as error:
        if "use_reentrant" in str(error):
            raise ValueError(
                "activation checkpoints with use_reentrant=True compute no gradient by the weights alone: use "
                "torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
            ) from error
        raise
    dense: list[Tensor | None] = [g if g is None or g.layout is torch.strided else g.to_dense() for g in found]
    if only is None:
        return dense
    by_index = dict(zip(chosen, dense, strict=True))
    return [by_index.get(index) for index in range(len(parameters))]


def depends_on_all(loss: Tensor, parameters: Sequence[Tensor]) -> bool:
    """Whether every parameter is in the graph of a loss."""
    found: set[int] = set()
    seen = {loss.grad_fn}
    queue = [loss.grad_fn]
    while queue:
        node = queue.pop()
        if node is None:
            continue
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        new = {child for child, _ in node.next_functions} - seen
        seen |= new
        queue += new
    return found >= {id(parameter) for parameter in parameters}
