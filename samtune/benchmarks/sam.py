"""Times SAM against its physical limit and against other implementations: `python -m samtune.benchmarks sam`.

All contestants take blocks of steps in turn, in one process, on the same batch; a ratio compares two times of a round.
A block has as many steps as lie between two looks of samtune's diagnostics, so that each has its share of them. The
limit is what no SAM can beat: two forwards and backwards and one step of SGD. The least is that with what SAM does to
the weights: it takes a norm, copies w, adds ε̂ and copies w back.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from samtune.config.method import MethodConfig, SAMConfig
from samtune.config.method_base import BaseOptimizerConfig
from samtune.gpucheck.card import synchronize
from samtune.gpucheck.peers import Problem, installed_peers, limit_step, peer_step
from samtune.models.digits_cnn import DigitsCnn
from samtune.models.mlp import mlp
from samtune.sam import vectors
from samtune.sam.diagnostics import SAMPLING_INTERVAL
from samtune.sam.group_runner import GroupOrder
from samtune.sam.optimizer import SAM
from samtune.sam.train_step import TrainStep

RHO = 0.05
SGD_OPTIONS: dict[str, Any] = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 5e-4}
LIMIT = "limit: 2 x (forward + backward) + SGD step"
LEAST = "least: limit + norm, copy, add, restore"


@dataclass(frozen=True)
class Setting:
    """What all contestants share."""

    model: str
    batch_size: int
    device: torch.device
    precision: str
    channels_last: bool

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of a forward."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def problem(self) -> Problem:
        """What `build` gives, with the precision."""
        return Problem(*self.build(), self.autocast)

    def build(self) -> tuple[nn.Module, Tensor, Tensor]:
        """A model, and a batch for it."""
        torch.manual_seed(0)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        if self.model in MODELS:
            model, shape, classes = MODELS[self.model]()
        else:
            model, shape, classes = resolve_name(self.model)(), (3, 224, 224), 1000
        model = model.to(self.device)
        inputs = torch.randn(self.batch_size, *shape, device=self.device)
        if len(shape) == 3:
            model, inputs = model.to(memory_format=layout), inputs.to(memory_format=layout)
        return model, inputs, torch.randint(0, classes, (self.batch_size,), device=self.device)


def many_small() -> tuple[nn.Module, tuple[int, ...], int]:
    """160 small tensors: 80 linear layers of 64 x 64."""
    layers: list[nn.Module] = []
    for _ in range(80):
        layers += [nn.Linear(64, 64), nn.ReLU()]
    return nn.Sequential(*layers), (64,), 64


def few_large() -> tuple[nn.Module, tuple[int, ...], int]:
    """Three linear layers of 2048 x 2048: 12.6 million weights in 6 tensors."""
    layers = [nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 2048)]
    return nn.Sequential(*layers), (2048,), 2048


def convolutional() -> tuple[nn.Module, tuple[int, ...], int]:
    """Eight 3x3 convolutions of 32 channels with BatchNorm on 3x32x32 images."""
    layers: list[nn.Module] = []
    for index in range(8):
        layers += [nn.Conv2d(32 if index else 3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if index % 3 == 2 else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)), (3, 32, 32), 10


def digits_cnn() -> tuple[nn.Module, tuple[int, ...], int]:
    """The network of `search_spaces/digits.yaml`, on 8x8 images."""
    return DigitsCnn(16, 10, (1, 8, 8)), (1, 8, 8), 10


def multi_layer() -> tuple[nn.Module, tuple[int, ...], int]:
    """`model: mlp` with its defaults: six layers of width 128, on 8x8 images."""
    return mlp(6, 128, 10, (1, 8, 8)), (1, 8, 8), 10


MODELS = {
    "many_small": many_small,
    "few_large": few_large,
    "convolutional": convolutional,
    "digits_cnn": digits_cnn,
    "mlp": multi_layer,
}


# -- contestants -------------------------------------------------------------------------------------------------------


def limit(setting: Setting, passes: int = 2) -> Callable[[], None]:
    """Forwards and backwards of the batch, then one step of SGD."""
    problem = setting.problem()
    return limit_step(problem, torch.optim.SGD(problem.model.parameters(), **SGD_OPTIONS), passes)


def least(setting: Setting) -> Callable[[], None]:
    """The limit, and SAM's four passes over the weights in place: no check, no metric."""
    problem = setting.problem()
    parameters = list(problem.model.parameters())
    optimizer = torch.optim.SGD(parameters, **SGD_OPTIONS)
    origin = vectors.copies(parameters)

    def ascent() -> None:
        optimizer.zero_grad()
        problem.backward()
        with torch.no_grad():
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            vectors.copy_(origin, parameters)
            vectors.add_(parameters, gradients, RHO / vectors.norm(gradients))

    def step() -> None:
        ascent()
        optimizer.zero_grad()
        problem.backward()
        with torch.no_grad():
            vectors.copy_(parameters, origin)
        optimizer.step()

    return step


