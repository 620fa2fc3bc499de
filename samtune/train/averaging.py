"""The exponential moving average of a network over its training steps: what is evaluated, and kept, with `ema`."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from samtune.sam import vectors
from samtune.sam.batch_statistics import RunningStatistics
from samtune.sam.shards import local, reshard
from samtune.train.sharding import load_whole_model_state, whole_model_state


class WeightAverage:
    """A second copy of a network whose weights and running statistics follow the first one's.

    After step t (counted from 1) every floating-point tensor moves by `average += (1 - d_t)·(value - average)` with
    `d_t = min(decay, (1 + t) / (10 + t))`: while few steps are done, the average forgets its random start faster
    (TensorFlow's ExponentialMovingAverage with num_updates, as in EfficientNet's training).

    The weights are the same on all workers, so their average is; each worker averages its own running statistics, and
    these averages are averaged over the workers before an evaluation. So nothing is communicated in a step.

    Args:
        model: the network that is trained, on its device; copied as it is. Both may be sharded afterwards.
        decay: in [0, 1); the average is over about 1 / (1 - decay) steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        """The network with the averaged weights."""
        self._decay = decay
        self._statistics = RunningStatistics(self.model)
        self._trained = model

    @torch.no_grad()
    def update(self, num_steps: int) -> None:
        """After step `num_steps` of the optimizer. Does not wait for the device."""
        decay = min(self._decay, (1 + num_steps) / (10 + num_steps))
        reshard(self.model)  # what an evaluation has left whole
        vectors.move_towards_(_tensors(self.model), _tensors(self._trained), 1 - decay)

    def average_over(self, num_workers: int) -> None:
        """Averages the running statistics over all workers, before an evaluation. A collective."""
        self._statistics.average(num_workers)

    @property
    def statistics(self) -> RunningStatistics:
        """Those of the averaged network on this worker."""
        return self._statistics

    def state_dict(self) -> dict[str, Any]:
        """The averaged network's state, in the layout of the network's own."""
        return whole_model_state(self.model)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`."""
        load_whole_model_state(self.model, state)


def _tensors(model: nn.Module) -> list[Tensor]:
    """Everything that is averaged, shared tensors once; of sharded ones this worker's part."""
    return local([tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()])
