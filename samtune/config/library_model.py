"""Networks of other libraries by their own names there: `timm:…` and `transformers:…`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from samtune.config.base import Config
from samtune.errors import UsageError


class LibraryModelConfig(Config):
    """A network that another library builds.

    Attributes:
        library: the name of its package; that of an extra of samtune too.
        refused: options that are no matter of a search space, and why.
    """

    library: ClassVar[str]
    refused: ClassVar[dict[str, str]]

    name: str
    """`library:architecture`."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the architecture."""

    @property
    def architecture(self) -> str:
        """The library's name of it."""
        return self.name.partition(":")[2]

    @field_validator("options")
    @classmethod
    def _options_are_its_own(cls, options: dict[str, Any]) -> dict[str, Any]:
        for key in options:
            if key in cls.refused:
                raise ValueError(f"must not have {key}: {cls.refused[key]}")
        return options


_FROM_DATA = "it is taken from the data"
_FROM_WEIGHTS = "nothing is downloaded, and a file is named by model.weights"


class TimmConfig(LibraryModelConfig):
    """A network of timm, from scratch or with weights in a file; needs `pip install 'samtune[timm]'`."""

    library: ClassVar[str] = "timm"
    refused: ClassVar[dict[str, str]] = {
        "num_classes": _FROM_DATA,
        "in_chans": _FROM_DATA,
        **dict.fromkeys(
            ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"), _FROM_WEIGHTS
        ),
        "features_only": "the network must classify",
    }

    name: Annotated[str, Field(pattern=r"^timm:\S+$")]
    """`timm:architecture`; `samtune models 'timm:vit*'` lists those that there are."""

    weights: str | None = None
    """File with a state_dict as timm writes it, .safetensors or torch.save's. A head of another number of classes is
    left out; position embeddings and a first layer for other channels are fitted as timm does."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the architecture, e.g. `drop_path_rate: 0.1`. Where it takes images of one size alone, `img_size` is
    that of the data."""


class TransformersConfig(LibraryModelConfig):
    """A classifier of Hugging Face's transformers, of text or images; needs `pip install 'samtune[transformers]'`."""

    library: ClassVar[str] = "transformers"
    refused: ClassVar[dict[str, str]] = {
        "num_labels": _FROM_DATA,
        "num_channels": _FROM_DATA,
        **dict.fromkeys(("id2label", "label2id"), _FROM_DATA),
        **dict.fromkeys(("auto_map", "trust_remote_code", "quantization_config"), "transformers' own code alone runs"),
        **dict.fromkeys(("dtype", "torch_dtype"), "training.precision says it"),
    }

    name: Annotated[str, Field(pattern=r"^transformers:\w[\w.-]*$")]
    """`transformers:architecture`, the model_type of a config.json (`transformers:distilbert`) or the name of a class
    (`transformers:ViTForImageClassification`); `samtune models transformers:` lists them."""

    weights: str | None = None
    """Folder with a config.json and a model.safetensors, as save_pretrained writes it, or a file of weights alone. A
    head of another number of classes is left out."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Keys of the type's configuration, e.g. `hidden_size: 128`. Of images, `image_size` is that of the data; of text,
    `vocab_size` must suit your tokens."""

    @field_validator("options")
    @classmethod
    def _attention_is_at_hand(cls, options: dict[str, Any]) -> dict[str, Any]:
        for key in ("attn_implementation", "_attn_implementation"):
            if "/" in str(options.get(key, "")):  # of the hub
                raise ValueError(f"must not have {key} {options[key]}: nothing is downloaded")
        return options


LIBRARY_MODELS: tuple[type[LibraryModelConfig], ...] = (TimmConfig, TransformersConfig)


def library_of(name: object) -> str | None:
    """The library that a network's name begins with, if it is one of these."""
    library, colon, _ = str(name).partition(":")
    return library if colon and any(config.library == library for config in LIBRARY_MODELS) else None


def refuse_missing_library(library: str) -> None:
    """Raises UsageError where a network's library is not installed."""
    try:
        version(library)
    except PackageNotFoundError:
        raise UsageError(f"model.name: {library} is not installed: pip install 'samtune[{library}]'") from None
