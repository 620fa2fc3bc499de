"""Which network a trial trains."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag, field_validator

from samtune.config.base import Config, ImportPath, own_or_builtin
from samtune.config.library_model import TimmConfig, TransformersConfig, library_of
from samtune.errors import UsageError

Probability = Annotated[float, Field(ge=0, lt=1)]
Width = Annotated[int, Field(ge=1)]


def treats_examples_apart(config: ModelConfig) -> bool:
    """Whether an output is known to depend on its own example alone, in training too: no batch statistics, no noise."""
    if isinstance(config, WideResNetConfig):
        return config.norm == "none" and config.dropout == 0
    if isinstance(config, TorchvisionConfig):
        return config.architecture.startswith("vit_")
    return isinstance(config, MlpConfig)


def _check_depth(depth: int, factor: int, offset: int) -> int:
    if depth % factor != offset % factor or depth < factor + offset:
        nearest = factor * max(1, round((depth - offset) / factor)) + offset
        raise ValueError(f"depth must be {factor}n + {offset}, for example {nearest} (got {depth})")
    return depth


class DigitsCnnConfig(Config):
    """A small convolutional network with BatchNorm, for small images such as the digits' 8x8."""

    name: Literal["digits_cnn"] = "digits_cnn"
    """Network."""

    width: Width = 16
    """Channels of the first convolution; the second has twice as many."""


class MlpConfig(Config):
    """Linear layers with ReLU between them, on the pixels in a row."""

    name: Literal["mlp"] = "mlp"
    """Network."""

    depth: Annotated[int, Field(ge=1)] = 6
    """Linear layers."""

    width: Width = 128
    """Outputs of each layer but the last."""


class WideResNetConfig(Config):
    """WideResNet (Zagoruyko & Komodakis 2016); depth 28, width 10 has 36.5M parameters."""

    name: Literal["wide_resnet"] = "wide_resnet"
    """Network."""

    depth: int = 28
    """Layers with weights; 6n + 4 for n residual blocks in each of the three groups."""

    width: Width = 10
    """Channels are 16, 32 and 64 times this."""

    dropout: Probability = 0.0
    """Probability of dropping an activation between the two convolutions of a block."""

    norm: Literal["batch", "none"] = "batch"
    """`none`: no BatchNorm, as for the Hessian spectra of Foret et al. 2021, figure 3. Convolutions then have biases,
    and those at the end of L blocks start 1/√L as large, so that the outputs stay moderate; the paper prints no such
    detail."""

    @field_validator("depth")
    @classmethod
    def _depth_fits(cls, depth: int) -> int:
        return _check_depth(depth, 6, 4)


class CifarResNetConfig(Config):
    """The thin ResNets for CIFAR of He et al. 2016, section 4.2; depth 32 has 0.46M parameters."""

    name: Literal["cifar_resnet"] = "cifar_resnet"
    """Network."""

    depth: int = 32
    """Layers with weights; 6n + 2 for n residual blocks in each of the three groups: 8, 14, 20, 32, 44, 56, 110."""

    shortcuts: bool = True
    """Off: the same layers without the shortcuts, as for the loss surfaces of Foret et al. 2021, figure 1."""

    @field_validator("depth")
    @classmethod
    def _depth_fits(cls, depth: int) -> int:
        return _check_depth(depth, 6, 2)


class ResNetConfig(Config):
    """ResNet-18 and its kin (He et al. 2016) with a 3x3 first layer and no pooling after it, for small images."""

    name: Literal["resnet"] = "resnet"
    """Network."""

    depth: Literal[18, 34, 50, 101, 152] = 18
    """Layers with weights; 50 and more with bottleneck blocks."""


class ShakeShakeConfig(Config):
    """Shake-Shake 26 2xWd (Gastaldi 2017): two branches mixed at random; width 96 has 26.2M parameters."""

    name: Literal["shake_shake"] = "shake_shake"
    """Network."""

    width: Annotated[int, Field(ge=2, multiple_of=2)] = 96
    """Channels of each branch in the first of the three groups; published: 32, 64, 96, 112."""


