"""The base optimizers, which take the step at w, and their learning rate."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import re
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from samtune.config.method import ASAMConfig, SAMConfig
from samtune.config.optimizer import TORCH_OPTIMIZERS
from samtune.config.training import TrainingConfig
from samtune.errors import UsageError
from samtune.sam import SAM
from samtune.sam.optimizer_options import needs_closure
from samtune.user_code import argument_names, resolve_function


def base_optimizer(config: TrainingConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a network's trainable parameters, as torch or the user has it.

    Each parameter is in the group of the first pattern of `config.groups` that its name matches. With
    `decay_norms_and_biases` off, parameters of fewer than two dimensions (scales and shifts of normalization layers,
    biases) have no weight decay unless their pattern says which. Groups keep `lr_factor`, which the schedule reads, and
    `rho_factor`, which `TrainStep` reads.

    An optimizer whose constructor takes no `weight_decay` has none.

    Raises:
        UsageError: a pattern matches no parameter, or the optimizer refuses its options or needs a closure.
    """
    groups = _parameter_groups(config, model)
    cls, options = _base_class(config, model)
    try:
        optimizer = cls(groups, **options)
    except (TypeError, ValueError) as error:
        name = config.optimizer_name
        raise UsageError(f"training.optimizer: {name} refuses its options or parameters: {error}") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        name = config.optimizer_name
        raise UsageError(f"training.optimizer: {name} must be a torch optimizer (got {type(optimizer).__name__})")
    if needs_closure(optimizer):
        name = config.optimizer_name
        raise UsageError(f"training.optimizer: {name} needs a closure in each step, which no method of samtune gives")
    return optimizer


def sam_optimizer(
    config: TrainingConfig, method: SAMConfig | ASAMConfig, model: nn.Module, *, total_steps: int, seed: int
) -> SAM:
    """`samtune.sam.SAM` around the base optimizer, with the same groups; `rho_factor` scales a group's radius.

    Args:
        total_steps: of the whole training, for `start` and `stop`.

    Raises:
        UsageError: as of `base_optimizer`.
    """
    base = base_optimizer(config, model)
    cls, options = _base_class(config, model)
    more: dict[str, Any] = {}
    if isinstance(method, ASAMConfig):
        more = {"adaptive": True, "eta": method.eta, "adaptive_biases": method.adaptive_biases}
    return SAM(
        [{**group, "rho": method.rho * group.get("rho_factor", 1.0)} for group in base.param_groups],
        functools.partial(cls, **options),
        rho=method.rho,
        p=method.p,
        m="global" if method.m == "global" else "worker",
        every=method.every,
        start=math.ceil(method.start * total_steps),
        stop=None if method.stop == 1 else math.ceil(method.stop * total_steps),
        probability=method.probability,
        seed=seed,
        perturb=method.perturb,
        **more,
    )


def _base_class(config: TrainingConfig, model: nn.Module) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The class of the optimizer, and the arguments that it is made with beside the parameters' groups."""
    name, cls = config.optimizer_name, _optimizer_class(config.optimizer_name)
    options: dict[str, Any] = {"lr": config.lr}
    if _takes(cls, "weight_decay"):
        options["weight_decay"] = config.weight_decay
    if name == "sgd":
        options |= {"momentum": config.momentum, "nesterov": config.nesterov}
    elif name == "adamw":
        options["betas"] = (config.momentum, 0.999)
    # One kernel over all parameters, which also skips a step whose gradient is not finite without asking the host. Not
    # on a CPU: torch 2.14's kernels there take a gradient for one that lies in memory as its parameter does. Where it
    # does not, as where a rule sets it, the step is wrong without a word.
    if name in ("sgd", "adamw"):
        on_gpu = any(parameter.device.type == "cuda" for parameter in itertools.islice(model.parameters(), 1))
        options["fused"] = on_gpu and not any(map(config.optimizer_options.get, ("foreach", "differentiable")))
    options |= {key: tuple(v) if isinstance(v, list) else v for key, v in config.optimizer_options.items()}
    return cls, options


