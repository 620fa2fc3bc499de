"""The papers' claims at the size of a CPU: trained, compared pair by pair, and held against what is published."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from samtune.config.search import ObjectiveConfig, ResourcesConfig
from samtune.config.trial import TrialSpec
from samtune.experiments.candidates import CandidateList
from samtune.experiments.fixed_trials import CandidateRun
from samtune.experiments.papers import published
from samtune.experiments.statistics import Comparison, Estimate, compare, estimate
from samtune.experiments.study_owner import StudyOwner
from samtune.formatting import format_number
from samtune.storage import WEIGHTS, delete_folder, join
from samtune.study import CANDIDATE, REPLICA, Callback, Study, TrialState

_METRICS: dict[str, tuple[str, float, float]] = {
    "test accuracy, %": ("test_accuracy", 100.0, 0.0),
    "test error, %": ("test_accuracy", -100.0, 100.0),
    "error sharpness, %": ("error_sharpness", 100.0, 0.0),
    "lambda_max": ("lambda_max", 1.0, 0.0),
    "lambda_max/lambda_5": ("lambda_ratio", 1.0, 0.0),
    "Frobenius norm": ("hessian_frobenius", 1.0, 0.0),
}
"""What a claim is about: a trial's metric at its last epoch, times a factor, plus a constant."""


@dataclass(frozen=True)
class Claim:
    """A claim and what became of it: of its two sides, and of their paired difference.

    Attributes:
        place: of the paper; `published` the two figures as printed, or what the text states.
        expected: sign of the published difference: 1, -1, or 0 where both figures are the same.
        values: of the candidate and of what it is compared with, by replica; only replicas that both have.
    """

    claim: str
    place: str
    published: str
    expected: int
    metric: str
    candidate: str
    against: str
    values: tuple[Sequence[float], Sequence[float]]

    @property
    def sides(self) -> tuple[Estimate, Estimate] | None:
        """Mean and 95% interval of both; None without a replica."""
        own, other = self.values
        return (estimate(own), estimate(other)) if own else None

    @property
    def comparison(self) -> Comparison | None:
        """The paired difference, candidate minus the other; None without a replica."""
        return compare(*self.values) if self.values[0] else None

    @property
    def verdict(self) -> str:
        """`shows`: the interval of the difference lies on the published side of 0.

        Where no difference is published, an interval that holds 0 is `no difference found`: a wide one proves nothing.
        """
        comparison = self.comparison
        if comparison is None or comparison.difference.interval is None:
            return "not measured"
        low, high = comparison.difference.interval
        if self.expected == 0:
            return "no difference found" if low <= 0 <= high else "contradicted"
        if self.expected * (low if self.expected > 0 else high) > 0:
            return "shows"
        if self.expected * (high if self.expected > 0 else low) < 0:
            return "contradicted"
        return "does not show"

    @property
    def sign_agrees(self) -> bool | None:
        """Whether the mean difference has the published sign, whatever its interval; None: none is published."""
        comparison = self.comparison
        if comparison is None or self.expected == 0:
            return None
        return comparison.difference.mean * self.expected > 0

    def to_dict(self) -> dict[str, Any]:
        """JSON types only."""
        comparison = self.comparison
        difference = comparison and comparison.difference
        return {
            "claim": self.claim,
            "place": self.place,
            "published": self.published,
            "expected_sign": self.expected,
            "metric": self.metric,
            "candidate": self.candidate,
            "against": self.against,
            "candidate_values": list(self.values[0]),
            "against_values": list(self.values[1]),
            "difference": difference and difference.mean,
            "difference_half_width": difference and difference.half_width,
            "p_value": comparison and comparison.p_value,
            "sign_agrees": self.sign_agrees,
            "verdict": self.verdict,
        }


@cache
def _document() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("small_claims.yaml").read_text(encoding="utf-8"))
    return found


def small_candidates(replicas: int) -> CandidateList:
    """What is trained: every candidate with the same seeds."""
    document = _document()
    specs = {
        label: TrialSpec.model_validate({**document["settings"][setting], "method": method, "final": True})
        for label, (setting, method) in document["candidates"].items()
    }
    return CandidateList(
        name=document["name"],
        candidates=specs,
        replicas=replicas,
        first_seed=0,
        objectives=(ObjectiveConfig(metric="test_accuracy"),),
        resources=ResourcesConfig(num_workers=1, gpus_per_worker=0),
    )


class SmallClaims(StudyOwner):
    """Trains the small version of the papers' claims as a study, `papers-small`. Where it has begun, it is resumed.

    Args:
        replicas: seeds of each candidate; two at least give an interval. With three it is 4.3 standard errors wide to
            either side, with ten 2.3.
        storage_path, tracking_uri, address, callbacks: as of `Tuner`.

    Raises:
        UsageError: the study has begun with other replicas or settings.
    """

    def __init__(
        self,
        *,
        replicas: int = 10,
        storage_path: str | Path | None = None,
        tracking_uri: str | None = None,
        address: str | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self._run = CandidateRun(
            small_candidates(replicas),
            kind="confirmation",
            name=_document()["name"],
            storage_path=storage_path,
            tracking_uri=tracking_uri,
            address=address,
            callbacks=callbacks,
        )
        self._runner = self._run.runner

    def run(self) -> tuple[Study, list[Claim]]:
        """Runs what is missing; the weights are not kept.

        Raises:
            RunError: no replica succeeded.
        """
        study = self._run.complete()
        delete_folder(join(study.storage_path, WEIGHTS))
        return study, claims_of(study)


def claims_of(study: Study) -> list[Claim]:
    """Every claim, as far as the study has come."""
    return [_claim(entry, study) for entry in _document()["claims"]]


def _claim(entry: Mapping[str, Any], study: Study) -> Claim:
    place, text, expected = _published(entry)
    own, other = (_values(study, entry[side], entry["metric"]) for side in ("candidate", "against"))
    shared = sorted(own.keys() & other.keys())
    values = ([own[r] for r in shared], [other[r] for r in shared])
    names = {key: entry[key] for key in ("claim", "metric", "candidate", "against")}
    return Claim(**names, place=place, published=text, expected=expected, values=values)


def _published(entry: Mapping[str, Any]) -> tuple[str, str, int]:
    """Place, figures or statement, and the sign of the difference."""
    if "stated" in entry:
        space, place = entry["stated"]
        return place, published()["stated"][space][place], entry["sign"]
    figures = []
    for space, place, row, column in entry["published"]:
        block = published()["figures"][space][place]
        figures.append(block["rows"][row][block["columns"].index(column)])
    one, other = (float(figure.partition(" ")[0]) for figure in figures)
    difference = one - other
    return place, f"{figures[0]} against {figures[1]}: {difference:+.4g}", (difference > 0) - (difference < 0)


def _values(study: Study, label: str, metric: str) -> dict[int, float]:
    """By replica."""
    name, factor, constant = _METRICS[metric]
    trials = [t for t in study if t.state is TrialState.COMPLETED and t.config[CANDIDATE] == label]
    found = {int(t.config[REPLICA] or 0): t.metrics.get(name, math.nan) for t in trials}
    return {replica: factor * value + constant for replica, value in found.items() if math.isfinite(value)}


def format_side(value: Estimate, *, signed: bool = False) -> str:
    """`72.4 ± 3.1`."""
    mean = f"{value.mean:+.3g}" if signed else format_number(value.mean)
    return mean if value.half_width is None else f"{mean} ± {format_number(value.half_width, 2)}"