class PyramidNetConfig(Config):
    """PyramidNet (Han 2017): channels grow a little in every block; depth 272, alpha 200 has 26.0M parameters."""

    name: Literal["pyramidnet"] = "pyramidnet"
    """Network."""

    depth: Annotated[int, Field(ge=11)] = 272
    """Layers with weights; 9n + 2 for n bottleneck blocks in each of the three groups."""

    alpha: Annotated[int, Field(ge=0)] = 200
    """Channels that all blocks together add to the first 16."""

    shake_drop: Probability = 0.0
    """ShakeDrop (Yamada 2018): probability of disturbing the last block, growing linearly from 0; published: 0.5."""

    @field_validator("depth")
    @classmethod
    def _depth_fits(cls, depth: int) -> int:
        return _check_depth(depth, 9, 2)


TorchvisionArchitecture = Literal[
    "alexnet",
    "convnext_tiny",
    "convnext_small",
    "convnext_base",
    "convnext_large",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_l2",
    "efficientnet_v2_s",
    "efficientnet_v2_m",
    "efficientnet_v2_l",
    "mnasnet0_5",
    "mnasnet0_75",
    "mnasnet1_0",
    "mnasnet1_3",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "regnet_x_400mf",
    "regnet_x_800mf",
    "regnet_x_1_6gf",
    "regnet_x_3_2gf",
    "regnet_x_8gf",
    "regnet_x_16gf",
    "regnet_x_32gf",
    "regnet_y_400mf",
    "regnet_y_800mf",
    "regnet_y_1_6gf",
    "regnet_y_3_2gf",
    "regnet_y_8gf",
    "regnet_y_16gf",
    "regnet_y_32gf",
    "regnet_y_128gf",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "squeezenet1_0",
    "squeezenet1_1",
    "swin_t",
    "swin_s",
    "swin_b",
    "swin_v2_t",
    "swin_v2_s",
    "swin_v2_b",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "vit_b_16",
    "vit_b_32",
    "vit_l_16",
    "vit_l_32",
    "vit_h_14",
    "wide_resnet50_2",
    "wide_resnet101_2",
]

TORCHVISION_ARCHITECTURES: tuple[str, ...] = get_args(TorchvisionArchitecture)


class TorchvisionConfig(Config):
    """A classification network of torchvision, from scratch or fine-tuned."""

    name: Literal["torchvision"] = "torchvision"
    """Network."""

    architecture: TorchvisionArchitecture = "resnet50"
    """torchvision's name of the network."""

    weights: str | None = None
    """File with a state_dict to start from, torch.save's or .safetensors; its last layer is left out when it has
    another number of classes."""

    freeze_batchnorm: bool = False
    """Normalise with the running statistics of `weights` and keep these as they are, for fine-tuning."""


class NoModelConfig(Config):
    """What the trials of a training function have, which builds its own network."""

    name: Literal["no_model"] = "no_model"
    """There is none."""


class OwnModelConfig(Config):
    """Your own network: a function that builds it."""

    name: ImportPath
    """`package.module:function`, called with `num_classes`, `input_shape` (channels, height, width) and the options.
    Returns a torch module: inputs [N, ...] -> outputs [N, num_classes]."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Further keyword arguments of the function."""


BuiltinModelConfig = Annotated[
    NoModelConfig
    | DigitsCnnConfig
    | MlpConfig
    | WideResNetConfig
    | CifarResNetConfig
    | ResNetConfig
    | ShakeShakeConfig
    | PyramidNetConfig
    | TorchvisionConfig,
    Field(discriminator="name"),
]


def _whose(value: Any) -> str:
    """The tag of a network's section: a library's, the user's or samtune's."""
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    return library_of(name) or own_or_builtin(value)


ModelConfig = Annotated[
    Annotated[BuiltinModelConfig, Tag("builtin")]
    | Annotated[TimmConfig, Tag("timm")]
    | Annotated[TransformersConfig, Tag("transformers")]
    | Annotated[OwnModelConfig, Tag("own")],
    Discriminator(_whose),
]


def is_one_shape(shape: Any) -> bool:
    """Whether inputs are one tensor: of nested inputs, the shape is a structure of shapes."""
    return isinstance(shape, tuple) and all(isinstance(size, int) for size in shape)


def refuse_nested_inputs(config: ModelConfig, shape: Any) -> None:
    """Raises UsageError for a network of samtune's where the inputs are nested."""
    if not is_one_shape(shape):
        raise UsageError(f"model.name {config.name} takes one tensor as input: nested inputs need your own network")
