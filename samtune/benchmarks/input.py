"""Times the input against torchvision's transforms in a DataLoader: `python -m samtune.benchmarks input`.

All contestants make the same batches (crop, flip, normalised float32 on the device) of the same pixels, in turn, in one
run; a ratio compares times of one round. The memory is what the data set adds to all worker processes together.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import re
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from samtune.benchmarks.input_contestants import Photographs, Pixels
from samtune.config.data import Cifar10Config, DataConfig, FashionMnistConfig, ImageFolderConfig
from samtune.data import Dataset, load_dataset, train_batches
from samtune.data.dataset import forget_loaded

Epoch = Callable[[int], Iterator[tuple[Tensor, Tensor]]]
"""Number of the epoch -> its batches, on the device."""


def samtune_epochs(config: DataConfig, batch_size: int, device: torch.device) -> Epoch:
    """The batches of this package."""
    dataset = load_dataset(config)
    place: dict[str, Any] = {"rank": 0, "num_workers": 1, "device": device}
    return lambda epoch: train_batches(dataset, config, batch_size=batch_size, seed=0, epoch=epoch, **place)


def loader_epochs(examples: Any, batch_size: int, processes: int, device: torch.device) -> Epoch:
    """The batches of a DataLoader."""
    loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
        examples,
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=processes,
        persistent_workers=processes > 0,
        pin_memory=device.type == "cuda",
        multiprocessing_context="forkserver" if processes else None,
    )

    def epoch(number: int) -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, targets in loader:
            yield inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)

    return epoch


# -- speed -----------------------------------------------------------------------------------------------


def images_per_second(epochs: dict[str, Epoch], rounds: int, num_batches: int, device: torch.device) -> str:
    """Making batches and nothing else."""
    times: dict[str, list[float]] = {name: [] for name in epochs}
    size = 0
    for number in range(rounds + 1):  # the first warms up
        for name, epoch in epochs.items():
            batches = epoch(number)
            size = len(next(batches)[0])  # the processes' start is paid for
            count = 0
            started = time.perf_counter()
            for _, _ in zip(range(num_batches), batches, strict=False):
                count += 1
            _wait(device)
            times[name].append((time.perf_counter() - started) / count)
            del batches
    first = next(iter(times))
    lines = [f"  {'':44}{'images/s':>10}{'ratio':>8}"]
    for name, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(times[first][1:], seconds[1:], strict=True))
        lines.append(f"  {name:44}{size / statistics.median(seconds[1:]):10.0f}{ratio:8.2f}")
    return "\n".join(lines)


def share_waiting(epochs: dict[str, Epoch], rounds: int, num_steps: int, device: torch.device) -> str:
    """Share of a step of SGD with WRN-16-2 that passes in `next(batches)`."""
    from samtune.config.model import WideResNetConfig
    from samtune.models import build_model

    lines = [f"  {'':44}{'waiting':>10}"]
    shares: dict[str, list[float]] = {name: [] for name in epochs}
    model: nn.Module | None = None
    for number in range(rounds):
        for name, epoch in epochs.items():
            batches = epoch(number)
            inputs, targets = next(batches)
            if model is None:
                shape = tuple(inputs.shape[1:])
                model = build_model(WideResNetConfig(depth=16, width=2), num_classes=10, input_shape=shape, seed=0)
                model.to(device)
                optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
            waited, started = 0.0, time.perf_counter()
            for _ in range(num_steps):
                asked = time.perf_counter()
                inputs, targets = next(batches)
                waited += time.perf_counter() - asked
                nn.functional.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad()
            _wait(device)
            shares[name].append(waited / (time.perf_counter() - started))
    lines += [f"  {name:44}{statistics.median(share):10.1%}" for name, share in shares.items()]
    return "\n".join(lines)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# -- memory ----------------------------------------------------------------------------------------------


def proportional_memory() -> float:
    """MiB of this process, pages that n processes share counted as an n-th (PSS; Linux)."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def _open_and_measure(config: DataConfig, copied: bool, barrier: Any, answers: Any) -> None:
    """One worker: opens the data set, looks at every pixel, and says how much more memory it has than before."""
    torch.set_num_threads(1)
    load_dataset(config).train.source.pixels.max()  # type: ignore[attr-defined]
    forget_loaded()  # the libraries that this imported and what they allocated once stay, and do not count
    gc.collect()
    barrier.wait()
    before = proportional_memory()
    barrier.wait()
    dataset = load_dataset(config)
    pixels: Any = dataset.train.source.pixels  # type: ignore[attr-defined]
    if copied:
        pixels = pixels.numpy().copy()
        del dataset
        forget_loaded()
    pixels.max()
    barrier.wait()
    after = proportional_memory()
    barrier.wait()
    answers.put(after - before)


