"""What the training does to a network and to what goes in and comes out: compiled, laid out, in full precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from samtune.sam import tree


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


def has_convolutions(model: nn.Module) -> bool:
    """Whether a network has weights that channels-last order is about, and none that it cannot be asked of."""
    sizes = {tensor.ndim for tensor in (*model.parameters(), *model.buffers())}
    return 5 not in sizes and any(parameter.ndim == 4 for parameter in model.parameters())


@torch.no_grad()
def runs_in_channels_last(model: nn.Module, inputs: Any) -> bool:
    """Whether a network in that order takes images in it: `x.view(len(x), -1)` after a convolution does not.

    Leaves the network as it is, and the host's random numbers of torch.

    Args:
        inputs: two examples or more: of one, `view` can do more.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            tree.call(model, tree.map_tensors(in_channels_last, inputs))
    except Exception:  # another error comes again, in the first step
        return False
    finally:
        model.train(was_training)
    return True


def in_channels_last(tensor: Tensor) -> Tensor:
    """A batch of images with their channels as neighbors in memory; another tensor as it is."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def widened(tensor: Tensor) -> Tensor:
    """Outputs with at least 32 bits."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
