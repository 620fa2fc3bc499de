"""Networks by the name in their configuration."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from samtune.config.library_model import TimmConfig, TransformersConfig
from samtune.config.model import (
    BuiltinModelConfig,
    CifarResNetConfig,
    DigitsCnnConfig,
    MlpConfig,
    ModelConfig,
    NoModelConfig,
    OwnModelConfig,
    PyramidNetConfig,
    ResNetConfig,
    ShakeShakeConfig,
    TorchvisionConfig,
    WideResNetConfig,
    refuse_nested_inputs,
)
from samtune.errors import UsageError
from samtune.user_code import resolve_function


def build_model(
    config: ModelConfig,
    *,
    num_classes: int,
    input_shape: tuple[int, ...],
    seed: int,
    function: Callable[..., nn.Module] | None = None,
    pretrained: bool = True,
) -> nn.Module:
    """A freshly initialised network on the CPU.

    Args:
        config: which network.
        num_classes: outputs of its last layer.
        input_shape: (channels, height, width) of an input; of nested inputs, the same structure of shapes.
        function: of a network of the user's; default: what the configuration names, which is imported.
        pretrained: whether the weights that the configuration names, a file, are loaded.
        seed: the initialisation is a function of this alone; the caller's random state is left as it was.

    Returns:
        A module that maps float [N, C, H, W] to logits [N, num_classes].

    Raises:
        ValueError: the network cannot take inputs of this shape, or its weights cannot be loaded.
    """
    # Not torch.manual_seed: that would seed the accelerators' generators too.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if isinstance(config, OwnModelConfig):
            return _own_model(config, num_classes, input_shape, function)
        if isinstance(config, TimmConfig):
            from samtune.models.from_timm import timm_model

            return timm_model(config, num_classes, input_shape, pretrained=pretrained)
        if isinstance(config, TransformersConfig):
            from samtune.models.from_transformers import transformers_model

            return transformers_model(config, num_classes, input_shape, pretrained=pretrained)
        if isinstance(config, TorchvisionConfig) and not pretrained:
            config = config.model_copy(update={"weights": None})
        return _build(config, num_classes, input_shape)


def _build(config: BuiltinModelConfig, num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
    refuse_nested_inputs(config, input_shape)
    if not isinstance(config, MlpConfig) and len(input_shape) != 3:
        raise UsageError(f"model.name {config.name} needs images [channels, height, width] (got inputs {input_shape})")
    channels, height, width = input_shape if len(input_shape) == 3 else (0, 0, 0)
    match config:
        case DigitsCnnConfig():
            from samtune.models.digits_cnn import DigitsCnn

            return DigitsCnn(config.width, num_classes, (channels, height, width))
        case MlpConfig():
            from samtune.models.mlp import mlp

            return mlp(config.depth, config.width, num_classes, input_shape)
        case WideResNetConfig():
            from samtune.models.wide_resnet import WideResNet

            return WideResNet(
                config.depth, config.width, config.dropout, num_classes, channels, batch_norm=config.norm == "batch"
            )
        case CifarResNetConfig():
            from samtune.models.resnet import cifar_resnet

            return cifar_resnet(config.depth, num_classes, channels, shortcuts=config.shortcuts)
        case ResNetConfig():
            from samtune.models.resnet import resnet

            return resnet(config.depth, num_classes, channels)
        case ShakeShakeConfig():
            from samtune.models.shake_shake import ShakeShakeNet

            return ShakeShakeNet(config.width, num_classes, channels)
        case PyramidNetConfig():
            from samtune.models.pyramidnet import PyramidNet

            return PyramidNet(config.depth, config.alpha, config.shake_drop, num_classes, channels)
        case TorchvisionConfig():
            from samtune.models.pretrained import torchvision_model

            return torchvision_model(config, num_classes, (channels, height, width))
        case NoModelConfig():
            raise AssertionError("built by a function of the user's")


def _own_model(
    config: OwnModelConfig,
    num_classes: int,
    input_shape: tuple[int, ...],
    function: Callable[..., nn.Module] | None,
) -> nn.Module:
    """What the function returns.

    Args:
        function: None: what the configuration names, which is imported.

    Raises:
        UsageError: it cannot be imported, is a module itself, or does not return one.
    """
    function = function or resolve_function(config.name, "model.name")
    if isinstance(function, nn.Module):
        raise UsageError(
            f"model.name: {config.name} must be a function or class that makes a torch.nn.Module, a new one for each "
            f"trial (got a {type(function).__name__}, made already)"
        )
    model = function(num_classes=num_classes, input_shape=input_shape, **config.options)
    if not isinstance(model, nn.Module):
        raise UsageError(f"model.name: {config.name} must return a torch.nn.Module (got {type(model).__name__})")
    return model
