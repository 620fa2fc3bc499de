"""Whether the networks of other libraries can be built for the data, found out before a worker starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from samtune.config.library_model import LibraryModelConfig, refuse_missing_library
from samtune.config.trial import TrialSpec
from samtune.data import DatasetInfo


def check_networks(variants: Iterable[TrialSpec], infos: Mapping[str, DatasetInfo]) -> None:
    """Builds the networks of timm and transformers: on the meta device, which costs little, or with their weights.

    Where the data are not known, only that the library is there is.

    Args:
        infos: what is known of data sets, by their configuration as JSON.

    Raises:
        UsageError: a library is not installed, has no such network or option, or the weights are not of the network.
    """
    seen: set[str] = set()
    for variant in variants:
        if not isinstance(variant.model, LibraryModelConfig):
            continue
        refuse_missing_library(variant.model.library)
        info = infos.get(variant.data.model_dump_json())
        key = f"{variant.model!r} {info and (info.num_classes, info.input_shape)}"
        if info is not None and key not in seen:
            seen.add(key)
            _check(variant.model, info)


def _check(config: LibraryModelConfig, info: DatasetInfo) -> None:
    import torch  # and the library: 8 s, for spaces that name it alone

    from samtune.models import build_model

    has_weights = getattr(config, "weights", None) is not None
    with torch.device("cpu" if has_weights else "meta"):
        build_model(config, num_classes=info.num_classes, input_shape=info.input_shape, seed=0)  # type: ignore[arg-type]
