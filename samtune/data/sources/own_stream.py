"""A set of examples that can only be gone through, as a data function of the user's returns it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from samtune.data.sources.own_split import OwnSplit, split_example, tensors_of
from samtune.data.stream import keyed_randomness
from samtune.errors import DatasetError
from samtune.sam import tree


def is_stream(given: Any) -> bool:
    """Whether it is an iterable without places: an IterableDataset, or a function that returns an iterator."""
    if isinstance(given, IterableDataset):
        return True
    if isinstance(given, Mapping | tuple | list | Tensor | type) or hasattr(given, "__getitem__"):
        return False
    return callable(given) or hasattr(given, "__iter__")


class OwnStream(OwnSplit):
    """An IterableDataset, another object that can be gone through again and again, or a function of no arguments that
    returns a fresh iterator. It gives examples as a map-style Dataset does.

    As an `OwnSplit` it holds the first example, which says what the others look like.

    Attributes:
        has_state: whether it says where it is, and can go there.

    Args:
        given: what the function returned.
        where: for messages.

    Raises:
        DatasetError: it is an iterator, or there is no example in it.
    """

    def __init__(self, given: Any, where: str) -> None:
        if hasattr(given, "__next__"):
            got = type(given).__name__
            raise DatasetError(
                f"{where}: must be an iterable that can be gone through again, or a function that returns a fresh "
                f"iterator (got {got}, an iterator)"
            )
        self.given, self.where = given, where
        keeps_place = hasattr(given, "set_epoch") or hasattr(given, "load_state_dict")
        self._can_be_copied = keeps_place and _copy(given) is not None
        self.has_state = self._can_be_copied and hasattr(given, "state_dict") and hasattr(given, "load_state_dict")
        with keyed_randomness(0, 0, 0):
            first = next(self.begin(0)[1], None)
        if first is None:
            raise DatasetError(f"{where}: no example in it")
        super().__init__(batch_of([first], where), where)

    def begin(self, number: int, state: Any = None) -> tuple[Any, Iterator[Any]]:
        """A pass from its first example on, or from a state; what has the state, and the examples.

        An object that keeps where it is (`set_epoch`, `load_state_dict`) is copied first, where that is possible: the
        passes of trials that train side by side do not know of each other.

        Args:
            number: of the pass, counted from 0; the object's `set_epoch` gets it.
        """
        source: Any = _copy(self.given) if self._can_be_copied else self.given
        if hasattr(source, "set_epoch"):
            source.set_epoch(number)
        if state is not None:
            source.load_state_dict(state)
        return source, iter(source if hasattr(source, "__iter__") else source())


def _copy(given: Any) -> Any | None:
    """A copy with a place of its own; None where it holds what cannot be copied: a file, a lock, a connection."""
    try:
        return copy.deepcopy(given)
    except Exception:  # whatever the classes raise that it is made of
        return None


def batch_of(examples: list[Any], where: str) -> tuple[Any, Any]:
    """Inputs and targets of examples as (structures of) tensors [n, ...].

    Raises:
        DatasetError: they do not go together.
    """
    try:
        each = [split_example(example) for example in examples]
        inputs = tree.combine(_stack, [tensors_of(one, f"{where}: an input") for one, _ in each])
        if each[0][1] is None:
            return inputs, None
        return inputs, tree.combine(_stack, [tensors_of(target, f"{where}: a target") for _, target in each])
    except (ValueError, RuntimeError) as error:  # of different shapes, or structures
        raise DatasetError(f"{where}: examples: {error}") from error


def _stack(tensors: Any) -> Tensor:
    return torch.stack(list(tensors))
