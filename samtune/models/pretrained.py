"""torchvision's classification networks, from scratch or from the weights in a file."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from samtune.config.model import TorchvisionConfig
from samtune.errors import UsageError
from samtune.models.weights import read_state_dict, shapes_differ
from samtune.preflight import check_images


def torchvision_model(config: TorchvisionConfig, num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """A network of torchvision with a last layer for `num_classes`.

    Raises:
        UsageError: the images do not suit it, or the weights cannot be read or are of another network.
    """
    channels, height, width = input_shape
    check_images(config, channels, height, width)
    options: dict[str, int] = {}
    if config.architecture.startswith("vit_"):
        options["image_size"] = height
    model = _build(config.architecture, num_classes, options)
    if config.weights is not None:
        load_weights(model, Path(config.weights).expanduser().absolute())
    if config.freeze_batchnorm:
        freeze_statistics(model)
    return model


def _build(architecture: str, num_classes: int, options: dict[str, int]) -> nn.Module:
    if architecture == "efficientnet_l2":
        from samtune.models.efficientnet import efficientnet_l2

        return efficientnet_l2(num_classes)
    from torchvision.models import get_model  # 4 s of import

    model: nn.Module = get_model(architecture, weights=None, num_classes=num_classes, **options)
    return model


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads a state_dict; a last layer of another number of classes keeps its fresh weights.

    Raises:
        UsageError: the file is missing, damaged, or of another network.
    """
    weights = read_state_dict(path)
    own = model.state_dict()
    if own.keys() != weights.keys():
        names = own.keys() ^ weights.keys()
        raise UsageError(f"model.weights: {path} is not of this network ({len(names)} names differ, as {min(names)})")
    other = {name for name in own if own[name].shape != weights[name].shape}
    if not other <= _head_names(model):
        raise shapes_differ(path, other - _head_names(model), weights, own)
    model.load_state_dict({**weights, **{name: own[name] for name in other}})


def _head_names(model: nn.Module) -> set[str]:
    """Names of the weight and bias of the last layer."""
    last = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    return {f"{last}.weight", f"{last}.bias"}


class FrozenStatisticsBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that normalises with its running statistics in training too; scale and shift stay trainable."""

    def train(self, mode: bool = True) -> FrozenStatisticsBatchNorm2d:
        del mode
        super().train(False)
        return self


def freeze_statistics(model: nn.Module) -> None:
    """Turns every BatchNorm2d of a network into one with frozen statistics, in place."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = FrozenStatisticsBatchNorm2d
            module.train()
