"""What curvature costs here: `python -m samtune.benchmarks sharpness`.

1. A Hessian-vector product against two passes (forwards and backwards), alone and where several share a forward.
2. Against PyHessian's algorithm (Yao et al. 2020; its `trace` and `eigenvalues`, written out here): the time to one
   standard error of the trace, and to λ_max within one relative error. Both sides see the same model and examples and
   are run alternately on one thread; the figures are ratios of median CPU times.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from samtune.sharpness import MeanLoss, lambda_max, trace
from samtune.sharpness.estimate import Estimate, mean_estimate
from samtune.sharpness.probes import probe_generator, rademacher

LOSS = nn.CrossEntropyLoss()
Batch = tuple[Tensor, Tensor]


def pyhessian_product(model: nn.Module, batches: list[Batch], vector: Tensor) -> Tensor:
    """`hessian.dataloader_hv_product`: a forward and two backwards of each batch for every single product."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    parts = torch.split(vector, [parameter.numel() for parameter in parameters])
    shaped = [part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True)]
    total, count = torch.zeros_like(vector), 0
    for inputs, targets in batches:
        gradient = torch.autograd.grad(LOSS(model(inputs), targets), parameters, create_graph=True)
        product = torch.autograd.grad(gradient, parameters, shaped)
        total += len(targets) * torch.cat([part.reshape(-1) for part in product])
        count += len(targets)
    return total / count


def pyhessian_trace(model: nn.Module, batches: list[Batch], target_error: float, most: int = 2000) -> Estimate:
    """`hessian.trace`: Rademacher probes one by one, here until the standard error is reached."""
    generator = torch.Generator().manual_seed(0)
    size = sum(parameter.numel() for parameter in model.parameters())
    samples: list[float] = []
    while len(samples) < most:
        probe = torch.randint(0, 2, (size,), generator=generator).float() * 2 - 1
        samples.append(float(probe @ pyhessian_product(model, batches, probe)))
        estimate = mean_estimate(samples, 3.0 * len(samples))
        if len(samples) >= 8 and estimate.standard_error <= target_error:
            break
    return estimate


def pyhessian_lambda_max(model: nn.Module, batches: list[Batch], expected: float, tolerance: float) -> int:
    """`hessian.eigenvalues(top_n=1)`: power iteration, here until it is within `tolerance` of the true eigenvalue.

    Returns:
        The number of products.
    """
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(sum(parameter.numel() for parameter in model.parameters()), generator=generator)
    for step in range(1, 2001):
        vector = vector / vector.norm()
        image = pyhessian_product(model, batches, vector)
        if abs(float(vector @ image) - expected) <= tolerance * expected:
            return step
        vector = image
    return step


def network(width: int = 16) -> nn.Sequential:
    """Three 3x3 convolutions without normalisation, for 32x32 images."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * width, 10),
    )


def examples(num_batches: int, batch_size: int) -> list[Batch]:
    """Images of smooth noise whose class is their strongest pattern of ten."""
    generator = torch.Generator().manual_seed(0)
    patterns = nn.functional.interpolate(torch.randn(10, 3, 6, 6, generator=generator), size=32, mode="bilinear")
    batches = []
    for _ in range(num_batches):
        targets = torch.randint(0, 10, (batch_size,), generator=generator)
        noise = torch.randn(batch_size, 3, 32, 32, generator=generator)
        batches.append((0.5 * patterns[targets] + noise, targets))
    return batches


def train(model: nn.Module, batches: list[Batch], epochs: int = 10) -> None:
    """A few epochs: at random weights the Hessian has no outliers."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for _ in range(epochs):
        for inputs, targets in batches:
            optimizer.zero_grad()
            LOSS(model(inputs), targets).backward()
            optimizer.step()


def alternate(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each, run one after another again and again: other processes do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds + 1):  # the first round warms up
        for name, function in functions.items():
            started = time.process_time()
            function()
            seconds[name].append(time.process_time() - started)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def products(model: nn.Module, batches: list[Batch], rounds: int) -> Iterator[str]:
    loss = MeanLoss(model, LOSS, batches)
    probes = rademacher(loss, 8, probe_generator(loss, 0))
    with loss.fixed():
        times = alternate(
            {
                "pass": loss.value_and_gradient,
                "1": lambda: loss.hessian_products(probes[:1]),
                "4": lambda: loss.hessian_products(probes[:4]),
                "8": lambda: loss.hessian_products(probes),
            },
            rounds,
        )
    for count in ("1", "4", "8"):
        each = times[count] / int(count)
        yield f"Hessian-vector product, {count} at a time: {each / (2 * times['pass']):.2f} of two passes"


def against_pyhessian(model: nn.Module, batches: list[Batch], rounds: int) -> Iterator[str]:
    rough = trace(model, LOSS, batches, max_probes=32)
    target = 0.7 * rough.standard_error
    answers: dict[str, Estimate] = {}

    def keep(name: str, estimate: Callable[[], Estimate]) -> Callable[[], object]:
        return lambda: answers.__setitem__(name, estimate())

    times = alternate(
        {
            "pyhessian": keep("pyhessian", lambda: pyhessian_trace(model, batches, target)),
            "plain": keep("plain", lambda: trace(model, LOSS, batches, max_probes=2000, target_error=target)),
            "deflated": keep(
                "deflated", lambda: trace(model, LOSS, batches, max_probes=2000, target_error=target, deflate=10)
            ),
        },
        rounds,
    )
    yield f"trace to a standard error of {target:.3g}:"
    for name, answer in answers.items():
        yield (
            f"  {name:10} {answer.value:8.1f} ± {answer.standard_error:.2g}  {answer.num_samples:4d} probes  "
            f"{times[name] / times['pyhessian']:.2f} of PyHessian's time"
        )
    exact = lambda_max(model, LOSS, batches, tolerance=1e-6, max_steps=200).value
    tolerance, steps = 1e-3, [0]
    ours: list[Estimate] = []

    def until_as_near() -> None:
        ours.append(
            lambda_max(
                model,
                LOSS,
                batches,
                tolerance=0,
                progress=lambda answer: abs(answer.value - exact) <= tolerance * exact,
            )
        )

    times = alternate(
        {
            "pyhessian": lambda: steps.append(pyhessian_lambda_max(model, batches, exact, tolerance)),
            "lanczos": until_as_near,
        },
        rounds,
    )
    yield (
        f"lambda_max = {exact:.4g} to {tolerance:.0e}: power iteration {steps[-1]} products, Lanczos "
        f"{ours[-1].num_samples}; {times['lanczos'] / times['pyhessian']:.2f} of PyHessian's time"
    )


def main(arguments: Sequence[str]) -> None:
    """Prints the ratios."""
    parser = argparse.ArgumentParser(
        prog="python -m samtune.benchmarks sharpness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model, batches = network(), examples(options.batches, options.batch_size)
    train(model, batches)
    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"torch {torch.__version__}, 1 CPU thread; {size} weights, {options.batches} batches of "
          f"{options.batch_size} images 32x32")  # fmt: skip
    for line in [*products(model, batches, options.rounds), *against_pyhessian(model, batches, options.rounds)]:
        print(line)
