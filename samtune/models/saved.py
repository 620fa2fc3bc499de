"""Trained networks in a safetensors file that says itself how to build them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from samtune.config.model import ModelConfig, OwnModelConfig, is_one_shape
from samtune.config.trial import TrialSpec
from samtune.errors import UsageError, one_line
from samtune.models.build import build_model
from samtune.sam import tree
from samtune.sam.sharded_step import whole_state
from samtune.sam.shards import collected, reshard
from samtune.storage import read_bytes, write_bytes
from samtune.user_code import resolve_function


class InputFacts(Protocol):
    """What a saved network needs to know of the inputs that it was trained on; a `samtune.data.Dataset` has it."""

    @property
    def num_classes(self) -> int: ...
    @property
    def input_shape(self) -> tuple[int, ...]: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...


def save_weights(
    uri: str,
    model: nn.Module,
    spec: TrialSpec,
    dataset: InputFacts,
    metrics: dict[str, float] | None = None,
    *,
    rank: int = 0,
) -> None:
    """Writes a network's weights; whole ones of a network that is sharded: all ranks call it, and the first writes.

    The metadata hold `spec` (the whole trial), `mean` and `std` (of the data set's channels), `num_classes`,
    `input_shape` and `metrics`, each as JSON.

    Raises:
        OSError: the store does not take it.
    """
    from safetensors.torch import save

    metadata = {
        "spec": spec.model_dump_json(),
        "num_classes": json.dumps(dataset.num_classes),
        "input_shape": json.dumps(dataset.input_shape),
        "mean": json.dumps(list(dataset.mean)),
        "std": json.dumps(list(dataset.std)),
        "metrics": json.dumps(metrics or {}),
    }
    tensors = _copies(model, rank)
    if rank == 0:
        write_bytes(uri, save(tensors, metadata))


def save_tensors(uri: str, model: nn.Module, spec: TrialSpec, *, metrics: dict[str, float], rank: int = 0) -> None:
    """Writes the weights of a network that a training function has built; `load_model` cannot build it anew.

    Of a network that is sharded as `save_weights`.

    The metadata hold `spec` and `metrics`. Raises OSError where the store does not take it.
    """
    from safetensors.torch import save

    tensors = _copies(model, rank)
    if rank == 0:
        write_bytes(uri, save(tensors, {"spec": spec.model_dump_json(), "metrics": json.dumps(metrics)}))


def _copies(model: nn.Module, rank: int) -> dict[str, Tensor]:
    """A copy each, whole on the first rank: safetensors refuses tensors that share their memory."""
    reshard(model)
    with collected(keeps=rank == 0):
        state = whole_state(model.state_dict())
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}


def load_model(
    path: str | Path, device: str | torch.device = "cpu", *, model: Callable[..., nn.Module] | None = None
) -> nn.Module:
    """A trained network, ready to be asked.

    Args:
        path: of a file that `samtune confirm` or `samtune train` wrote; a path or URI.
        device: where the network shall be.
        model: the function that made the network, where it is one of the user's: a file is data, and what it names is
            not imported.

    Returns:
        A module in evaluation mode that maps images, float32 [N, C, H, W] with values in [0, 1], to logits
        [N, num_classes]. It normalises the images as the training did: `model[0]` is that, `model[1]` the network.
        Your own inputs that are not images are used as in training; nested ones are one argument, a dict too.

    Raises:
        UsageError: the file is not there or is no such file, or its network is made by a function that was not given.

    Example:
        >>> from samtune import load_model
        >>> model = load_model("samtune-results/digits-confirm/best.safetensors")
        >>> model(torch.rand(1, 1, 8, 8)).argmax(1)
    """
    tensors, metadata, spec = read_saved(path)
    config = spec.model
    if spec.train is not None:
        raise UsageError(
            f"{path}: its network is made by {spec.train}, a training function, and cannot be built here: "
            "build it and give it safetensors.torch.load_file(…)"
        )
    if isinstance(config, OwnModelConfig) and model is None:
        raise UsageError(
            f"{path}: its network is made by {config.name}, a function that is not samtune's and is not imported: "
            "give it, load_model(…, model=…)"
        )
    shape = _shape(metadata["input_shape"])
    network = build_model(
        config,
        num_classes=metadata["num_classes"],
        input_shape=shape,
        seed=spec.seed,
        function=model,
        pretrained=False,  # a file to start from need not be here
    )
    network.load_state_dict(tensors)
    if not is_one_shape(shape):
        return _OfNestedInputs(nn.Identity(), network).eval().requires_grad_(False).to(device)
    are_images = len(metadata["mean"]) == metadata["input_shape"][0] and any(metadata["std"])
    normalise = _normalise(metadata["mean"], metadata["std"]) if are_images else nn.Identity()
    return nn.Sequential(normalise, network).eval().requires_grad_(False).to(device)


class _OfNestedInputs(nn.Sequential):
    """Calls a network as the training did: a dict of inputs goes in as keyword arguments."""

    def forward(self, inputs: Any) -> Any:
        return tree.call(self[1], inputs)


def _shape(written: Any) -> Any:
    """As it was before JSON made lists of tuples."""
    if isinstance(written, dict):
        return {key: _shape(value) for key, value in written.items()}
    return tuple(map(_shape, written)) if isinstance(written, list) else written


def function_of(path: str | Path, own: Iterable[ModelConfig]) -> Callable[..., nn.Module] | None:
    """The function that made a saved network, if it is one that the user names as well; else None.

    Args:
        own: configurations of the user's.

    Raises:
        UsageError: as `load_model` does, or the function cannot be imported.
    """
    name = read_saved(path)[2].model.name
    named = any(isinstance(config, OwnModelConfig) and config.name == name for config in own)
    return resolve_function(name, "model.name") if named else None


def _normalise(mean: list[float], std: list[float]) -> nn.Module:
    """(x - mean) / std per channel, as a module of torch's own that torch.export takes (torchvision's it does not)."""
    layer = nn.BatchNorm2d(len(mean), eps=0.0, affine=False)
    layer.running_mean = torch.tensor(mean)
    layer.running_var = torch.tensor([value or 1.0 for value in std]) ** 2  # a channel of one value everywhere
    return layer


def saved_input_shape(path: str | Path) -> tuple[int, ...]:
    """(channels, height, width) of what a saved network takes, or nested such. Raises as `load_model` does."""
    shape: tuple[int, ...] = _shape(read_saved(path)[1]["input_shape"])
    return shape


def read_saved(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any], TrialSpec]:
    """Weights, metadata and the trial that a file holds. Raises as `load_model` does."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = read_bytes(str(path))
    if content is None:
        raise UsageError(f"{path}: is not there")
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = {key: json.loads(value) for key, value in header["__metadata__"].items()}
        return tensors, metadata, TrialSpec.model_validate_json(header["__metadata__"]["spec"])
    except (SafetensorError, ValueError, KeyError) as error:
        reason = one_line(error, 200)
        raise UsageError(f"{path}: is no network that samtune has saved: {reason}") from error
