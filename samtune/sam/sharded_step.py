"""What `TrainStep` does otherwise where `fully_shard` (FSDP2) has cut up the parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from samtune.sam import vectors
from samtune.sam.layout import GroupLayout
from samtune.sam.rules.base import AdamWRule, Rule
from samtune.sam.shards import Shards, distributed_like, is_sharded, local, whole_tensor, wrapped


def check_sharded(shards: Shards, rule: Rule, layout: GroupLayout) -> None:
    """Raises ValueError where a step cannot be made on parameters of which each worker has a part.

    Args:
        layout: of the method.
    """
    if (ranks := dist.get_world_size(shards.group)) != layout.num_workers:
        raise ValueError(f"the model must be sharded over all workers (over {ranks}, num_workers {layout.num_workers})")
    if type(rule) in (Rule, AdamWRule):
        return
    if layout.num_groups > 1:
        raise ValueError(
            f"m must be global for sharded parameters (DTensor: fully_shard), of whose gradient there is only the mean "
            f"over the workers (m is {layout.group_size} of {layout.batch_size} examples)"
        )
    if not type(rule).__module__.startswith("samtune."):
        raise ValueError("a rule of your own takes no sharded parameters (DTensor): its norms would be those of a part")
    rule.check_shards()


def gradients_of_parts(
    loss: Tensor, parameters: Sequence[Tensor], all_parameters: Sequence[Tensor], only: Sequence[int] | None = None
) -> list[Tensor | None]:
    """This rank's part of ∇loss, averaged over the ranks; None where the loss does not depend on a parameter.

    `fully_shard` computes a gradient in `.grad` alone, by a backward; what was there is put back.

    Args:
        all_parameters: of the model.
        only: positions of the parameters whose gradient is wanted, the others' is None; None: all.
    """
    before = [parameter.grad for parameter in all_parameters]
    for parameter in all_parameters:
        parameter.grad = None
    loss.backward()  # type: ignore[no-untyped-call]
    chosen = range(len(parameters)) if only is None else only
    found = [
        local([parameter.grad])[0] if index in chosen and parameter.grad is not None else None
        for index, parameter in enumerate(parameters)
    ]
    for parameter, gradient in zip(all_parameters, before, strict=True):
        parameter.grad = gradient
    return found


def add_to_gradient(parameter: Tensor, part: Tensor) -> None:
    """`.grad` += what this rank has of a vector: all, or its part."""
    if parameter.grad is None:
        parameter.grad = wrapped(part, parameter) if is_sharded(parameter) else part
    elif is_sharded(parameter):
        local([parameter.grad])[0].add_(part)
    else:
        parameter.grad = vectors.dense([parameter.grad])[0].add_(part)


def clip_(gradients: Sequence[Tensor], limit: float, norm: Tensor) -> None:
    """As torch.nn.utils.clip_grads_with_norm_, which takes no parts."""
    vectors.scale_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))


# -- state -------------------------------------------------------------------------------------------------------------


def whole_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """A module's state with its sharded tensors whole, the same on all ranks. A collective."""
    return {key: whole_tensor(value) if is_sharded(value) else value for key, value in state.items()}


def cut_state(state: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """A whole state for a module that is sharded.

    Args:
        like: the state that the module has.
    """
    return {
        key: distributed_like(like[key], value) if is_sharded(like.get(key)) else value for key, value in state.items()
    }


def whole_optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """`optimizer.state_dict()` with its sharded tensors, if there are any, whole. Then it is a collective."""
    state = optimizer.state_dict()
    parameters = _parameters(optimizer)
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if is_sharded(value) and value.shape != parameters[index].shape:
                raise ValueError(
                    f"{type(optimizer).__name__} keeps {key} of another shape than the parameter it is of: the state "
                    "cannot be saved where parameters are sharded (DTensor)"
                )
    return _mapped(state, lambda value, index: whole_tensor(value) if is_sharded(value) else value)


def cut_optimizer_state(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A whole state for an optimizer, whose parameters may be sharded."""
    parameters = _parameters(optimizer)

    def cut(value: Any, index: int) -> Any:
        if is_sharded(parameters[index]) and isinstance(value, Tensor) and value.shape == parameters[index].shape:
            return distributed_like(parameters[index], value)
        return value

    return _mapped(state, cut)


def whole_rule_state(rule: Rule, shards: Shards | None) -> dict[str, Any]:
    """`rule.state_dict()` with its vectors whole. Of sharded parameters a collective."""
    state = rule.state_dict()
    if shards is None:
        return state
    return {**state, **{name: shards.whole(state[name]) for name in rule.state_vectors if state[name]}}


def cut_rule_state(rule: Rule, shards: Shards | None, state: dict[str, Any]) -> dict[str, Any]:
    """A whole state for a rule, which may work on parts of the parameters."""
    if shards is None:
        return state
    return {**state, **{name: shards.cut_all(state[name]) for name in rule.state_vectors if state[name]}}


def _mapped(state: dict[str, Any], change: Callable[[Any, int], Any]) -> dict[str, Any]:
    entries = {
        index: {key: change(value, index) for key, value in entry.items()} for index, entry in state["state"].items()
    }
    return {**state, "state": entries}


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
