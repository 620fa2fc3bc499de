"""Which network a trial trains."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from samtune.spec.base import Config


class DigitsCnnConfig(Config):
    """A small convolutional network with BatchNorm, for small images such as the digits' 8x8."""

    name: Literal["digits_cnn"] = "digits_cnn"
    """Network."""

    width: Annotated[int, Field(ge=1)] = 16
    """Channels of the first convolution; the second has twice as many."""


class WideResNetConfig(Config):
    """WideResNet (Zagoruyko & Komodakis 2016); depth 28, width 10 has 36.5M parameters."""

    name: Literal["wide_resnet"] = "wide_resnet"
    """Network."""

    depth: Annotated[int, Field(ge=10)] = 28
    """Layers with weights; 6n + 4 for n residual blocks in each of the three groups."""

    width: Annotated[int, Field(ge=1)] = 10
    """Channels are 16, 32 and 64 times this."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of dropping an activation between the two convolutions of a block."""

    @field_validator("depth")
    @classmethod
    def _depth_fits(cls, depth: int) -> int:
        if depth % 6 != 4:
            nearest = 6 * max(1, round((depth - 4) / 6)) + 4
            raise ValueError(f"depth must be 6n + 4, for example {nearest} (got {depth})")
        return depth


ModelConfig = Annotated[DigitsCnnConfig | WideResNetConfig, Field(discriminator="name")]
