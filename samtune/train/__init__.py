"""One trial on one worker: built, trained epoch by epoch, evaluated, saved.

Knows torch and its process group; must not import Ray Tune, MLflow, or anything that hands trials out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from samtune.lazy import lazy_exports

if TYPE_CHECKING:
    from samtune.train.checkpoint import CheckpointFolder, Resumable
    from samtune.train.labels import keep_changed_labels
    from samtune.train.loss import Measure, evaluation_loss
    from samtune.train.repeats import RepeatedRun, build_run
    from samtune.train.trial import DivergedError, TrialRun

__all__ = [
    "CheckpointFolder",
    "DivergedError",
    "Measure",
    "RepeatedRun",
    "Resumable",
    "TrialRun",
    "build_run",
    "evaluation_loss",
    "keep_changed_labels",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "CheckpointFolder": ".checkpoint",
        "Resumable": ".checkpoint",
        "keep_changed_labels": ".labels",
        "Measure": ".loss",
        "evaluation_loss": ".loss",
        "RepeatedRun": ".repeats",
        "build_run": ".repeats",
        "DivergedError": ".trial",
        "TrialRun": ".trial",
    },
)
