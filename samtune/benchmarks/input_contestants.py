"""What the benchmark of the input compares with, and the files that it reads."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torchvision import datasets
from torchvision.transforms import v2

from samtune.data.dataset import Dataset
from samtune.data.sources.traits import IMAGENET


class Pixels(TorchDataset[tuple[Tensor, int]]):
    """The training images as torchvision's CIFAR10 and MNIST have them: an array, each made a PIL image when asked."""

    def __init__(self, dataset: Dataset) -> None:
        source: Any = dataset.train.source
        self.images = source.pixels[dataset.train.indices].permute(0, 2, 3, 1).squeeze(-1).numpy()
        self.labels = dataset.train.labels.numpy()
        self.transform = v2.Compose(
            [
                v2.RandomCrop(dataset.input_shape[1], padding=round(dataset.input_shape[1] / 8)),
                v2.RandomHorizontalFlip(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(dataset.mean, dataset.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


class Photographs(datasets.ImageFolder):  # type: ignore[misc]
    """torchvision's ImageFolder with the usual augmentation of ImageNet."""

    def __init__(self, root: Path) -> None:
        mean, std = IMAGENET
        steps = [v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip(), v2.ToImage()]
        super().__init__(root, v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]))


def write_idx(folder: Path, count: int, numbers: np.random.Generator) -> None:
    """Random images of 28x28 pixels in MNIST's files."""
    folder.mkdir(parents=True)
    for prefix, number in (("train", count), ("t10k", count // 6)):
        pixels = numbers.integers(0, 256, (number, 28, 28), dtype=np.uint8)
        labels = (np.arange(number) % 10).astype(np.uint8)
        header = struct.pack(">4B3I", 0, 0, 8, 3, number, 28, 28)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, number) + labels.tobytes())


def write_photographs(folder: Path, count: int) -> None:
    """Smooth JPEG files of 500x375 pixels in two classes."""
    numbers = np.random.default_rng(0)
    for index in range(count):
        path = folder / "train" / str(index % 2) / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(numbers.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
    test = folder / "test" / "0"
    test.mkdir(parents=True)
    (test / "0.jpg").write_bytes((folder / "train" / "0" / "0.jpg").read_bytes())
