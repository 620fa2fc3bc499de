"""Classifiers of Hugging Face's transformers by type, from scratch or from a folder or file of weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from samtune.config.library_model import TransformersConfig, refuse_missing_library
from samtune.config.model import is_one_shape
from samtune.config.yaml_source import did_you_mean
from samtune.errors import UsageError, is_machine_fault, one_line
from samtune.models.weights import read_folder, read_state_dict, say, shapes_differ

_NOT_OF_A_FOLDER = ("auto_map", "quantization_config", "dtype", "torch_dtype", "_attn_implementation", "num_labels")
"""What a config.json may say that names code, or what the data and the training say."""


def transformers_architectures() -> list[str]:
    """The types that have a classifier of text or images, and the names of these. Raises UsageError without it."""
    sequence, image = _classes()
    return [*sorted({*sequence, *image}), *sorted({*sequence.values(), *image.values()})]


def transformers_model(
    config: TransformersConfig, num_classes: int, input_shape: Any, *, pretrained: bool = True
) -> nn.Module:
    """A classifier of transformers for inputs of this shape; nothing is downloaded, and no code of a folder runs.

    Args:
        input_shape: of images (channels, height, width); of text, a structure of shapes by argument, or one.
        pretrained: whether the weights in the configuration's folder or file are loaded.

    Raises:
        UsageError: transformers is not there, has no such type, or refuses the options; the weights cannot be read or
            are of another network.
    """
    are_images = is_one_shape(input_shape) and len(input_shape) == 3
    cls = _class_of(config, are_images)
    path = Path(config.weights).expanduser().absolute() if config.weights else None
    folder = path if path is not None and path.is_dir() else None
    with _quiet():
        settings = _settings(cls.config_class, config, num_classes, input_shape if are_images else None, folder)
        try:
            if path is None or not pretrained:
                model: nn.Module = cls(settings)
                return model
            state = read_folder(path) if folder else read_state_dict(path)
            return _with_weights(cls, settings, state, path, num_classes)
        except UsageError:
            raise
        except Exception as error:  # the architecture's own checks
            if is_machine_fault(error) or isinstance(error, MemoryError):
                raise
            text = one_line(error, 300) or type(error).__name__
            raise UsageError(f"model.name: {config.name} refuses its options: {text}") from error


def _part(module: str = "") -> Any:
    """A module of the library, 3 s of import. Raises UsageError where it is not installed."""
    refuse_missing_library("transformers")
    return import_module(f"transformers.{module}".rstrip("."))


def _classes() -> tuple[dict[str, str], dict[str, str]]:
    """The classifiers of text and of images, by type."""
    auto = _part("models.auto.modeling_auto")

    def first(names: Mapping[str, Any]) -> dict[str, str]:
        one = {kind: name if isinstance(name, str) else name[0] for kind, name in names.items()}
        return {kind: name for kind, name in one.items() if kind != "timm_wrapper"}  # timm's go by `timm:`

    return (
        first(auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES),
        first(auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES),
    )


def _class_of(config: TransformersConfig, are_images: bool) -> Any:
    """The class of the network: of a type, the classifier of what the data has."""
    sequence, image = _classes()
    name, (fitting, other) = config.architecture, (image, sequence) if are_images else (sequence, image)
    if name in {*sequence.values(), *image.values()}:
        found = name
    elif name in fitting:
        found = fitting[name]
    elif name in other:
        has, takes = ("images", "text") if are_images else ("no images", "images")
        raise UsageError(f"model.name: {config.name} classifies {takes}, and the data has {has}")
    else:
        hint = did_you_mean(name, transformers_architectures(), "; see `samtune models transformers:`")
        raise UsageError(f"model.name: transformers has no classifier {name}{hint}")
    return getattr(_part(), found)


def _settings(
    settings_class: Any,
    config: TransformersConfig,
    num_classes: int,
    image: tuple[int, ...] | None,
    folder: Path | None,
) -> Any:
    """The configuration of transformers: the folder's or the type's default, with the options, for these classes."""
    written = _of_folder(settings_class, folder) if folder is not None else {}
    default = _default(settings_class, config)
    known = [*default.to_dict(), *default.attribute_map, "attn_implementation"]
    known = [key for key in known if key not in config.refused]
    for key in config.options:
        if key not in known:
            hint = did_you_mean(key, [each for each in known if not each.startswith("_")])
            raise UsageError(f"model.options.{key}: unknown option of {config.name}{hint}")
    changes = {"num_labels": num_classes, **config.options}
    if image is not None:
        channels, height, width = image
        changes |= {"num_channels": channels} if hasattr(default, "num_channels") else {}
        if folder is None and "image_size" in known:  # a trained network has positions for one size
            is_pair = height != width or isinstance(default.image_size, list | tuple)
            changes.setdefault("image_size", [height, width] if is_pair else height)
    if len(written.get("id2label", {})) != num_classes:  # names of other classes
        written = {key: value for key, value in written.items() if key not in ("id2label", "label2id")}
    try:
        return settings_class.from_dict({**written, **changes})
    except Exception as error:  # checks of the types, in the class's own words
        text = one_line(error, 300)
        raise UsageError(f"model.options: {config.name} refuses its options: {text}") from error


def _default(settings_class: Any, config: TransformersConfig) -> Any:
    try:
        return settings_class()
    except Exception as error:  # one that is put together of others
        text = one_line(error, 200)
        raise UsageError(f"model.name: {config.name} has no configuration of its own: {text}") from error


def _of_folder(settings_class: Any, folder: Path) -> dict[str, Any]:
    """What a folder's config.json says, which must be of this type."""
    file = folder / "config.json"
    try:
        written: dict[str, Any] = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"model.weights: {file} cannot be read ({one_line(error, 200)})") from error
    kind = written.get("model_type")
    if kind != settings_class.model_type:
        raise UsageError(f"model.weights: {file} is of type {kind}: write model.name transformers:{kind}")
    return {key: value for key, value in written.items() if key not in _NOT_OF_A_FOLDER}


def _with_weights(cls: Any, settings: Any, state: dict[str, Tensor], path: Path, num_classes: int) -> nn.Module:
    """The network with these weights, as transformers loads them; its body must have all of its own."""
    found: tuple[nn.Module, dict[str, Any]] = cls.from_pretrained(
        None,
        config=settings,
        state_dict=dict(state),
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        local_files_only=True,
    )
    model, loading = found
    body = f"{cls.base_model_prefix}."
    other = {entry if isinstance(entry, str) else entry[0] for entry in loading["mismatched_keys"]}
    missing = {name for name in loading["missing_keys"] if name not in other}
    if wrong := [name for name in other if name.startswith(body)]:
        raise shapes_differ(path, wrong, {**{f"{body}{k}": v for k, v in state.items()}, **state}, model.state_dict())
    # A pooler is no part of what is trained as a language model.
    if lost := [name for name in missing if name.startswith(body) and "pooler" not in name]:
        raise UsageError(
            f"model.weights: {path} is not of this network ({len(lost)} names are missing, as {min(lost)})"
        )
    if new := sorted(other | missing):
        say(f"model.weights: {path}: {', '.join(new)} of {num_classes} classes start afresh")
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Within it transformers shows no bars and tables of its own; what it would say is ours to say."""
    library = _part("utils.logging")
    level, bar = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(level)
        if bar:
            library.enable_progress_bar()
