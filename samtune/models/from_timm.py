"""timm's networks by name, from scratch or from the weights in a file."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from samtune.config.library_model import TimmConfig, refuse_missing_library
from samtune.config.yaml_source import did_you_mean
from samtune.errors import UsageError, is_machine_fault, one_line
from samtune.models.weights import read_state_dict, say
from samtune.user_code import argument_names


def _timm() -> Any:
    """The library, 4 s of import. Raises UsageError where it is not installed."""
    refuse_missing_library("timm")
    return import_module("timm")


def timm_architectures() -> list[str]:
    """timm's names, those with the tags of trained weights after the others. Raises UsageError without timm."""
    timm = _timm()
    return list(dict.fromkeys([*timm.list_models(), *timm.list_models(include_tags=True)]))


def timm_model(
    config: TimmConfig, num_classes: int, input_shape: tuple[int, ...], *, pretrained: bool = True
) -> nn.Module:
    """A network of timm for images of this shape, never with weights that timm downloads.

    Args:
        pretrained: whether the weights in the configuration's file are loaded.

    Raises:
        UsageError: timm is not there, has no such network, or refuses its options; the weights cannot be read or are
            of another network.
    """
    name = config.architecture
    if name not in (names := timm_architectures()):
        raise UsageError(f"model.name: timm has no {name}{did_you_mean(name, names, '; see `samtune models timm:`')}")
    if len(input_shape) != 3:
        raise UsageError(f"model.name {config.name} needs images [channels, height, width] (got inputs {input_shape})")
    channels, *size = input_shape
    options = {"in_chans": channels, **config.options}
    if _cfg_of(name).fixed_input_size:
        options.setdefault("img_size", tuple(size))
    if not pretrained or config.weights is None:
        return _built(config, num_classes, options)
    return _with_weights(config, num_classes, options, Path(config.weights).expanduser().absolute())


def _cfg_of(name: str) -> Any:
    """timm's facts about the network: whether it takes images of one size alone, what its head is called."""
    timm = _timm()
    return timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()


def _built(config: TimmConfig, num_classes: int, options: dict[str, Any], **source: Any) -> nn.Module:
    try:
        model: nn.Module = _timm().create_model(
            config.architecture, pretrained=bool(source), num_classes=num_classes, **source, **options
        )
    except Exception as error:  # the architecture's own checks: assertions, look-ups, shapes
        if is_machine_fault(error) or isinstance(error, MemoryError):
            raise
        if source and isinstance(error, RuntimeError):
            raise
        raise _refusal(config, num_classes, options, error) from error
    return model


def _refusal(config: TimmConfig, num_classes: int, options: dict[str, Any], error: Exception) -> UsageError:
    """What timm says of the options; of one that it does not know, the nearest that it knows."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown and unknown[1] in config.options:
        given = {key: value for key, value in options.items() if key not in config.options}
        known = argument_names(type(_built(config.model_copy(update={"options": {}}), num_classes, given)))
        known = [key for key in known if key not in config.refused and key not in ("args", "kwargs")]
        return UsageError(
            f"model.options.{unknown[1]}: unknown option of {config.name}{did_you_mean(unknown[1], known)}"
        )
    return UsageError(f"model.name: {config.name} refuses its options: {one_line(error, 300) or type(error).__name__}")


def _with_weights(config: TimmConfig, num_classes: int, options: dict[str, Any], path: Path) -> nn.Module:
    """The network with the weights in a file, as timm loads them, but strictly: nothing is missing, nothing too many.

    It is built with the file's own head first; for other classes its own function then makes a new one.
    """
    state = read_state_dict(path)
    rows = _head_rows(_cfg_of(config.architecture).classifier, state)
    source = {"state_dict": state, "num_classes": rows, "label_offset": 0, "custom_load": False}
    try:
        model = _built(config, rows, options, pretrained_cfg_overlay=source)
    except RuntimeError as error:
        if is_machine_fault(error):
            raise
        raise UsageError(f"model.weights: {path} is not of this network ({one_line(error, 200)})") from error
    model.pretrained_cfg.pop("state_dict", None)  # type: ignore[operator, union-attr]
    if rows != num_classes:
        model.reset_classifier(num_classes)  # type: ignore[operator]
        what = f"its head of {rows} classes is left out" if rows else "it has no head"
        say(f"model.weights: {path}: {what}; the new one of {num_classes} starts afresh")
    return model


def _head_rows(classifier: str | tuple[str, ...] | None, state: dict[str, Tensor]) -> int:
    """The classes of the head in a file; 0 where it has none."""
    heads = (classifier,) if isinstance(classifier, str) else classifier or ()
    return next((len(state[f"{head}.weight"]) for head in heads if f"{head}.weight" in state), 0)
