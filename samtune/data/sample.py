"""Some examples of a split, to be gone through again and again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from samtune.data.batches import eval_batches
from samtune.data.counter_rng import fold, random_order
from samtune.data.dataset import Dataset, Split

_SAMPLE = 11  # a stream of random numbers of its own


class Sample:
    """A re-iterable of batches, made as they are asked for: of one worker, its share of the drawn examples.

    Args:
        dataset: that the split is of.
        num_examples: drawn at random, of a stream the first, in random order; all where there are no more.
        device: where the batches are made.
        batch_size: examples of a batch; the last may have fewer.
        rank, num_workers: this worker's place.
        multiple: each worker's share is a multiple of this; what is left over is not used. Where
            there are fewer examples than that, it counts as 1.

    Yields:
        inputs, normalised and not augmented, and targets int64, in the order in which they were drawn.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: Split,
        num_examples: int,
        *,
        seed: int,
        device: torch.device,
        batch_size: int = 256,
        rank: int = 0,
        num_workers: int = 1,
        multiple: int = 1,
    ) -> None:
        if split.stream is not None:
            split = split.beginning(num_examples)
        chosen = random_order(fold(seed, _SAMPLE), torch.arange(len(split)))[:num_examples]
        self.multiple = multiple if multiple <= len(chosen) else 1
        num_parts = len(chosen) // self.multiple
        first, last = num_parts * rank // num_workers, num_parts * (rank + 1) // num_workers
        chosen = chosen[first * self.multiple : last * self.multiple]
        self._dataset, self._device, self._batch_size = dataset, device, batch_size
        self._split = split.some(chosen)

    def __len__(self) -> int:
        """This worker's examples."""
        return len(self._split)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return eval_batches(
            self._dataset,
            self._split,
            batch_size=self._batch_size,
            rank=0,
            num_workers=1,
            device=self._device,
        )
