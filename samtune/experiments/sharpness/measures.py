"""Which measures the command line offers, and what each gives for a subject."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from samtune import sharpness
from samtune.config.yaml_source import did_you_mean
from samtune.data.sample import Sample
from samtune.errors import UsageError
from samtune.experiments.sharpness.subjects import Subject
from samtune.sharpness import Bound, Curve, Estimate, SpectralDensity, Surface
from samtune.sharpness.universal import NAMED

MEASURES = {
    "eigenvalues": "the largest eigenvalue of the Hessian, and its ratio to the fifth",
    "trace": "trace and squared Frobenius norm of the Hessian",
    "m_sharpness": "rise of the loss within rho for groups of m examples",
    "adaptive": "the same with ASAM's ball, which scales with the weights",
    "bound": "the PAC-Bayes bound, and theorem 2 as stated",
    "universal": "trace, squared Frobenius norm and determinant as universal measures, from losses alone",
    "spectrum": "density of the Hessian's eigenvalues (figure)",
    "line": "loss along a random direction (figure)",
    "surface": "loss on a random plane (figure)",
}
DEFAULT = ("eigenvalues", "trace", "m_sharpness")

Report = Callable[[str, str], object]
"""(measure, the answer so far as text)."""


@dataclass(frozen=True)
class Settings:
    """How much is measured."""

    measures: Sequence[str] = DEFAULT
    m: Sequence[int] = (16, 64, 256)
    rho: float = 0.05
    adaptive_rho: float = 0.5
    steps: int = 1
    delta: float = 0.05
    loss_bound: float = 1.0
    zero_one: bool = False
    num_probes: int = 100
    radius: float = 0.5
    seed: int = 0


@dataclass
class Measured:
    """What came out for one subject.

    Attributes:
        numbers: name -> estimate, in the order of the table.
        bound, spectrum, line, surface: where they were asked for.
    """

    subject: Subject
    num_examples: int
    numbers: dict[str, Estimate] = field(default_factory=dict)
    bound: Bound | None = None
    spectrum: SpectralDensity | None = None
    line: Curve | None = None
    surface: Surface | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        record: dict[str, Any] = {
            "name": self.subject.name,
            "num_examples": self.num_examples,
            "metrics": self.subject.metrics,
            "measures": {
                name: {
                    "value": e.value,
                    "standard_error": None if e.standard_error != e.standard_error else e.standard_error,
                    "passes": e.passes,
                    "num_samples": e.num_samples,
                }
                for name, e in self.numbers.items()
            },
        }
        if self.bound:
            record["bound_assumptions"] = list(self.bound.assumptions)
        if self.spectrum:
            record["spectrum"] = {"nodes": self.spectrum.nodes.tolist(), "weights": self.spectrum.weights.tolist()}
        if self.line:
            record["line"] = {"positions": self.line.positions, "losses": self.line.losses}
        if self.surface:
            record["surface"] = {"positions": self.surface.positions, "losses": self.surface.losses}
        return record


def check_measures(names: Sequence[str]) -> list[str]:
    """The measures that the user wrote; `all` is every one.

    Raises:
        UsageError: there is no such measure.
    """
    if "all" in names:
        return list(MEASURES)
    for name in names:
        if name not in MEASURES:
            problem = f"must be all or of {', '.join(MEASURES)}{did_you_mean(name, MEASURES)}"
            raise UsageError(problem, argument="measures", value=name)
    return list(names)


def measure(subject: Subject, batches: Sample, settings: Settings, report: Report) -> Measured:
    """All measures that the settings ask for.

    Raises:
        UsageError: one of them cannot be taken of this network; says why.
    """
    found = Measured(subject, len(batches))
    of = (subject.model, subject.loss, batches)

    def progress(name: str) -> Callable[[Estimate], object]:
        return lambda answer: report(name, f"{answer.value:.4g} ± {answer.standard_error:.2g}")

    for name in settings.measures:
        report(name, "")
        match name:
            case "eigenvalues":
                top = sharpness.top_eigenvalues(*of, k=5, seed=settings.seed, progress=progress(name))
                cost = (top.passes, top.num_steps)
                found.numbers["lambda_max"] = Estimate(top.values[0], top.standard_errors[0], *cost)
                share = sum(
                    error / abs(top.values[i])
                    for i, error in ((0, top.standard_errors[0]), (4, top.standard_errors[4]))
                )
                found.numbers["lambda_max/lambda_5"] = Estimate(top.ratio, abs(top.ratio) * share, *cost)
            case "trace":
                both = sharpness.trace_and_frobenius_squared(
                    *of, max_probes=settings.num_probes, seed=settings.seed, progress=progress(name)
                )
                found.numbers["trace"], found.numbers["frobenius_squared"] = both
            case "m_sharpness" | "adaptive":
                for m in settings.m:
                    key = f"{'m' if name == 'm_sharpness' else name}_sharpness m={m}"
                    if name == "m_sharpness":
                        found.numbers[key] = sharpness.m_sharpness(
                            *of, m=m, rho=settings.rho, steps=settings.steps, progress=progress(name)
                        )
                    else:
                        found.numbers[key] = sharpness.adaptive_sharpness(
                            *of, m=m, rho=settings.adaptive_rho, steps=settings.steps, progress=progress(name)
                        )
            case "bound":
                found.bound = sharpness.pac_bayes_bound(
                    *of,
                    rho=settings.rho,
                    delta=settings.delta,
                    loss_bound=settings.loss_bound,
                    bounded_loss=sharpness.zero_one_loss if settings.zero_one else None,
                )
                for key, value in (
                    ("pac_bayes_bound", found.bound.value),
                    ("theorem_2_bound", found.bound.theorem_2),
                ):
                    found.numbers[key] = Estimate(value, float("nan"), found.bound.passes, 1)
            case "universal":
                for row in NAMED:
                    found.numbers[f"universal_{row}"] = sharpness.named_universal_measure(
                        row, *of, num_directions=settings.num_probes, seed=settings.seed, progress=progress(name)
                    )
            case "spectrum":
                found.spectrum = sharpness.spectral_density(
                    *of, num_probes=max(2, settings.num_probes // 25), seed=settings.seed, progress=progress(name)
                )
            case "line":
                found.line = sharpness.loss_along(
                    *of, radius=settings.radius, seed=settings.seed, progress=lambda i, n: report("line", f"{i}/{n}")
                )
            case "surface":
                found.surface = sharpness.loss_surface(
                    *of, radius=settings.radius, seed=settings.seed, progress=lambda i, n: report("surface", f"{i}/{n}")
                )
    return found
