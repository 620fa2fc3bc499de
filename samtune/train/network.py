"""What the training does to a network and to what goes in and comes out: compiled, and in full precision."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def compile_model(model: nn.Module, num_forwards: int) -> None:
    """Compiles a network in place: its parameters, hooks and names stay.

    Args:
        num_forwards: m-groups of a step on this worker; each updates BatchNorm with a weight of its own, which torch
            compiles apart.
    """
    import torch._dynamo

    torch.compiler.reset()  # what earlier trials have compiled counts to a limit, behind which nothing is compiled
    torch._dynamo.config.recompile_limit = max(8, 4 + 2 * num_forwards)
    model.compile()


def widened(tensor: Tensor) -> Tensor:
    """Outputs with at least 32 bits."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
