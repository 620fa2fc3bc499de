"""Whether a trial's parts can be built, found out before any worker starts and without torch."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

from samtune.config.library_model import LibraryModelConfig, TransformersConfig, refuse_missing_library
from samtune.config.method import MethodConfig
from samtune.config.model import (
    DigitsCnnConfig,
    MlpConfig,
    ModelConfig,
    OwnModelConfig,
    TorchvisionConfig,
    refuse_nested_inputs,
)
from samtune.config.optimizer import OF_THE_TRAINING
from samtune.config.own_method import OwnMethodConfig
from samtune.config.training import LOSSES, METRICS_BY_NAME, OF_CLASSES, TrainingConfig
from samtune.config.yaml_source import did_you_mean
from samtune.errors import UsageError, one_line
from samtune.storage import is_file
from samtune.user_code import argument_names, check_function, resolve_function, takes_option
from samtune.user_source import constructor_options, look_up

_SMALLEST = {"alexnet": 63, "vgg": 32, "densenet": 29, "squeezenet": 17}
"""Sides in pixels below which nothing is left of an image in these networks of torchvision."""


def check_relabel(network: str | None) -> None:
    """Makes sure that the network whose predictions replace the labels is there.

    Raises:
        UsageError: it is not.
    """
    if network is None:
        return
    try:
        found = is_file(network)
    except (OSError, ValueError) as error:
        raise UsageError(f"data.relabel: {network} cannot be read ({one_line(error)})") from error
    if not found:
        raise UsageError(f"data.relabel: {network} is not there: `samtune train` leaves it as best.safetensors")


def check_model(
    config: ModelConfig, *, num_classes: int, input_shape: tuple[int, ...], import_code: bool = True
) -> None:
    """Makes sure that inputs of this shape suit the network, and that its weights or its function are there.

    Args:
        import_code: whether a function of the user's may be imported; else only its source is read.

    Raises:
        UsageError: they do not, or are not.
    """
    if isinstance(config, OwnModelConfig):
        check = check_function if import_code else look_up
        check(config.name, "model.name", num_classes=num_classes, input_shape=input_shape, **config.options)
        return
    if isinstance(config, LibraryModelConfig):
        refuse_missing_library(config.library)
        check_library_weights(config)
        return  # the library itself says what suits it: `samtune.experiments.network_check`
    refuse_nested_inputs(config, input_shape)
    if isinstance(config, MlpConfig):
        return
    if len(input_shape) != 3:
        raise UsageError(f"model.name {config.name} needs images [channels, height, width] (got inputs {input_shape})")
    channels, height, width = input_shape
    if isinstance(config, DigitsCnnConfig) and min(height, width) < 4:
        raise UsageError(f"model.name digits_cnn needs images of at least 4x4 pixels (got {height}x{width})")
    if isinstance(config, TorchvisionConfig):
        check_images(config, channels, height, width)
        if config.weights is not None:
            check_weights(Path(config.weights).expanduser().absolute())


def check_train(path: str, *, import_code: bool = True) -> None:
    """Makes sure that a training function is there and takes one argument, the trial.

    Args:
        import_code: as of `check_model`.

    Raises:
        UsageError: it is not, or does not.
    """
    (check_function if import_code else look_up)(path, "train", None)


def check_training(config: TrainingConfig, *, import_code: bool = True) -> None:
    """Makes sure that the user's optimizer takes its options, and the loss and metrics take (outputs, targets).

    Args:
        import_code: as of `check_model`.

    Raises:
        UsageError: one is not, or does not.
    """
    check = check_function if import_code else look_up
    if ":" in config.loss:
        check(config.loss, "training.loss", None, None)
    if ":" in (optimizer := config.optimizer_name):
        options, valid = config.optimizer_options, constructor_options(optimizer)
        cls = resolve_function(optimizer, "training.optimizer") if import_code else None
        for key in options:
            if valid is not None and key not in valid:
                raise UsageError(f"training.optimizer.{key}: unknown option of {optimizer}{did_you_mean(key, valid)}")
            if isinstance(cls, type) and not takes_option(cls, key):
                hint = did_you_mean(key, [name for name in argument_names(cls) if name not in OF_THE_TRAINING])
                raise UsageError(f"training.optimizer.{key}: unknown option of {optimizer}{hint}")
        check(optimizer, "training.optimizer", [], lr=config.lr, **options)
    for index, path in enumerate(config.metrics):
        if ":" in path:
            check(path, f"training.metrics.{index}", None, None)


def check_task(config: TrainingConfig, *, classes: bool, one_target: bool = True) -> None:
    """Makes sure that a loss and metrics by name suit the targets.

    Raises:
        UsageError: they want classes where the targets are others, or the other way round; or one tensor, where the
            targets are nested or none.
    """
    for key, name in [("loss", config.loss), *[("metrics", name) for name in config.metrics]]:
        if ":" not in name and not one_target:
            raise UsageError(
                f"training.{key}: {name} needs targets that are one tensor, and the data has nested ones or none; "
                "set your own function"
            )
        if ":" not in name and (name in OF_CLASSES) != classes:
            others = [n for n in (LOSSES if key == "loss" else METRICS_BY_NAME) if (n in OF_CLASSES) == classes]
            needs, has = ("numbers", "classes") if classes else ("classes", "no classes")
            raise UsageError(
                f"training.{key}: {name} needs targets that are {needs}, and the data has {has}; "
                f"set {', '.join(others)} or your own function"
            )


def check_stream_training(config: TrainingConfig, data: str) -> None:
    """Makes sure that a training suits a training set that can only be gone through.

    Args:
        data: the data function, for messages.

    Raises:
        UsageError: it goes by epochs, or wants to label the set anew.
    """
    if config.steps is None:
        raise UsageError(f"training.steps: is needed instead of epochs: {data} gives an iterable, which has no length")
    if config.bootstrap:
        raise UsageError(
            f"training.bootstrap: {data} gives an iterable: its labels cannot be changed (got {config.bootstrap})"
        )


def check_method(config: MethodConfig, *, import_code: bool = True) -> None:
    """Makes sure that a rule of the user's is there, and takes its options.

    Args:
        import_code: as of `check_model`.

    Raises:
        UsageError: it is not, or does not.
    """
    if not isinstance(config, OwnMethodConfig):
        return
    valid = constructor_options(config.name)
    for key in config.options:
        if valid is not None and key not in valid:
            options = [each for each in (*valid, *OwnMethodConfig.model_fields) if each not in ("parameters", "seed")]
            raise UsageError(f"method.{key}: unknown option of {config.name}{did_you_mean(key, options)}")
    check = check_function if import_code else look_up
    check(config.name, "method.name", [], 0, **config.options)
    if import_code:
        options_class = getattr(resolve_function(config.name, "method.name"), "options_class", None)
        try:
            if options_class is not None:
                options_class(**config.options)
        except (TypeError, ValueError) as error:
            raise UsageError(f"method.name: {config.name} refuses its options: {one_line(error)}") from error


def check_images(config: TorchvisionConfig, channels: int, height: int, width: int) -> None:
    """Raises UsageError where images of this shape do not suit a network of torchvision."""
    name = config.architecture
    if channels != 3:
        raise UsageError(f"model.architecture {name} needs colour images (got {channels} channels)")
    if name.startswith("vit_"):
        patch = int(name.rsplit("_", 1)[1])
        if height != width or height % patch:
            raise UsageError(
                f"model.architecture {name} needs square images of a multiple of {patch} pixels ({height}x{width})"
            )
    least = next((side for prefix, side in _SMALLEST.items() if name.startswith(prefix)), 1)
    if min(height, width) < least:
        raise UsageError(
            f"model.architecture {name} needs images of at least {least}x{least} pixels (got {height}x{width})"
        )


def check_weights(path: Path) -> None:
    """Raises UsageError where a file is not one that `torch.save` or safetensors wrote; its content is not read."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise UsageError(f"model.weights: {path} cannot be read ({error.strerror or error})") from error
    if not zipfile.is_zipfile(path) and start[:1] != pickle.PROTO and not _is_safetensors(start, size):
        raise UsageError(f"model.weights: {path} is not a file that torch.save or safetensors wrote, or not all of it")


def _is_safetensors(start: bytes, size: int) -> bool:
    """Whether a file begins with the length of a JSON header that is in it."""
    return start[8:9] == b"{" and 8 + int.from_bytes(start[:8], "little") <= size


def check_library_weights(config: LibraryModelConfig) -> None:
    """Raises UsageError where the weights of a library's network are not there; their content is not read."""
    weights = getattr(config, "weights", None)
    if weights is None:
        return
    path = Path(weights).expanduser().absolute()
    if not isinstance(config, TransformersConfig) or not path.is_dir():
        check_weights(path)
    elif not (path / "config.json").is_file():
        raise UsageError(f"model.weights: {path} has no config.json: it is not a folder that save_pretrained wrote")
