"""AutoAugment (Cubuk 2019), RandAugment (Cubuk 2020) and TrivialAugment (Müller & Hutter 2021) on batches.

Ranges and defaults are torchvision's (`AutoAugment`, `RandAugment()`, `TrivialAugmentWide()`); the random choices are
keyed by example. Which images get which operation is decided on the host, where the examples' indices are, so that no
accelerator is waited for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from samtune.data.autoaugment import AUTOAUGMENT
from samtune.data.counter_rng import fold, random_bits, random_int, random_uniform
from samtune.data.image_ops import GEOMETRIC, PIXELWISE, affine_matrix, sample

_SIGNED = frozenset({*GEOMETRIC, "Brightness", "Color", "Contrast", "Sharpness"})
_WITHOUT_MAGNITUDE = ("Identity", "AutoContrast", "Equalize", "Invert")
_OPERATIONS = (*GEOMETRIC, *PIXELWISE)
_RANDAUGMENT_MAGNITUDE = 9  # of 31, for two operations each image


@dataclass(frozen=True)
class Range:
    """The magnitudes of each operation, in equal steps from the weakest to the strongest."""

    num_bins: int
    shear: float
    translate: tuple[float, float]
    """Largest shift in pixels along (x, y)."""
    rotate: float
    enhance: float
    posterize_bits: int
    """How many bits the strongest drops."""

    def magnitude(self, name: str, number: int) -> float:
        """Of bin `number`, without its sign."""
        if name in _WITHOUT_MAGNITUDE:
            return 0.0
        if name == "Posterize":
            return 8 - round(number * self.posterize_bits / (self.num_bins - 1))
        if name == "Solarize":
            return float(torch.linspace(255.0, 0.0, self.num_bins)[number])
        strongest = {
            "ShearX": self.shear,
            "ShearY": self.shear,
            "TranslateX": self.translate[0],
            "TranslateY": self.translate[1],
            "Rotate": self.rotate,
        }.get(name, self.enhance)
        return float(torch.linspace(0.0, strongest, self.num_bins)[number])


class ActionTable:
    """Every (operation, signed magnitude) that a policy may choose, by number.

    Attributes:
        names: of the operations, as in torchvision.
        magnitudes: with their signs.
    """

    def __init__(self, actions: list[tuple[str, float]], height: int, width: int) -> None:
        self.names = [name for name, _ in actions]
        self.magnitudes = [magnitude for _, magnitude in actions]
        self._operation = torch.tensor([_OPERATIONS.index(name) if name in _OPERATIONS else -1 for name in self.names])
        self._magnitude = torch.tensor(self.magnitudes, dtype=torch.float64)
        rows = [affine_matrix(*action, height, width) if action[0] in GEOMETRIC else (0.0,) * 6 for action in actions]
        self._matrix = torch.tensor(rows, dtype=torch.float64)

    def apply(self, images: Tensor, actions: Tensor) -> Tensor:
        """Applies one action to each image.

        Args:
            images: uint8 [b, C, H, W] on any device.
            actions: int64 [b] on the host, numbers of actions.

        Returns:
            A new tensor.
        """
        result = images.clone()
        operations = self._operation[actions]
        geometric = ((operations >= 0) & (operations < len(GEOMETRIC))).nonzero().squeeze(1)
        if len(geometric):
            rows = geometric.to(images.device, non_blocking=True)
            matrix = self._matrix[actions[geometric]].to(images.device, non_blocking=True)
            result[rows] = sample(images[rows], matrix)
        for number, name in enumerate(_OPERATIONS[len(GEOMETRIC) :], start=len(GEOMETRIC)):
            chosen = (operations == number).nonzero().squeeze(1)
            if len(chosen):
                rows = chosen.to(images.device, non_blocking=True)
                magnitude = self._magnitude[actions[chosen]].to(images.device, non_blocking=True)
                result[rows] = PIXELWISE[name](images[rows], magnitude)
        return result


class Policy:
    """Chooses `num_slots` actions for each example and applies them one after another."""

    def __init__(self, name: str, learned_on: str, height: int, width: int) -> None:
        self.name = name
        self._learned_on = learned_on
        self._size = (height, width)
        shift = (150 / 331 * width, 150 / 331 * height)
        match name:
            case "autoaugment":
                self.range = Range(10, 0.3, shift, 30.0, 0.9, 4)
            case "randaugment":
                self.range = Range(31, 0.3, shift, 30.0, 0.9, 4)
            case _:
                assert name == "trivialaugment"
                self.range = Range(31, 0.99, (32.0, 32.0), 135.0, 0.99, 6)
        self.num_slots = 1 if name == "trivialaugment" else 2

    def __call__(self, images: Tensor, examples: Tensor, key: int) -> Tensor:
        """Augments a batch.

        Args:
            images: uint8 [b, C, H, W] on any device.
            examples: int64 [b] on the host: the examples' indices.
            key: of seed and epoch.

        Returns:
            uint8 [b, C, H, W].
        """
        for actions in self.choose(examples, key):
            images = self.table.apply(images, actions)
        return images

    def choose(self, examples: Tensor, key: int) -> Tensor:
        """Numbers of actions in `table`, int64 [num_slots, b]; 0 is to leave the image as it is."""
        if self.name == "autoaugment":
            return self._choose_sub_policy(examples, key)
        slots = []
        for slot in range(self.num_slots):
            operation = random_int(fold(key, slot, 0), examples, len(self._free_operations))
            strength = torch.full_like(examples, _RANDAUGMENT_MAGNITUDE)
            if self.name == "trivialaugment":
                strength = random_int(fold(key, slot, 1), examples, self.range.num_bins)
            negative = (random_bits(fold(key, slot, 2), examples) < 0).long()
            slots.append(1 + (operation * self.range.num_bins + strength) * 2 + negative)
        return torch.stack(slots)

    def _choose_sub_policy(self, examples: Tensor, key: int) -> Tensor:
        sub_policies = AUTOAUGMENT[self._learned_on]
        chosen = random_int(fold(key, 0), examples, len(sub_policies))
        slots = []
        for slot in range(2):
            probability = torch.tensor([sub_policy[slot][1] for sub_policy in sub_policies], dtype=torch.float64)
            applied = random_uniform(fold(key, slot, 1), examples) < probability[chosen]
            negative = (random_bits(fold(key, slot, 2), examples) < 0).long()
            slots.append(torch.where(applied, 1 + (chosen * 2 + slot) * 2 + negative, 0))
        return torch.stack(slots)

    @cached_property
    def table(self) -> ActionTable:
        """Action 0 does nothing; then each action with a positive and, where it has a sign, a negative magnitude."""
        if self.name == "autoaugment":
            base = [(name, number) for sub_policy in AUTOAUGMENT[self._learned_on] for name, _, number in sub_policy]
        else:
            base = [(name, number) for name in self._free_operations for number in range(self.range.num_bins)]
        actions = [("Identity", 0.0)]
        for name, number in base:
            magnitude = self.range.magnitude(name, number)
            actions += [(name, magnitude), (name, -magnitude if name in _SIGNED else magnitude)]
        return ActionTable(actions, *self._size)

    @property
    def _free_operations(self) -> tuple[str, ...]:
        """What RandAugment and TrivialAugment draw from: not Invert."""
        return ("Identity", *(name for name in _OPERATIONS if name != "Invert"))


@lru_cache(maxsize=16)
def find_policy(name: str, learned_on: str, height: int, width: int) -> Policy:
    """The policy for images of a size; `learned_on` (cifar10, svhn or imagenet) matters to autoaugment alone."""
    return Policy(name, learned_on, height, width)