def train_step(setting: Setting, method: MethodConfig, m_groups: GroupOrder = "loop") -> Callable[[], None]:
    """samtune's TrainStep."""
    model, inputs, targets = setting.build()
    optimizer = torch.optim.SGD(model.parameters(), **SGD_OPTIONS)
    precision: Any = setting.precision
    options: dict[str, Any] = {"batch_size": setting.batch_size, "precision": precision, "m_groups": m_groups}
    step = TrainStep(model, nn.CrossEntropyLoss(), optimizer, method, **options)
    return lambda: step(inputs, targets)


def closure_step(setting: Setting) -> Callable[[], None]:
    """samtune's SAM optimizer with a closure."""
    problem = setting.problem()
    optimizer = SAM(problem.model.parameters(), torch.optim.SGD, rho=RHO, **SGD_OPTIONS)

    def closure() -> Tensor:
        optimizer.zero_grad()
        return problem.backward()

    return lambda: optimizer.step(closure)


def contestants(setting: Setting, groups: Sequence[int], peers: Sequence[str]) -> dict[str, Callable[[], None]]:
    """By the name in the table; the limit first."""
    steps = {LIMIT: limit(setting), "SGD: forward + backward + step": limit(setting, passes=1), LEAST: least(setting)}
    for count in groups:
        m = setting.batch_size // count
        name = "samtune TrainStep, m = b" + (f"/{count}" if count > 1 else "")
        steps[name] = train_step(setting, SAMConfig(m=m))
        if count > 1:
            steps[f"{name}, vectorized"] = train_step(setting, SAMConfig(m=m), "vectorized")
    steps["samtune SAM.step(closure), m = b"] = closure_step(setting)
    for path in peers:
        steps[f"{path}, m = b"] = peer_step(setting.problem(), path, SGD_OPTIONS)
    return steps


# -- timing ------------------------------------------------------------------------------------------------------------


def measure(
    steps: dict[str, Callable[[], None]], *, rounds: int, block: int, device: torch.device, cpu_time: bool
) -> dict[str, list[float]]:
    """Seconds per step, one per round, after a round that does not count; the order within a round is random.

    Args:
        block: steps that a contestant takes in a row.
    """
    clock = time.process_time if cpu_time else time.perf_counter
    order = list(steps)
    shuffle = random.Random(0).shuffle
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for index in range(1 + rounds):
        shuffle(order)
        for name in order:
            synchronize(device)
            started = clock()
            for _ in range(block):
                steps[name]()
            synchronize(device)
            if index:
                seconds[name].append((clock() - started) / block)
    return seconds


