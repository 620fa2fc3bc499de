"""A short real training, on CIFAR-10 as its authors publish it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from samtune.errors import DatasetError
from samtune.gpucheck.card import synchronize
from samtune.gpucheck.networks import NUM_CLASSES
from samtune.models.wide_resnet import WideResNet
from samtune.sam.method import Method
from samtune.sam.rules.sam import SAMRule
from samtune.sam.train_step import TrainStep

ROW = 1 + 3 * 32 * 32
TRAIN, TEST = [f"data_batch_{index}.bin" for index in range(1, 6)], ["test_batch.bin"]


@dataclass(frozen=True)
class Training:
    """What a short training with SAM reached."""

    network: str
    images: int
    epochs: int
    precision: str
    test_loss_before: float
    test_loss: float
    test_accuracy: float
    images_per_second: float

    def line(self) -> str:
        """For people."""
        return (
            f"{self.network}, SAM m=b/4, {self.precision}, {self.images:,} images x {self.epochs} epochs: "
            f"test loss {self.test_loss_before:.3f} -> {self.test_loss:.3f}, test accuracy {self.test_accuracy:.1%}, "
            f"{self.images_per_second:,.0f} images/s"
        )

    def as_dict(self) -> dict[str, Any]:
        """For the JSON."""
        return asdict(self)


def read_cifar(folder: Path, names: list[str]) -> tuple[Tensor, Tensor]:
    """Images uint8 [n, 3, 32, 32] and labels int64 [n] from files of CIFAR-10's binary version.

    Each example is a byte of label and 3072 bytes of pixels. The folder may be that of `cifar-10-binary.tar.gz` or the
    one around it.

    Raises:
        DatasetError: a file is missing, or has another format.
    """
    inner = folder / "cifar-10-batches-bin"
    parts = [_read_file((inner if inner.is_dir() else folder) / name) for name in names]
    rows = torch.cat(parts)
    return rows[:, 1:].view(-1, 3, 32, 32), rows[:, 0].long()


def _read_file(path: Path) -> Tensor:
    try:
        content = bytearray(path.read_bytes())
    except OSError as error:
        raise DatasetError(
            f"--data {path.parent}: must hold CIFAR-10's binary version (cifar-10-binary.tar.gz, unpacked); "
            f"{path.name} cannot be read: {error.strerror}"
        ) from error
    if not content or len(content) % ROW:
        raise DatasetError(f"--data {path}: must have {ROW} bytes per example (has {len(content):,})")
    rows = torch.frombuffer(content, dtype=torch.uint8).view(-1, ROW)
    if int(rows[:, 0].max()) >= NUM_CLASSES:
        raise DatasetError(f"--data {path}: labels must be 0 to {NUM_CLASSES - 1} (one is {int(rows[:, 0].max())})")
    return rows


def train(folder: Path, device: torch.device, *, precision: str, quick: bool) -> Training:
    """Trains a WideResNet with SAM for a few epochs, and evaluates it; a smaller one on fewer images without a GPU.

    Raises:
        DatasetError: the folder does not hold CIFAR-10.
    """
    is_gpu = device.type == "cuda"
    depth, width = (16, 4) if is_gpu else (10, 1)
    limit = (50_000 if is_gpu else 5_000) // (4 if quick else 1)
    epochs = 1 if quick or not is_gpu else 3
    images, labels = (tensor[:limit].to(device) for tensor in read_cifar(folder, TRAIN))
    torch.manual_seed(0)
    model = WideResNet(depth, width, 0.0, NUM_CLASSES, 3).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True, fused=is_gpu)
    size = min(128, len(images))
    count = len(images) // size
    method = Method(SAMRule, rho=0.05, m=size // 4 if size % 4 == 0 else "worker")
    step = TrainStep(model, nn.CrossEntropyLoss(), optimizer, method, batch_size=size, precision=precision)  # type: ignore[arg-type]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=epochs * count + 1)
    test = [tensor[:limit].to(device) for tensor in read_cifar(folder, TEST)]
    loss_before, _ = _evaluate(model, *test)
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        step.begin_epoch(epoch, epochs, steps_per_epoch=count)
        order = torch.randperm(len(images), generator=generator).to(device)
        for index in range(count):
            chosen = order[index * size : (index + 1) * size]
            step(_normalized(images[chosen]), labels[chosen])
            schedule.step()
    synchronize(device)
    speed = epochs * count * size / (time.perf_counter() - started)
    loss, accuracy = _evaluate(model, *test)
    return Training(f"WRN-{depth}-{width}", len(images), epochs, precision, loss_before, loss, accuracy, speed)


@torch.no_grad()
def _evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean loss and accuracy. Leaves the network in the mode for training."""
    model.eval()
    parts = [
        (model(_normalized(x)), y) for x, y in zip(torch.split(images, 500), torch.split(labels, 500), strict=True)
    ]
    model.train()
    logits, targets = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    return nn.functional.cross_entropy(logits, targets).item(), (logits.argmax(1) == targets).double().mean().item()


def _normalized(images: Tensor) -> Tensor:
    """To about zero mean and unit variance."""
    return images.float().div_(255.0).sub_(0.47).div_(0.25).contiguous(memory_format=torch.channels_last)
