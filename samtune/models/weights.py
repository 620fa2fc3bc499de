"""Files of weights in the formats that torch, timm and transformers write. They are data: nothing in them is run."""

from __future__ import annotations

import argparse
import json
import logging
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from samtune.errors import UsageError, one_line

_log = logging.getLogger(__name__)
_said: set[str] = set()
_WITHIN = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where training programs keep the weights in a checkpoint, the averaged ones first, as timm's loader does."""
_WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The weights in a file of torch.save's or safetensors', or in a checkpoint of timm's train.py.

    Raises:
        UsageError: the file is missing, damaged, or holds something else.
    """
    try:
        found = _loaded(path)
    except Exception as error:
        if not isinstance(error, _unreadable()):
            raise
        reason = getattr(error, "strerror", None) or one_line(str(error).splitlines()[0] if str(error) else error, 200)
        raise UsageError(f"model.weights: {path} cannot be read ({reason})") from error
    inner = next((found[key] for key in _WITHIN if isinstance(found, Mapping) and found.get(key) is not None), None)
    state = inner if isinstance(inner, Mapping) else found
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UsageError(
            f"model.weights: {path} is not of this network (it holds a {type(found).__name__}, no weights)"
        )
    tensors = dict(state)
    for prefix in _WRAPPERS:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def read_folder(path: Path) -> dict[str, Tensor]:
    """The weights in a folder that save_pretrained wrote, in one file or several.

    Raises:
        UsageError: there are none, or they cannot be read.
    """
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, LookupError, AttributeError) as error:
            raise UsageError(f"model.weights: {index} cannot be read ({one_line(error)})") from error
        if stray := [name for name in names if Path(str(name)).name != name]:
            raise UsageError(f"model.weights: {index} names a file in another folder ({stray[0]})")
        return {name: tensor for file in sorted(names) for name, tensor in read_state_dict(path / file).items()}
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return read_state_dict(path / name)
    raise UsageError(f"model.weights: {path} has no model.safetensors")


def shapes_differ(
    path: Path, names: Iterable[str], found: Mapping[str, Any], expected: Mapping[str, Any]
) -> UsageError:
    """The error of a file whose tensors do not have the network's shapes; the first of the names is said."""
    name = min(names)
    return UsageError(
        f"model.weights: {path} is not of this network "
        f"({name} is {tuple(found[name].shape)}, expected {tuple(expected[name].shape)})"
    )


def say(text: str) -> None:
    """Logs what was made of a file, once in a process: a study's trials start from the same."""
    if text not in _said:
        _said.add(text)
        _log.info(text)


def _loaded(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(9)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        from safetensors.torch import load_file

        return load_file(path)
    # Checkpoints of timm's train.py hold its arguments.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _unreadable() -> tuple[type[Exception], ...]:
    from safetensors import SafetensorError

    return (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError)