def memory_table(config: DataConfig, counts: Sequence[int]) -> str:
    """MiB that the data set adds to 1, 2, 4 worker processes of a machine together."""
    context = multiprocessing.get_context("spawn")
    lines = [f"  {'':44}{'MiB':>10}{'ratio':>8}"]
    for copied, name in (
        (False, "samtune, one file mapped by all"),
        (True, "a copy in each, as in torchvision"),
    ):
        first = None
        for count in counts:
            barrier, answers = context.Barrier(count), context.Queue()
            arguments = (config, copied, barrier, answers)
            workers = [context.Process(target=_open_and_measure, args=arguments) for _ in range(count)]
            for worker in workers:
                worker.start()
            added = sum(answers.get() for _ in workers)
            for worker in workers:
                worker.join()
            first = first or added
            lines.append(f"  {f'{name}: {count}':44}{added:10.0f}{added / first:8.2f}")
    return "\n".join(lines)


# -- the run ---------------------------------------------------------------------------------------------


def write_synthetic(root: Path, count: int = 60_000) -> None:
    """Random pixels in Fashion-MNIST's files."""
    from samtune.benchmarks.input_contestants import write_idx

    write_idx(root / "FashionMNIST" / "raw", count, np.random.default_rng(0))


def main(arguments: Sequence[str]) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m samtune.benchmarks input", description=__doc__)
    parser.add_argument("--cifar10", metavar="FOLDER", help="CIFAR-10's files; default: random 28x28 pixels")
    parser.add_argument("--batch-size", type=int, default=128, help="images per batch (default 128)")
    parser.add_argument("--processes", type=int, nargs="+", default=[0, 2], help="of the DataLoader (default 0 2)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default 5)")
    parser.add_argument("--batches", type=int, default=60, help="batches of each contestant in a round (default 60)")
    parser.add_argument("--steps", type=int, default=10, help="training steps in a round (default 10)")
    parser.add_argument("--photographs", type=int, default=256, help="JPEG files to stream (default 256; 0: none)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="of the memory table (default 1 2 4)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: cuda if any")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    threads = f"{torch.get_num_threads()} threads, {os.cpu_count()} cores"
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {threads}"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SAMTUNE_CACHE"] = f"{folder}/cache"
        config: DataConfig
        if options.cifar10:
            config = Cifar10Config(root=options.cifar10)
        else:
            write_synthetic(Path(folder))
            config = FashionMnistConfig(root=folder)
        dataset = load_dataset(config)
        print(f"torch {torch.__version__}, {where}, {config.name}, batches of {options.batch_size}")
        epochs = contestants(dataset, config, options.batch_size, options.processes, device)
        print("\nmaking batches: pad, crop, flip, normalise")
        print(images_per_second(epochs, options.rounds, options.batches, device))
        print("\nshare of a training step")
        print(share_waiting(epochs, options.rounds, options.steps, device))
        if options.photographs:
            processes = max(options.processes)
            streams = photograph_contestants(Path(folder) / "photographs", options.photographs, processes, device)
            print("\nphotographs, read and decoded while training: random box to 224 pixels, flip, normalise")
            print(images_per_second(streams, options.rounds, 1000, device))
        del dataset, epochs  # and its pages, which would count as shared with one process more
        forget_loaded()
        print("\nmemory that the data set adds to all workers together")
        print(memory_table(config, options.workers))


def contestants(
    dataset: Dataset, config: DataConfig, batch_size: int, processes: Sequence[int], device: torch.device
) -> dict[str, Epoch]:
    """samtune first."""
    pixels = Pixels(dataset)
    found = {"samtune": samtune_epochs(config, batch_size, device)}
    for count in processes:
        name = f"torchvision, DataLoader with {count} processes"
        found[name] = loader_epochs(pixels, batch_size, count, device)
    return found


def photograph_contestants(folder: Path, count: int, processes: int, device: torch.device) -> dict[str, Epoch]:
    """samtune first."""
    from samtune.benchmarks.input_contestants import write_photographs

    write_photographs(folder, count)
    config = ImageFolderConfig(
        name="image_folder",
        root=str(folder),
        image_size=224,
        augmentation="resized_crop",
        stream=True,
        loader_processes=processes,
        validation_fraction=0.0,
    )
    size = max(1, count // 16)
    return {
        f"samtune, {processes} processes": samtune_epochs(config, size, device),
        f"torchvision, DataLoader with {processes} processes": loader_epochs(
            Photographs(folder / "train"), size, processes, device
        ),
    }
