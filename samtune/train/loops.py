"""The two loops that train a trial: a training function of the user's, and samtune's own."""

from __future__ import annotations

from samtune.config.trial import LABEL_NOISE, TrialSpec
from samtune.storage import join
from samtune.train.labels import keep_changed_labels
from samtune.train.repeats import RepeatedRun, build_run
from samtune.train.session import Host, Place, epochs
from samtune.train.trial_context import call_train_function


def train_trial(spec: TrialSpec, place: Place, host: Host) -> None:
    """Trains a trial on one rank, from its newest checkpoint on.

    Raises:
        DivergedError: on every rank alike: a loss is not finite.
    """
    if spec.train is not None:
        call_train_function(spec, place, host)
        return
    run = build_run(spec, rank=place.rank, num_workers=place.num_workers, device=place.device)
    if place.rank == 0:
        runs = run.runs if isinstance(run, RepeatedRun) else [run]
        keep_changed_labels([each.dataset for each in runs], spec, join(host.study_folder, LABEL_NOISE))
    for epoch in epochs(run, spec, host):
        run.train_epoch(epoch, lambda: host.after_step(run))