def hyperparameters(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Of each group what the configuration sets: arguments of the optimizer's constructor, and the group's factors.

    What else a group holds is state, which a checkpoint restores: a count of steps, Prodigy's estimate d.
    """
    base = getattr(optimizer, "base_optimizer", optimizer)
    names = {*argument_names(type(base)), "lr", "lr_factor", "rho_factor", "rho"} - {"params"}
    return [{key: value for key, value in group.items() if key in names} for group in optimizer.param_groups]


def set_hyperparameters(optimizer: torch.optim.Optimizer, values: list[dict[str, Any]]) -> None:
    """Gives each group what `hyperparameters` has said of it before."""
    for group, own in zip(optimizer.param_groups, values, strict=True):
        group.update(own)


def _takes(cls: Callable[..., Any], option: str) -> bool:
    """Whether a constructor has an argument of that name, or takes any."""
    arguments = inspect.signature(cls).parameters
    return option in arguments or any(each.kind is each.VAR_KEYWORD for each in arguments.values())


def _optimizer_class(name: str) -> Callable[..., Any]:
    if ":" in name:
        return resolve_function(name, "training.optimizer")
    attribute = TORCH_OPTIMIZERS[name].partition(":")[2]
    if not hasattr(torch.optim, attribute):
        raise UsageError(f"training.optimizer: torch {torch.__version__} has no {attribute}")
    return cast(Callable[..., Any], getattr(torch.optim, attribute))


def _parameter_groups(config: TrainingConfig, model: nn.Module) -> list[dict[str, Any]]:
    """The groups, as `add_param_group` takes them; first the parameters that no pattern matches.

    Without patterns the groups are the same for every network, empty ones included: checkpoints count on it.
    """
    patterns = [re.compile(group.match) for group in config.groups]
    matched = [False] * len(patterns)
    found: dict[tuple[int, bool], list[nn.Parameter]] = {(-1, False): []}
    if not config.decay_norms_and_biases:
        found[-1, True] = []
    for name, parameter in model.named_parameters():
        hits = [index for index, pattern in enumerate(patterns) if pattern.search(name)]
        for index in hits:
            matched[index] = True
        if parameter.requires_grad:
            is_decayed = config.decay_norms_and_biases or parameter.ndim >= 2
            found.setdefault((hits[0] if hits else -1, not is_decayed), []).append(parameter)
    if not all(matched):
        index = matched.index(False)
        names = ", ".join(name for name, _ in list(model.named_parameters())[:4])
        raise UsageError(
            f"training.groups.{index}.match: {config.groups[index].match!r} matches no parameter (names are {names}, …)"
        )
    groups: list[dict[str, Any]] = []
    for (index, is_spared), parameters in sorted(found.items(), key=lambda item: item[0]):
        group: dict[str, Any] = {"params": parameters}
        decay = 0.0 if is_spared else config.weight_decay
        if index >= 0:
            own = config.groups[index]
            decay = (decay if own.weight_decay is None else own.weight_decay) * own.weight_decay_factor
            group |= {"lr": config.lr * own.lr_factor, "lr_factor": own.lr_factor, "rho_factor": own.rho_factor}
        groups.append(group | ({"weight_decay": decay} if index >= 0 or is_spared else {}))
    return groups


def learning_rate(
    config: TrainingConfig, step: int, *, num_epochs: int, steps_per_epoch: int, total_steps: int | None = None
) -> float:
    """The learning rate of one step.

    Args:
        step: counted from 0 over the whole training.
        num_epochs: of the whole training.
        total_steps: of it; None: its last epoch has as many steps as the others.

    Returns:
        During the warm-up a linear rise that reaches `lr` at its end; then the schedule over the remaining steps:
        cosine `lr/2 (1 + cos πt)` and linear `lr (1 - t)` go to 0 at the end of training, t being the share done.
    """
    warmup = config.warmup_epochs * steps_per_epoch
    total = num_epochs * steps_per_epoch if total_steps is None else total_steps
    if step < warmup:
        return config.lr * min(1.0, (step + 1) / warmup)
    done = (step - warmup) / max(total - warmup, 1.0)
    match config.schedule:
        case "constant":
            return config.lr
        case "cosine":
            return config.lr * 0.5 * (1.0 + math.cos(math.pi * done))
        case "linear":
            return config.lr * (1.0 - done)
        case "multi_step":
            passed = sum(step >= milestone * steps_per_epoch for milestone in config.milestones)
            return config.lr * float(config.decay_factor**passed)
