"""The base optimizer with its own options, and the settings of groups of parameters."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from samtune.config.base import Config
from samtune.config.yaml_source import did_you_mean
from samtune.user_code import IMPORT_PATH
from samtune.user_source import constructor_options

TORCH_OPTIMIZERS = {
    "sgd": "torch.optim.sgd:SGD",
    "adamw": "torch.optim.adamw:AdamW",
    "adam": "torch.optim.adam:Adam",
    "adadelta": "torch.optim.adadelta:Adadelta",
    "adafactor": "torch.optim._adafactor:Adafactor",
    "adagrad": "torch.optim.adagrad:Adagrad",
    "adamax": "torch.optim.adamax:Adamax",
    "asgd": "torch.optim.asgd:ASGD",
    "muon": "torch.optim._muon:Muon",
    "nadam": "torch.optim.nadam:NAdam",
    "radam": "torch.optim.radam:RAdam",
    "rmsprop": "torch.optim.rmsprop:RMSprop",
    "rprop": "torch.optim.rprop:Rprop",
}
"""torch's optimizers by the name that a space calls them, and the module in which the source of each is. Without LBFGS
and SparseAdam: the one needs a closure, the other sparse gradients."""

OF_THE_TRAINING = {
    "lr": "is set by training.lr",
    "weight_decay": "is set by training.weight_decay",
    "params": "must not be given: training.groups divides the network's parameters",
    "maximize": "must not be given: the loss is minimized",
}
"""Arguments of a constructor that are no options, and why."""


def _known(name: str) -> str:
    if name not in TORCH_OPTIMIZERS and not re.fullmatch(IMPORT_PATH, name):
        otherwise = f"valid are {', '.join(TORCH_OPTIMIZERS)}, package.module:Class and my.py:Class"
        raise ValueError(f"unknown optimizer {name!r}{did_you_mean(name, TORCH_OPTIMIZERS, otherwise)}")
    return name


OptimizerName = Annotated[
    str,
    AfterValidator(_known),
    WithJsonSchema({"anyOf": [{"enum": list(TORCH_OPTIMIZERS)}, {"type": "string", "pattern": f"^{IMPORT_PATH}$"}]}),
]
"""One of `TORCH_OPTIMIZERS`, or `package.module:class`."""


class OptimizerConfig(Config):
    """An optimizer with options of its constructor next to its name, e.g. `{name: adamw, betas: [0.9, 0.95]}`."""

    model_config = ConfigDict(extra="allow")

    name: OptimizerName
    """One of torch's (sgd, adamw, rmsprop, …), or a class of yours as `package.module:class`."""

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _check(self) -> Self:
        valid = None
        if self.name in TORCH_OPTIMIZERS:
            valid = constructor_options(TORCH_OPTIMIZERS[self.name])
        for key in self.options:
            problem = OF_THE_TRAINING.get(key)
            if problem is None and valid is not None and key not in valid:
                others = [option for option in valid if option not in OF_THE_TRAINING]
                problem = f"unknown option of {self.name}{did_you_mean(key, others)}"
            if problem is not None:
                raise PydanticCustomError(
                    "space_rule", "{problem}", {"key": f"training.optimizer.{key}", "problem": problem}
                )
        return self


def _form(value: Any) -> str:
    return "options" if isinstance(value, dict | OptimizerConfig) else "plain"


Optimizer = Annotated[
    Annotated[OptimizerName, Tag("plain")] | Annotated[OptimizerConfig, Tag("options")], Discriminator(_form)
]
"""A name alone, or a name with options."""


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"must be a regular expression: {error} (got {pattern!r})") from None
    return pattern


Factor = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ParameterGroupConfig(Config):
    """What differs for the parameters whose names match a pattern."""

    match: Annotated[str, AfterValidator(_compiles)]
    """Regular expression, looked for anywhere in a parameter's name (`layers.0.weight`). A parameter belongs to the
    first group that it matches."""
    lr_factor: Factor = 1.0
    """Multiplies the learning rate."""
    weight_decay: Factor | None = None
    """Weight decay of the group; none: that of the training."""
    weight_decay_factor: Factor = 1.0
    """Multiplies the weight decay."""
    rho_factor: Factor = 1.0
    """Multiplies the group's part of the perturbation: where a method moves the weights to w + ε, they move to w + F·ε,
    F diagonal with this factor for each parameter of the group. The method's norms are those of ε before that."""
