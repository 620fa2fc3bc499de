"""Random numbers that are a function of what they are for, not of how many workers there are or what ran before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed from a key; different keys give unrelated seeds."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def make_generator(device: torch.device, *key: int | str) -> torch.Generator:
    """A generator of its own, seeded by a key."""
    generator = torch.Generator(device)
    generator.manual_seed(derive_seed(*key))
    return generator


def _default_generators(device: torch.device) -> list[torch.Generator]:
    """The generators that dropout and the like draw from: the host's and the device's."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    elif device.type == "mps":
        generators.append(torch.mps._get_default_mps_generator())
    return generators


class ModelNoise:
    """The default generators of a device, lent to the forwards of a step and given back as they were.

    Args:
        model: modules in it that have an attribute `true_gradient` (Shake-Shake, ShakeDrop) are told by it whether a
            forward belongs to the ascent, whose backward uses the forward's coefficients, as in the SAM authors' code.
    """

    def __init__(self, device: torch.device, model: nn.Module | None = None) -> None:
        self._generators = _default_generators(device)
        modules = [] if model is None else model.modules()
        self._shaking = [module for module in modules if hasattr(module, "true_gradient")]

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """Restores the generators at the end, so that a step does not disturb its caller's random numbers."""
        before = self.state()
        try:
            yield
        finally:
            self.set_state(before)

    def state(self) -> list[torch.Tensor]:
        """The generators' states."""
        return [generator.get_state() for generator in self._generators]

    def set_state(self, state: list[torch.Tensor]) -> None:
        """Goes back to `state`."""
        for generator, value in zip(self._generators, state, strict=True):
            generator.set_state(value)

    def use_true_gradient(self, on: bool) -> None:
        """Tells the modules concerned whether the next forward belongs to the ascent."""
        for module in self._shaking:
            setattr(module, "true_gradient", on)  # noqa: B010

    def seed(self, *key: int | str) -> None:
        """Before each forward: the same key gives the same dropout masks, stochastic depth and shake noise."""
        seed = derive_seed(*key)
        for generator in self._generators:
            generator.manual_seed(seed)
