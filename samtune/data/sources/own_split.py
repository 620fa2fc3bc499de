"""A set of examples as a data function of the user's returns it: tensors in any structure, or a torch Dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from samtune.errors import DatasetError, one_line
from samtune.sam import tree


class OwnSplit:
    """Either (inputs, targets), structures whose tensors have the examples as first dimension, or a torch Dataset.

    Args:
        given: what the function returned.
        where: for messages.

    Attributes:
        dataset: the torch Dataset; None where the inputs are tensors.
        inputs: the tensors [N, ...]; None where there is a Dataset.
        labels: int64 [N]; targets that are not classes: any structure of tensors [N, ...]; None: there are no targets.

    Raises:
        DatasetError: it is neither, or inputs and targets do not fit.
    """

    def __init__(self, given: Any, where: str) -> None:
        self.dataset: Any | None = None
        self.inputs: Any = None
        if isinstance(given, tuple | list) and len(given) == 2:
            self.inputs, labels = tensors_of(given[0], f"{where}: inputs"), tensors_of(given[1], f"{where}: targets")
            self._length = _length(self.inputs, "inputs", where)
            if labels is not None and (number := _length(labels, "targets", where)) != self._length:
                raise DatasetError(f"{where}: {self._length} inputs and {number} targets")
        elif hasattr(given, "__getitem__") and hasattr(given, "__len__") and not isinstance(given, Mapping):
            self.dataset, self._length = given, len(given)
            labels = _targets_of(given, where) if self._length else None
        else:
            raise DatasetError(f"{where}: must be (inputs, targets) or a torch Dataset (got {type(given).__name__})")
        if self._length == 0:
            raise DatasetError(f"{where}: no example in it")
        self.labels = checked_targets(labels, where)
        self._where = where

    def __len__(self) -> int:
        return self._length

    def first(self) -> Any:
        """The first input."""
        if self.dataset is not None:
            return tensors_of(split_example(self.dataset[0])[0], f"{self._where}: the input of an example")
        return tree.take(self.inputs, 0)

    @property
    def holds_classes(self) -> bool:
        """Whether the targets are one class of each example."""
        return isinstance(self.labels, Tensor) and self.labels.ndim == 1 and not self.labels.is_floating_point()

    def target_size(self) -> int:
        """The numbers of one target; 0 where there are none."""
        return sum(leaf[0].numel() for leaf in tree.leaves(self.labels))

    def form(self) -> str:
        """What inputs and targets of one example look like, for comparison and messages."""
        return f"inputs {shapes_of(self.first())}, targets {_form(self.labels)}"


def split_example(example: Any) -> tuple[Any, Any]:
    """Inputs and targets of one example of a torch Dataset; the targets are None where there are none.

    A dict is the inputs as a whole, as Hugging Face's networks take it, and its `labels` are the targets too.
    """
    if isinstance(example, Mapping):
        return example, example.get("labels")
    if isinstance(example, tuple | list) and len(example) == 2:
        return example[0], example[1]
    if isinstance(example, tuple | list) and len(example) == 1:
        return example[0], None
    if isinstance(example, tuple | list):
        raise ValueError(f"an example must be (input, target), a dict, or an input alone (got {len(example)} things)")
    return example, None


def tensors_of(value: Any, where: str = "data.name: an input") -> Any:
    """The same structure with tensors where there are numbers, lists of numbers and arrays.

    Raises:
        DatasetError: there is something else.
    """
    if value is None or isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        return {str(key): tensors_of(each, where) for key, each in value.items()}
    if isinstance(value, list | tuple) and any(isinstance(leaf, Tensor | Mapping) for leaf in _nodes(value)):
        return tuple(tensors_of(each, where) for each in value)
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DatasetError(
            f"{where} must be a tensor, an array or numbers, or dicts, lists and tuples of such "
            f"(got {type(value).__name__}: {one_line(error, 200)})"
        ) from error


def shapes_of(inputs: Any) -> Any:
    """The shape of an input: a tuple; of nested inputs, the same structure of such."""
    return tree.map_tensors(lambda tensor: tuple(tensor.shape), inputs)


def _nodes(value: Any) -> Iterator[Any]:
    for each in value:
        yield each
        if isinstance(each, list | tuple):
            yield from _nodes(each)


def _length(batch: Any, what: str, where: str) -> int:
    try:
        return tree.num_examples(batch)
    except ValueError as error:
        raise DatasetError(f"{where}: {what}: {error}") from error


def _targets_of(dataset: Any, where: str) -> Any:
    """All targets, from the data set's `targets` or `labels`, or of one example after another."""
    targets = next((getattr(dataset, name) for name in ("targets", "labels") if hasattr(dataset, name)), None)
    if targets is not None:
        targets = tensors_of(targets, f"{where}: targets")
        if (number := _length(targets, "targets", where)) != len(dataset):
            raise DatasetError(f"{where}: {len(dataset)} examples and {number} targets")
        return targets
    try:
        if split_example(dataset[0])[1] is None:
            return None
        each = [tensors_of(split_example(dataset[index])[1], f"{where}: a target") for index in range(len(dataset))]
        return tree.combine(lambda tensors: torch.stack(list(tensors)), each)
    except (ValueError, RuntimeError) as error:  # of different shapes
        raise DatasetError(f"{where}: targets: {error}") from error


def checked_targets(labels: Any, where: str) -> Any:
    """Targets [N, ...] as they are trained on: floats as float32, whole numbers as int64; in a structure, bool stays.

    Raises:
        DatasetError: they are not finite, complex, or negative classes.
    """
    for leaf in tree.leaves(labels):
        if leaf.is_complex():
            raise DatasetError(f"{where}: targets must be real numbers or integers (got {leaf.dtype})")
        if leaf.is_floating_point() and not bool(leaf.isfinite().all()):
            raise DatasetError(f"{where}: targets must be finite")
    if isinstance(labels, Tensor):
        if not labels.is_floating_point() and labels.ndim == 1 and int(labels.min()) < 0:
            raise DatasetError(f"{where}: classes must be integers from 0, one of each example")
        return labels.float() if labels.is_floating_point() else labels.long()
    return tree.map_tensors(_as_stored, labels)


def _as_stored(leaf: Tensor) -> Tensor:
    if leaf.is_floating_point():
        return leaf.float()
    return leaf if leaf.dtype == torch.bool else leaf.long()


def _form(labels: Any) -> str:
    if labels is None:
        return "none"
    return str(
        tree.map_tensors(lambda leaf: f"{str(leaf.dtype).removeprefix('torch.')} {tuple(leaf.shape[1:])}", labels)
    )
