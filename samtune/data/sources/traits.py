"""Facts about the published data sets: sizes, and the mean and deviation that everyone normalises them with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Traits:
    """Facts about a data set that do not depend on how it is stored."""

    num_classes: int
    shape: tuple[int, ...]
    """(channels, height, width) of every image; of the user's examples, the shape of an input. Of nested inputs, the
    same structure of shapes."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel over the training set, pixels in [0, 1]; None: measured when the images are decoded."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel, likewise."""
    mirror: bool = True
    """Whether the mirror image of an example is of the same class."""
    policy: str = "imagenet"
    """The data set whose learned AutoAugment policy suits this one: cifar10, svhn or imagenet."""
    classes: bool = True
    """Whether the targets are classes. If not, `num_classes` counts the numbers of a target."""
    one_target: bool = True
    """Whether the targets are one tensor; else they are nested, or there are none."""


DIGITS = Traits(10, (1, 8, 8), (0.3053,), (0.3760,), mirror=False, policy="svhn")
CIFAR10 = Traits(10, (3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), policy="cifar10")
CIFAR100 = Traits(100, (3, 32, 32), (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), policy="cifar10")
SVHN = Traits(10, (3, 32, 32), (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), mirror=False, policy="svhn")
MNIST = Traits(10, (1, 28, 28), (0.1307,), (0.3081,), mirror=False, policy="svhn")
FASHION_MNIST = Traits(10, (1, 28, 28), (0.2860,), (0.3530,), policy="cifar10")
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of ImageNet's channels, with which photographs are normalised that are not looked at before."""
