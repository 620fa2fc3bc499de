"""What came of a search, as JSON for programs."""

from __future__ import annotations

import math
from typing import Any

from samtune.experiments.confirm import confirmation_so_far
from samtune.experiments.confirmed_study import confirmation_in
from samtune.experiments.summary import study_state
from samtune.experiments.verdict import verdict_of
from samtune.study import Scalar, Study, TrialState


def json_summary(study: Study, *, running: bool = False) -> dict[str, Any]:
    """The result for programs: JSON types only; what is not a finite number is null."""
    best, verdict = study.best, verdict_of(study, confirmation_so_far(study))
    confirmation = confirmation_in(study)
    return {
        "study": study.name,
        "state": study_state(study, running=running),
        "num_trials": study.num_trials,
        "num_completed": study.count(TrialState.COMPLETED),
        "num_pruned": study.count(TrialState.PRUNED),
        "num_failed": study.count(TrialState.FAILED),
        "best": best
        and {"trial": best.number, "config": _finite(dict(best.config)), "metrics": _finite(dict(best.metrics))},
        "verdict": verdict and verdict.to_dict(),
        **({"confirmation": confirmation.to_dict()} if confirmation else {}),
        **({"pareto": [trial.number for trial in study.pareto]} if len(study.objectives) > 1 else {}),
        "stopped_by": study.stopped_by,
        "seconds": round(study.seconds, 3),
        "tracking_uri": study.tracking_uri,
        "experiment_id": study.experiment_id,
        "parent_run_id": study.parent_run_id,
        "storage_path": study.storage_path,
    }


def _finite(values: dict[str, Any]) -> dict[str, Scalar]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }
