"""Which parameters a method perturbs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

_NORMS: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._NormBase,  # BatchNorm and InstanceNorm of any dimension
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def perturbed_parameters(model: nn.Module, parameters: Sequence[Tensor], perturb: str) -> list[int] | None:
    """The positions of the parameters that a method perturbs; None: all.

    The others keep ε = 0 and do not enter the norm that bounds ε: SAM-ON (Mueller et al., NeurIPS 2023, "Normalization
    Layers Are All That Sharpness-Aware Minimization Needs") is `only_norm`. All parameters take the base optimizer's
    step.

    Args:
        model: names the parameters.
        parameters: w.
        perturb: `all`; `no_norm_bias`: without those of normalisation layers and without biases; `only_norm`: those of
            normalisation layers alone; or a regular expression that is searched in the parameters' names.

    Raises:
        ValueError: nothing is left to perturb, or the expression is none.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters(remove_duplicate=False)}
    return perturbed_among(names, model.modules(), parameters, perturb)


def perturbed_among(
    names: Mapping[int, str], modules: Iterable[nn.Module], parameters: Sequence[Tensor], perturb: str
) -> list[int] | None:
    """The same without a model.

    Args:
        names: of the parameters, by their id.
        modules: that may be normalisation layers.
    """
    if perturb == "all":
        return None
    norms = {id(p) for module in modules if isinstance(module, _NORMS) for p in module.parameters(False)}
    if perturb == "only_norm":
        chosen = [id(p) in norms for p in parameters]
    elif perturb == "no_norm_bias":
        biases = {key for key, name in names.items() if name.rpartition(".")[2] == "bias"}
        chosen = [id(p) not in norms and id(p) not in biases for p in parameters]
    else:
        pattern = compile_pattern(perturb)
        chosen = [pattern.search(names.get(id(p), "")) is not None for p in parameters]
    if parameters and not any(chosen):
        known = ", ".join(names[id(p)] for p in parameters[:3] if id(p) in names)
        raise ValueError(f"perturb must match a trained parameter (got {perturb!r}; there are {known}, ...)")
    return [index for index, is_chosen in enumerate(chosen) if is_chosen]


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The regular expression. Raises ValueError if it is none."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"perturb must be all, no_norm_bias, only_norm or a regular expression (got {pattern!r}: {error})"
        ) from error
