"""Batches that are nested: tensors in dicts, lists and tuples, whose first dimension is the examples."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from torch import Tensor


def leaves(tree: Any) -> Iterator[Any]:
    """All that is no dict, list or tuple, in the order of the structure; None is nothing."""
    if isinstance(tree, Mapping):
        for value in tree.values():
            yield from leaves(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from leaves(value)
    elif tree is not None:
        yield tree


def map_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """The same structure, each tensor replaced; whatever is no tensor stays."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        mapped = {key: map_tensors(function, value) for key, value in tree.items()}
        if type(tree) is dict or not isinstance(tree, MutableMapping):
            return mapped
        other = copy.copy(tree)  # an output of a Hugging Face model: its entries are attributes too
        for key, value in mapped.items():
            other[key] = value
        return other
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_tensors(function, value) for value in tree))
    if isinstance(tree, list | tuple):
        return type(tree)(map_tensors(function, value) for value in tree)
    return tree


def combine(function: Callable[[Sequence[Tensor]], Tensor], trees: Sequence[Any]) -> Any:
    """One structure out of several alike: each tensor is the function of those in its place.

    Raises:
        ValueError: they are not alike.
    """
    first = trees[0]
    if isinstance(first, Tensor) and all(isinstance(tree, Tensor) for tree in trees):
        return function(trees)
    if isinstance(first, Mapping) and all(isinstance(tree, Mapping) and tree.keys() == first.keys() for tree in trees):
        return {key: combine(function, [tree[key] for tree in trees]) for key in first}
    if isinstance(first, list | tuple) and all(type(t) is type(first) and len(t) == len(first) for t in trees):
        parts = [combine(function, each) for each in zip(*trees, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    if first is None and all(tree is None for tree in trees):
        return None
    raise ValueError("examples must be tensors in dicts, lists and tuples, all of one structure")


def num_examples(batch: Any) -> int:
    """The first dimension that all tensors of a batch have.

    Raises:
        ValueError: they have different ones, one has none, there is no tensor, or there is something else.
    """
    sizes = set()
    for leaf in leaves(batch):
        if not isinstance(leaf, Tensor) or leaf.ndim == 0:
            what = "a tensor without dimensions" if isinstance(leaf, Tensor) else f"a {type(leaf).__name__}"
            raise ValueError(f"a batch must hold tensors alone, whose first dimension is the examples (it has {what})")
        sizes.add(len(leaf))
    if len(sizes) != 1:
        found = ", ".join(map(str, sorted(sizes))) or "there is no tensor"
        raise ValueError(f"all tensors of a batch must have the same first dimension, the examples (got {found})")
    return sizes.pop()


def take(batch: Any, rows: Any) -> Any:
    """Some examples of a batch: `tensor[rows]` of each tensor."""
    return map_tensors(lambda tensor: tensor[rows], batch)


def call(model: Callable[..., Any], inputs: Any) -> Any:
    """What a model makes of a batch's inputs: a dict goes in as keyword arguments, anything else as one argument."""
    return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


def for_loss(inputs: Any, targets: Any) -> Any:
    """The second argument of a loss or metric: the targets; the inputs where there are none."""
    return inputs if targets is None else targets


def main_output(outputs: Any) -> Any:
    """The tensor that a model has computed: what it returns, or the `logits` in that, as Hugging Face's models have.

    Where it is neither, what the model returned.
    """
    if isinstance(outputs, Tensor):
        return outputs
    found = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    return found if isinstance(found, Tensor) else outputs


def output_tensor(outputs: Any) -> Tensor:
    """`main_output`, which must be a tensor.

    Raises:
        ValueError: it is not.
    """
    found = main_output(outputs)
    if not isinstance(found, Tensor):
        kind = type(outputs).__name__
        raise ValueError(f"the model must return a tensor, or something that has logits (it returns a {kind})")
    return found
