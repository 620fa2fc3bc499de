"""Batches of examples that can only be gone through: pass after pass, from a position that a checkpoint holds.

Every worker reads all examples, and takes its rows of each batch: so the batches are the same for any number of
workers, as those of other data are.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import torch

from samtune.data.sources.own_split import checked_targets
from samtune.data.sources.own_stream import OwnStream, batch_of
from samtune.data.stream import keyed_randomness
from samtune.errors import DatasetError
from samtune.sam import tree

_END = object()


class StreamReader:
    """The examples of a stream, one pass after another.

    What the stream draws at random from torch, NumPy and `random` is a function of (seed, pass, example).

    Args:
        seed: of the trial.
        num_classes: where the targets are classes: one that is not less is an error.
    """

    def __init__(self, stream: OwnStream, *, seed: int, num_classes: int | None = None) -> None:
        self.stream, self._seed, self._num_classes = stream, seed, num_classes
        self._pass, self._read = 0, 0  # examples of the pass
        self._iterator: Iterator[Any] | None = None
        self._source: Any = None

    def take(self, count: int) -> list[Any]:
        """The next examples; those that a pass lacks are the first of the next one.

        Raises:
            DatasetError: a pass has no example.
        """
        return [self._next() for _ in range(count)]

    def one_pass(self) -> Iterator[Any]:
        """The examples that are left of this pass."""
        while (example := self._next_of_pass()) is not _END:
            yield example

    def tensors(self, examples: list[Any]) -> tuple[Any, Any]:
        """Inputs and targets of a batch: floats as they are in inputs, float32 in targets; classes int64.

        Raises:
            DatasetError: they do not go together, or a class is out of range.
        """
        inputs, labels = batch_of(examples, self.stream.where)
        targets = checked_targets(labels, self.stream.where)
        if self._num_classes is not None:
            largest = int(targets.max())
            if largest >= self._num_classes:
                rule = f"classes must be in 0..{self._num_classes - 1}"
                raise DatasetError(f"{self.stream.where}: {rule} (found {largest})")
        return inputs, targets

    def state_dict(self) -> dict[str, Any]:
        """Where it is: the pass, the examples read of it, and the stream's own state where it has one."""
        own = None
        if self._iterator is not None and self.stream.has_state:
            own = copy.deepcopy(self._source.state_dict())
        return {"pass": self._pass, "num_read": self._read, "own": own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there: by the stream's own state, or by reading what was read before."""
        self._pass, self._read, self._iterator = state["pass"], 0, None
        if state["own"] is not None:
            with keyed_randomness(self._seed, self._pass, 0):
                self._begin(state["own"])
            self._read = state["num_read"]
            return
        for read in range(state["num_read"]):
            if self._next_of_pass() is _END:
                raise DatasetError(
                    f"{self.stream.where}: pass {self._pass} ended after {read} examples, and had at least "
                    f"{state['num_read']} before the resume: its passes must be the same again"
                )

    def _next(self) -> Any:
        example = self._next_of_pass()
        if example is not _END:
            return example
        if not self._read:
            again = " when it was gone through again: return a fresh iterator each time" if self._pass else ""
            raise DatasetError(f"{self.stream.where}: no example in it{again}")
        self._pass, self._read, self._iterator = self._pass + 1, 0, None
        return self._next()

    def _next_of_pass(self) -> Any:
        with keyed_randomness(self._seed, self._pass, self._read):
            if self._iterator is None:
                self._begin()
            assert self._iterator is not None
            example = next(self._iterator, _END)
        self._read += example is not _END
        return example

    def _begin(self, state: Any = None) -> None:
        self._source, self._iterator = self.stream.begin(self._pass, state)


def stream_train_batches(
    reader: StreamReader,
    num_steps: int,
    *,
    batch_size: int,
    rank: int,
    num_workers: int,
    device: torch.device,
    accumulate: int = 1,
) -> Iterator[tuple[Any, Any]]:
    """One worker's share of the next batches, as of `train_batches`."""
    rows = torch.arange(batch_size).view(accumulate, num_workers, -1)[:, rank].tolist()
    for _ in range(num_steps):
        batch = reader.take(batch_size)
        for part in rows:
            yield _moved(reader.tensors([batch[row] for row in part]), device)


def stream_eval_batches(
    reader: StreamReader, *, batch_size: int, rank: int, num_workers: int, device: torch.device
) -> Iterator[tuple[Any, Any]]:
    """One worker's share of a pass: over all workers, each example exactly once."""
    examples = reader.one_pass()
    while chunk := list(itertools.islice(examples, batch_size * num_workers)):
        own = chunk[len(chunk) * rank // num_workers : len(chunk) * (rank + 1) // num_workers]
        if own:
            yield _moved(reader.tensors(own), device)


def _moved(batch: tuple[Any, Any], device: torch.device) -> tuple[Any, Any]:
    moved: tuple[Any, Any] = tree.map_tensors(lambda tensor: tensor.to(device, non_blocking=True), batch)
    return moved
