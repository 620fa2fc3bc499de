"""A data set of the user's: whatever a function returns, tensors or torch Datasets."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from samtune.config.data import OwnDataConfig
from samtune.data.sources.base import SplitName
from samtune.data.sources.examples import ExamplesSource, refuse_class_options
from samtune.data.sources.traits import Traits
from samtune.errors import DatasetError
from samtune.user_code import check_function, resolve_function

if TYPE_CHECKING:
    from samtune.data.sources.own_split import OwnSplit

_KEY = "data.name"


class OwnSource(ExamplesSource):
    """What the function returned: it is called once in a process."""

    def __init__(self, config: OwnDataConfig) -> None:
        self.name = config.name
        self.splits = _call(
            resolve_function(config.name, _KEY), config.name, json.dumps(config.options, sort_keys=True)
        )
        from samtune.data.sources.own_split import shapes_of
        from samtune.data.sources.own_stream import OwnStream

        self.streams = {name: split for name, split in self.splits.items() if isinstance(split, OwnStream)}
        train = self.splits["train"]
        shape = shapes_of(train.first())
        if not train.holds_classes:
            refuse_class_options(config, config.name)
            one = hasattr(train.labels, "shape")
            self.traits = Traits(config.num_classes or train.target_size(), shape, classes=False, one_target=one)
            return
        if "train" in self.streams:
            if config.num_classes is None:
                raise DatasetError(f"data.num_classes: is needed: {config.name} gives an iterable, which does not tell")
            self.traits = Traits(config.num_classes, shape)
            return
        largest = int(train.labels.max()) + 1
        num_classes = config.num_classes or largest
        if config.num_classes is not None and largest > num_classes:
            raise DatasetError(f"{_KEY}: {self.name}: classes must be in 0..{num_classes - 1} (found {largest - 1})")
        self.traits = Traits(num_classes, shape)


@lru_cache(maxsize=4)
def _call(part: Callable[..., Any], path: str, options: str) -> dict[SplitName, OwnSplit]:
    from samtune.data.sources.own_split import OwnSplit
    from samtune.data.sources.own_stream import OwnStream, is_stream

    arguments = json.loads(options)
    check_function(path, _KEY, **arguments)
    returned = part(**arguments)
    if not (isinstance(returned, tuple | list) and len(returned) in (2, 3)):
        got = f"{len(returned)} things" if isinstance(returned, tuple | list) else type(returned).__name__
        raise DatasetError(f"{_KEY}: {path} must return (train, test) or (train, validation, test) (it returned {got})")
    names: tuple[SplitName, ...] = ("train", "test") if len(returned) == 2 else ("train", "validation", "test")
    splits = {
        name: (OwnStream if is_stream(given) else OwnSplit)(given, f"{_KEY}: {path}: {name}")
        for name, given in zip(names, returned, strict=True)
        if given is not None or name == "train"
    }
    train = splits["train"].form()
    for name, split in splits.items():
        if (form := split.form()) != train:
            raise DatasetError(f"{_KEY}: {path}: {name} has {form}; train has {train}")
    return splits