def format_table(seconds: dict[str, list[float]]) -> str:
    """One line per contestant: median time, and the median of its ratio to the limit with the middle half of them."""
    limits = seconds[LIMIT]
    lines = [f"{'':46} {'ms/step':>9} {'/ limit':>8}   middle half"]
    for name, times in seconds.items():
        ratios = [own / other for own, other in zip(times, limits, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        lines.append(f"{name:46} {1e3 * statistics.median(times):9.2f} {middle:8.3f}   {low:.3f} … {high:.3f}")
    return "\n".join(lines)


# -- collectives -------------------------------------------------------------------------------------------------------


def count_collectives(setting: Setting) -> str:
    """All-reduces per step of SGD and SAM over two gloo ranks on this machine, as text."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        ranks = [context.Process(target=_count_on_rank, args=(rank, setting, folder)) for rank in range(2)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
        return (Path(folder) / "table").read_text(encoding="utf-8")


def all_reduce_sizes(function: Callable[[], object]) -> list[int]:
    """The number of elements of every all-reduce over gloo that a function runs, in order."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        function()
    events = [event for event in recorded.events() or () if event.name == "gloo:all_reduce"]
    return [int(event.input_shapes[0][0]) for event in sorted(events, key=lambda event: event.time_range.start)]


def _count_on_rank(rank: int, setting: Setting, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    counts = collectives_per_step(rank, 2, setting)
    if rank == 0:
        lines = [f"{name:46} {number:3} all-reduces {size:12,} bytes" for name, (number, size) in counts.items()]
        (Path(folder) / "table").write_text("\n".join(lines), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def collectives_per_step(rank: int, num_ranks: int, setting: Setting) -> dict[str, tuple[int, int]]:
    """Number and bytes of the all-reduces of a step, on a rank of a gloo group, with 4 examples per worker."""
    size = 4 * num_ranks
    setting = replace(setting, device=torch.device("cpu"), precision="fp32", batch_size=size)
    methods: dict[str, MethodConfig] = {
        "SGD": BaseOptimizerConfig(),
        "SAM, m = b": SAMConfig(),
        "SAM, m = b/4": SAMConfig(m=1),
        "SAM, m = global": SAMConfig(m="global"),
    }
    counts = {}
    for name, method in methods.items():
        model, inputs, targets = setting.build()
        optimizer = torch.optim.SGD(model.parameters(), **SGD_OPTIONS)
        model.eval()  # BatchNorm over a single example
        options: dict[str, Any] = {"batch_size": size, "num_workers": num_ranks, "rank": rank}
        step = TrainStep(model, nn.CrossEntropyLoss(), optimizer, method, **options)
        shard = inputs[4 * rank : 4 * rank + 4], targets[4 * rank : 4 * rank + 4]
        for _ in range(2):  # DistributedDataParallel rebuilds its buckets after the first step
            step(*shard)
        sizes = all_reduce_sizes(partial(step, *shard))
        counts[name] = (len(sizes), 4 * sum(sizes))
    return counts


# -- command -----------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m samtune.benchmarks sam", description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="names, or module:factory for 224x224 images")
    parser.add_argument("--batch-size", type=int, default=128, help="examples per step (default 128)")
    parser.add_argument("--groups", nargs="+", type=int, default=[1, 4, 8], help="m-groups per batch (default 1 4 8)")
    parser.add_argument("--rounds", type=int, default=10, help="timed blocks of each contestant (default 10)")
    parser.add_argument("--steps", type=int, default=SAMPLING_INTERVAL, help="steps of a block (default 16)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: cuda if any")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="default fp32")
    parser.add_argument("--channels-last", action="store_true", help="memory format of images and convolutions")
    parser.add_argument("--peer", action="append", default=[], help="module:Class of another SAM; may be repeated")
    parser.add_argument("--cpu-time", action="store_true", help="the process's CPU time, for a machine with other work")
    parser.add_argument("--no-collectives", action="store_true", help="leave out the count over two gloo ranks")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    hardware = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    )
    print(f"torch {torch.__version__}, {hardware}, batch {options.batch_size}, {options.precision}")
    peers = installed_peers(print) + options.peer
    for name in options.models:
        setting = Setting(name, options.batch_size, device, options.precision, options.channels_last)
        model, _, _ = setting.build()
        tensors = list(model.parameters())
        print(f"\n{name}: {sum(p.numel() for p in tensors):,} weights in {len(tensors)} tensors")
        steps = contestants(setting, options.groups, peers)
        how: dict[str, Any] = {"rounds": options.rounds, "block": options.steps, "cpu_time": options.cpu_time}
        print(format_table(measure(steps, device=device, **how)))
        if not options.no_collectives and name in MODELS:
            print(f"over two gloo ranks, per step:\n{count_collectives(setting)}")
