"""The largest eigenvalues of the Hessian, and the density of all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from samtune.errors import UsageError
from samtune.sharpness.estimate import Estimate, Progress, is_enough, mean_estimate
from samtune.sharpness.lanczos import Ritz, lanczos
from samtune.sharpness.loss import Batches, LossFn, MeanLoss
from samtune.sharpness.probes import probe_generator, rademacher


@dataclass(frozen=True, slots=True)
class Eigenvalues:
    """The largest eigenvalues, in descending order."""

    values: tuple[float, ...]
    standard_errors: tuple[float, ...]
    """Norms of the residuals ‖Hv - λv‖: an eigenvalue lies within each."""
    passes: float
    num_steps: int

    @property
    def ratio(self) -> float:
        """The first over the last: λ_max/λ_5 of the SAM paper's section 4.2 with five of them."""
        return self.values[0] / self.values[-1]


def lambda_max(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Batches,
    *,
    tolerance: float = 1e-3,
    max_steps: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
    group: dist.ProcessGroup | None = None,
) -> Estimate:
    """The largest eigenvalue of the Hessian of the mean loss. See `top_eigenvalues`, of which this is the first."""
    top = top_eigenvalues(
        model,
        loss_fn,
        batches,
        k=1,
        tolerance=tolerance,
        max_steps=max_steps,
        seed=seed,
        progress=progress,
        group=group,
    )
    return Estimate(top.values[0], top.standard_errors[0], top.passes, top.num_steps)


def top_eigenvalues(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Batches,
    *,
    k: int = 5,
    tolerance: float = 1e-3,
    max_steps: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
    group: dist.ProcessGroup | None = None,
) -> Eigenvalues:
    """The k algebraically largest eigenvalues of the Hessian, by Lanczos with full re-orthogonalisation.

    Of an eigenvalue that occurs several times, one copy may be found. Where the loss has kinks (ReLU, max pooling) its
    Hessian is that of the smooth pieces, and jumps across them are not seen: this cannot be detected.

    Args:
        k: how many.
        tolerance: ends when each residual is at most this share of its eigenvalue's size.
        max_steps: upper limit, with the errors reached by then. Each costs 3 passes; memory is
            max_steps x (number of weights).
        seed: of the random start.
        progress: called with the largest after each step; True ends it, once k are known.

    Raises:
        NotTwiceDifferentiableError: says why.
        UsageError: fewer than k steps or weights.
    """
    mean_loss = MeanLoss(model, loss_fn, batches, group=group)
    if not 1 <= k <= min(max_steps, mean_loss.num_weights):
        raise UsageError(
            f"k must lie between 1 and max_steps and the number of weights (k is {k}, max_steps {max_steps}, weights "
            f"{mean_loss.num_weights})"
        )
    generator = probe_generator(mean_loss, seed)
    start = torch.randn(1, mean_loss.num_weights, dtype=mean_loss.dtype, device=mean_loss.device, generator=generator)
    steps = 0
    with mean_loss.fixed():
        for ritz in lanczos(mean_loss.hessian_products, start, max_steps, generator=generator):
            steps += 1
            values, errors = ritz.values[0].flip(0)[:k], ritz.residuals[0].flip(0)[:k]
            largest = Estimate(float(values[0]), float(errors[0]), mean_loss.passes, steps)
            told_to_stop = progress is not None and progress(largest) is True
            if len(values) == k and (told_to_stop or bool((errors <= tolerance * values.abs()).all())):
                break
    return Eigenvalues(tuple(values.tolist()), tuple(errors.tolist()), mean_loss.passes, steps)


@dataclass(frozen=True, slots=True)
class SpectralDensity:
    """The density of the Hessian's eigenvalues, as Gauss quadratures of several random probes."""

    nodes: Tensor
    """Ritz values, float64 [probes, steps]."""
    weights: Tensor
    """Of the nodes, [probes, steps]; those of a probe sum to 1."""
    num_weights: int
    """d, the number of eigenvalues."""
    passes: float

    def at(self, grid: Tensor, width: float | None = None) -> tuple[Tensor, Tensor]:
        """The density, smoothed by a Gaussian, and its standard error over the probes.

        Args:
            grid: eigenvalues, [n].
            width: standard deviation of the Gaussian; default 1% of the range of the nodes.

        Returns:
            Two of [n]; the first integrates to 1.
        """
        span = float(self.nodes.max() - self.nodes.min())
        sigma = width or 0.01 * span or 0.01
        bumps = torch.exp(-0.5 * ((grid.double() - self.nodes[..., None]) / sigma) ** 2) / (
            sigma * math.sqrt(2 * math.pi)
        )
        of_probe = (self.weights[..., None] * bumps).sum(dim=1)
        n = len(of_probe)
        error = of_probe.std(dim=0) / math.sqrt(n) if n > 1 else torch.full_like(of_probe[0], math.nan)
        return of_probe.mean(dim=0), error

    def moment(self, power: int) -> Estimate:
        """The mean of λ^power over all eigenvalues: 1 is trace/d, 2 is ‖H‖_F²/d."""
        samples = (self.weights * self.nodes**power).sum(dim=1).tolist()
        return mean_estimate(samples, self.passes)

    def quantile(self, share: float) -> float:
        """The least node below or at which this share of all eigenvalues lies, in [0, 1]."""
        nodes, order = self.nodes.flatten().sort()
        weights = self.weights.flatten()[order].cumsum(0) / len(self.nodes)
        reached = weights >= share - 1e-12
        return float(nodes[reached][0] if reached.any() else nodes[-1])


def spectral_density(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Batches,
    *,
    num_probes: int = 10,
    steps: int = 80,
    together: int = 2,
    target_error: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    group: dist.ProcessGroup | None = None,
) -> SpectralDensity:
    """Stochastic Lanczos quadrature (Ghorbani et al., 2019): Lanczos from random probes.

    Args:
        num_probes: at most.
        steps: of Lanczos for each.
        together: probes that share forwards and backwards: each step costs 1 + 2·together passes; memory is
            steps x together x (number of weights).
        target_error: ends when the standard error of the mean eigenvalue is this small.
        seed: of the probes, Rademacher vectors.
        progress: called with the mean eigenvalue, `moment(1)`, after each lot of probes; True ends it.

    Raises:
        NotTwiceDifferentiableError: says why.
    """
    mean_loss = MeanLoss(model, loss_fn, batches, group=group)
    generator = probe_generator(mean_loss, seed)
    found: list[Ritz] = []
    with mean_loss.fixed():
        for first in range(0, num_probes, together):
            start = rademacher(mean_loss, min(together, num_probes - first), generator)
            *_, last = lanczos(mean_loss.hessian_products, start, steps, generator=generator)
            found.append(last)
            density = SpectralDensity(
                torch.cat([ritz.values for ritz in found]),
                torch.cat([ritz.weights for ritz in found]),
                mean_loss.num_weights,
                mean_loss.passes,
            )
            if is_enough(density.moment(1), target_error, progress):
                break
    return density
