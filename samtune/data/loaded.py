"""The examples of a split as they are opened once in a process, whichever configurations then select from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from samtune.config.data import DataConfig, StreamedConfig
from samtune.data.cache import cache_path, channel_statistics, load_arrays
from samtune.data.images import ImageSource, ResidentImages
from samtune.data.sources import DataSource
from samtune.data.sources.base import SplitName
from samtune.data.sources.examples import ExamplesSource
from samtune.data.sources.folder import FolderSource
from samtune.errors import DatasetError


@dataclass(frozen=True)
class Loaded:
    """All examples of a split.

    Attributes:
        images: of the file that they are in.
        rows: int64 [N]: where in it.
        labels: int64 [N]; as of `Split`.
        mean, std: of each channel, pixels in [0, 1].
    """

    images: ImageSource
    rows: Tensor
    labels: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]


_opened: dict[Any, Any] = {}


def forget_opened() -> None:
    """Lets go of all files; ends the processes that read them."""
    _opened.clear()


def load_split(source: DataSource, split: SplitName, config: DataConfig) -> Loaded:
    """The whole of a split, with the same images for every configuration that reads it.

    Raises:
        DatasetError: there is none, or it is damaged.
    """
    if source.num_examples(split) == 0:
        raise DatasetError(f"{config.name} has no {split} set")
    if isinstance(source, ExamplesSource):
        return _load_examples(source, split, config)
    if isinstance(source, FolderSource) and isinstance(config, StreamedConfig) and config.stream:
        return _load_stream(source, split, config)
    key: Path | str = cache_path(source, split, config.name) or f"{config.name}-{split}"
    if key not in _opened:
        arrays = load_arrays(source, split, config.name)
        rows = torch.arange(len(arrays.labels))
        _opened[key] = Loaded(ResidentImages(arrays.images), rows, arrays.labels, arrays.mean, arrays.std)
    loaded: Loaded = _opened[key]
    return loaded


def _load_stream(source: FolderSource, split: SplitName, config: Any) -> Loaded:
    """Training and test images through the same processes: the rows of the test set follow those of the other."""
    how = (config.image_size, config.channels, config.eval_crop, config.on_error)
    key = (source.root, *how, config.loader_processes, config.prefetch)
    if key not in _opened:
        from samtune.data.files import ImageFiles
        from samtune.data.stream import StreamedImages

        files = ImageFiles(
            source.root,
            source.names("train") + source.names("test"),
            size=config.image_size,
            channels=config.channels,
            centre=config.eval_crop,
        )
        _opened[key] = StreamedImages(
            files,
            processes=config.loader_processes,
            prefetch=config.prefetch,
            skip_damaged=config.on_error == "skip",
        )
    labels = torch.from_numpy(source.labels(split))
    first = source.num_examples("train") if split == "test" else 0
    mean, std = source.traits.mean, source.traits.std
    assert mean is not None
    assert std is not None
    return Loaded(_opened[key], torch.arange(first, first + len(labels)), labels, mean, std)


def _load_examples(source: ExamplesSource, split: SplitName, config: Any) -> Loaded:
    loader = {"processes": getattr(config, "loader_processes", 0), "prefetch": getattr(config, "prefetch", 1)}
    key = (config.name, repr(getattr(config, "options", {})), split, *loader.values())
    if key not in _opened:
        dataset = source.dataset(split)
        mean: tuple[float, ...] = (0.0,)
        std: tuple[float, ...] = (0.0,)
        if dataset is None:
            inputs = source.inputs(split)
            images: ImageSource = ResidentImages(inputs)
            if isinstance(inputs, Tensor) and inputs.dtype == torch.uint8 and inputs.ndim == 4:
                mean, std = channel_statistics(inputs.numpy())
        else:
            from samtune.data.stream import OwnExamples, StreamedImages

            images = StreamedImages(OwnExamples(dataset), **loader, skip_damaged=False)
        labels = source.labels(split)
        _opened[key] = Loaded(images, torch.arange(source.num_examples(split)), labels, mean, std)
    loaded: Loaded = _opened[key]
    return loaded
