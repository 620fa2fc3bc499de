"""Metrics that `training.metrics` can name by import path: (outputs, targets) -> mean over the examples."""

from __future__ import annotations

from torch import Tensor


def top5_accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of the examples whose class is among the five largest outputs.

    Args:
        outputs: logits [N, num_classes]; with fewer than five classes, all count.
        targets: classes, int64 [N].
    """
    best = outputs.topk(min(5, outputs.shape[1]), dim=1).indices
    return (best == targets[:, None]).any(dim=1).float().mean()
