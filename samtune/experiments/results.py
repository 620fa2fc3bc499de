"""The results of a search, as objects and as tables."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from samtune.errors import RunError
from samtune.experiments.summary import format_outcome, resume_command, traceback_file
from samtune.experiments.verdict import verdict_of
from samtune.formatting import counted, format_metric, format_seconds, format_value, searched_keys, short_names
from samtune.html_table import html_table
from samtune.study import Scalar, Study, Trial, TrialState
from samtune.tune.ending import HOPELESS, Ending

if TYPE_CHECKING:
    import optuna
    import pandas as pd
    import pyarrow as pa

    from samtune.experiments.importances import Importance

_T = TypeVar("_T")
_SHOWN = 10  # trials in a notebook


class Results:
    """The trials of a search, the best first.

    Attributes:
        study: everything that was recorded.
        interrupted: whether Ctrl-C ended the search before all trials were done.

    Example:
        >>> results = Results.load("digits-20261121-090000")
        >>> results.best.config, results.best.metrics["val_accuracy"]
        >>> [trial.number for trial in results.pareto]
        >>> results.importances()
        {'training.lr': 0.81, 'method.rho': 0.12, 'training.weight_decay': 0.07}
        >>> results.to_arrow().to_pandas().groupby("trial")["val_accuracy"].max()
    """

    def __init__(self, study: Study, *, interrupted: bool = False) -> None:
        self.study, self.interrupted = study, interrupted

    @classmethod
    def load(cls, name: str, storage_path: str | Path | None = None) -> Self:
        """The results of a study as its journal has them, whether it has ended or still runs.

        Args:
            name: of the study.
            storage_path: folder or URI of all studies; default ./samtune-results.

        Raises:
            UsageError: there is no such study.
        """
        from samtune.store.study_folder import study_folder

        return cls(study_folder(storage_path, name).read())

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.study.ranked())

    def __len__(self) -> int:
        return len(self.study.trials)

    @property
    def best(self) -> Trial:
        """The completed trial with the best (first) objective: `best.config`, `best.metrics["val_accuracy"]`.

        Raises:
            RunError: no trial was completed.
        """
        if self.study.best is None:
            raise RunError(f"study {self.study.name}: no trial was completed")
        return self.study.best

    @property
    def best_weights(self) -> str | None:
        """Path or URI of the best trial's weights, for `samtune.load_model`; None where none are kept (`keep_weights`).

        Of a confirmation or a training, those of its best candidate.
        """
        from samtune.storage import is_file, trial_weights
        from samtune.store.study_folder import weights_file

        best, study = self.study.best, self.study
        if best is None:
            return None
        uri = trial_weights(study.storage_path, best.id) if study.kind == "search" else weights_file(study)
        return uri if is_file(uri) else None

    @property
    def pareto(self) -> list[Trial]:
        """The completed trials that no other is at least as good as in every objective and better in one.

        With one objective, `best` and those that equal it.
        """
        return self.study.pareto

    def importances(self) -> dict[str, float]:
        """How much each searched key decides whether a trial is among the best (Optuna's PED-ANOVA); they sum to 1.

        With several objectives, by the first. Keys that only some trials have (`method.rho` where SGD is among the
        methods) are left out.

        Raises:
            RunError: too few trials were completed, they do not differ, or the study is a confirmation.
        """
        from samtune.experiments.importances import importances_of

        return self._importances(importances_of)

    def estimated_importances(self) -> dict[str, Importance]:
        """`importances` with their standard errors, by the bootstrap over the completed trials. Raises as it does."""
        from samtune.experiments.importances import estimated_importances

        return self._importances(estimated_importances)

    def _importances(self, of: Callable[..., dict[str, _T]]) -> dict[str, _T]:
        if self.study.kind == "confirmation":
            raise RunError("a confirmation repeats its candidates; nothing was searched")
        found = self.optuna_study()  # its file may be damaged, which is another fault
        try:
            return of(found, maximize=self.study.objective.mode == "max")
        except (ValueError, RuntimeError, UserWarning) as error:
            raise RunError(f"study {self.study.name}: no importances: {error}") from error

    def optuna_study(self) -> optuna.Study:
        """The study as Optuna has it, for its own analyses and plots.

        Raises:
            RunError: its file is not there.
            UsageError: it is damaged.
        """
        import optuna

        from samtune.storage import join, read_bytes
        from samtune.store import optuna_journal as optuna_file
        from samtune.store.study_files import whole_lines

        uri = join(self.study.storage_path, optuna_file.FILE_NAME)
        content = read_bytes(uri)
        if content is None:
            raise RunError(f"study {self.study.name}: {uri} is not there")
        optuna.logging.set_verbosity(optuna.logging.WARNING)

        # A copy: nothing is written to a study that one looks at, and its last line may not be whole.
        with tempfile.TemporaryDirectory(prefix="samtune-") as folder:
            path = Path(folder) / optuna_file.FILE_NAME
            path.write_bytes(whole_lines(content))
            copy = optuna.storages.InMemoryStorage()
            journal = optuna_file.open_storage(path, uri)
            names = optuna.get_all_study_names(journal)  # a study that was renamed has its earlier name here
            if not names:
                raise RunError(f"study {self.study.name}: {uri} has no trials")
            optuna.copy_study(from_study_name=names[0], from_storage=journal, to_storage=copy)
        return optuna.load_study(study_name=names[0], storage=copy)

    def to_pandas(self) -> pd.DataFrame:
        """One row per trial, the best first: number, state, seconds, searched keys, metrics of the last epoch."""
        import pandas as pd

        rows = [
            {
                "trial": trial.number,
                "state": str(trial.state),
                "seconds": trial.seconds,
                **trial.config,
                **trial.metrics,
            }
            for trial in self
        ]
        return pd.DataFrame(rows)

    def to_arrow(self) -> pa.Table:
        """One row per trial and epoch, in the order of the trials. A trial without an epoch has one, `epoch` null.

        Columns: `study`, `trial`, `trial_id`, `state`, `error`, `seconds` of the whole trial, `epoch`, every metric
        (double), and every dotted key of the trial, searched or not, with one type over all trials: int64, double,
        bool or string; null where a trial does not have the key.
        """
        import pyarrow as pa

        trials = sorted(self.study.trials, key=lambda trial: trial.number)
        rows = [(trial, metrics) for trial in trials for metrics in trial.history or [{}]]
        metrics = dict.fromkeys(name for _, record in rows for name in record if name != "epoch")
        keys = dict.fromkeys(key for trial in trials for key in trial.params)

        def of_trial(values: Sequence[Scalar], kind: pa.DataType) -> pa.Array:
            by_trial = dict(zip((trial.id for trial in trials), values, strict=True))
            return pa.array([by_trial[trial.id] for trial, _ in rows], kind)

        columns: dict[str, pa.Array] = {
            "study": pa.array([self.study.name] * len(rows), pa.string()),
            "trial": of_trial([trial.number for trial in trials], pa.int64()),
            "trial_id": of_trial([trial.id for trial in trials], pa.string()),
            "state": of_trial([str(trial.state) for trial in trials], pa.string()),
            "error": of_trial([trial.error for trial in trials], pa.string()),
            "seconds": of_trial([trial.seconds for trial in trials], pa.float64()),
            "epoch": pa.array([int(r["epoch"]) if r else None for _, r in rows], pa.int64()),
        }
        columns |= {name: pa.array([r.get(name) for _, r in rows], pa.float64()) for name in metrics}
        for key in keys:
            values, kind = _alike([trial.params.get(key) for trial in trials])
            columns[key] = of_trial(values, kind)
        return pa.table(columns)

    def _repr_html_(self) -> str:
        study, trials = self.study, list(self)[:_SHOWN]
        names = short_names(searched_keys(trials))
        header = ["trial", *map(str, study.objectives), *names.values(), "time", "state"]
        rows = [
            [
                str(trial.number),
                *(format_metric(objective.value(trial)) for objective in study.objectives),
                *(format_value(trial.config[key]) if key in trial.config else "-" for key in names),
                format_seconds(trial.seconds),
                str(trial.state),
            ]
            for trial in trials
        ]
        verdict = verdict_of(study)
        return html_table(format_outcome(study), header, rows, verdict.lines() if verdict else [])

    def __repr__(self) -> str:
        best = self.study.best
        value = f", best {self.study.objective.metric} {self.study.objective.value(best):.4g}" if best else ""
        return f"Results({self.study.name!r}, {counted(len(self), 'trial')}{value})"


def _alike(values: Sequence[Scalar]) -> tuple[list[Scalar], pa.DataType]:
    """The values of a key in all trials with one type: whole numbers among others are doubles, what differs is text."""
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds <= {bool}:
        return list(values), pa.bool_() if kinds else pa.string()
    if kinds <= {int}:
        return list(values), pa.int64()
    if kinds <= {int, float}:
        return [None if value is None else float(value) for value in values], pa.float64()
    return [None if value is None else str(value) for value in values], pa.string()


def raise_if_failed(study: Study, ending: Ending) -> None:
    """Raises SearchFailedError where a machine was at fault, or trials failed and none succeeded.

    A study that was stopped from outside has not failed.
    """
    if ending.fault is not None:
        line = f"{ending.fault}; once that is mended, `{resume_command(study)}` continues"
        raise SearchFailedError(line, Results(study))
    if ending.reason not in (None, HOPELESS) or study.count(TrialState.COMPLETED, TrialState.PRUNED):
        return
    failed = next((trial for trial in study if trial.state is TrialState.FAILED), None)
    if failed is not None:
        results = Results(study, interrupted=ending.interrupted)
        file = traceback_file(study, failed)
        where = f"; its traceback is in {file}" if file else ""
        raise SearchFailedError(f"no trial succeeded; the first failed with: {failed.error}{where}", results, failed)


class SearchFailedError(RunError):
    """No trial succeeded, or a machine's fault stopped the search.

    Attributes:
        results: what became of the trials.
        traceback: the whole text of the first failed trial's, as its worker had it; None where there is none.
    """

    def __init__(self, message: str, results: Results, failed: Trial | None = None) -> None:
        super().__init__(message)
        self.results, self.traceback = results, failed and failed.traceback
