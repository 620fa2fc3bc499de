"""What is written to MLflow: names, tags, parameters, the leaderboard and the description, from the records."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import yaml

from samtune.config.fixed import fixed_space, fixed_yaml
from samtune.config.space import SearchSpace
from samtune.config.trial import LABEL_NOISE, data_digest
from samtune.errors import SpaceError
from samtune.formatting import (
    configuration_name,
    counted,
    first_line,
    format_metric,
    format_seconds,
    format_value,
    markdown_cell,
    printable,
    searched_keys,
    set_arguments,
    short_names,
    trial_name,
)
from samtune.storage import join, read_bytes
from samtune.study import CANDIDATE, Study, Trial, TrialState
from samtune.tracking.credentials import shown_command
from samtune.tracking.parameters import param

MAX_TAG = 5000  # MLflow keeps 8,000 characters of a tag, older servers 5,000
MAX_NAME = 200  # MLflow keeps 250 characters of a run's name
DESCRIBED_TRIALS = 10

_STATUS = {
    TrialState.COMPLETED: "FINISHED",
    TrialState.PRUNED: "KILLED",
    TrialState.INTERRUPTED: "KILLED",
    TrialState.FAILED: "FAILED",
}
_NAMED = {"samtune.method": "method.name", "samtune.dataset": "data.name", "samtune.model": "model.name"}


def run_status(trial: Trial) -> str:
    """MLflow's status for an ended trial."""
    return _STATUS[trial.state]


def study_status(study: Study) -> str:
    """MLflow's status for an ended search: FAILED when nothing succeeded, KILLED when it ended before its time.

    A budget ends a search in time.
    """
    if study.count(TrialState.FAILED) and not study.count(TrialState.COMPLETED, TrialState.PRUNED):
        return "FAILED"
    return "KILLED" if study.is_cut_short else "FINISHED"


def run_name(study: Study, trial: Trial) -> str:
    """What tells the runs of a search apart in MLflow's list: `sam rho=0.084 lr=0.053`, as the trial began.

    Of a trial that has nothing searched: `trial 003`, or the candidate and the replica.
    """
    first = trial.perturbations[0]["before"]["config"] if trial.perturbations else trial.config
    searched = {key: value for key, value in first.items() if key != "method.name"}
    if CANDIDATE in trial.config or not first:
        return trial_name(study, trial)
    return printable(configuration_name(trial.params.get("method.name"), searched))[:MAX_NAME]


def dataset(trial: Trial) -> tuple[str, str, str, str] | None:
    """Name, digest, source and context of the data that a trial trains on; None where it does not say."""
    settings = {key: value for key, value in trial.params.items() if key.startswith("data.")}
    if "data.name" not in settings:
        return None
    source = json.dumps(settings, sort_keys=True)
    return str(settings["data.name"]), data_digest(trial.params), source, "training"


def label_noise(study: Study) -> dict[str, str]:
    """Which labels were changed to what, by the digest of the data: from files of the workers in the study's folder."""
    found = {}
    for digest in {data_digest(trial.params) for trial in study}:
        with suppress(OSError):  # the store is away: it is kept there all the same
            if content := read_bytes(join(study.storage_path, LABEL_NOISE, f"{digest}.json")):
                found[digest] = content.decode()
    return found


def trial_tags(study: Study, trial: Trial) -> dict[str, str]:
    """What a run can be filtered by from its first moment."""
    named = {tag: param(trial.params[key]) for tag, key in _NAMED.items() if key in trial.params}
    return {
        "samtune.study": study.name,
        "samtune.kind": "trial",
        "samtune.trial_id": trial.id,
        "samtune.trial_number": str(trial.number),
        "samtune.state": str(TrialState.RUNNING),
        **named,
    }


def trial_end_tags(trial: Trial) -> dict[str, str]:
    tags = {"samtune.state": str(trial.state)}
    if trial.error:
        tags["samtune.error"] = first_line(trial.error)[:MAX_TAG]
    if trial.perturbations:
        changes = [{**change, "before": change["before"]["config"]} for change in trial.perturbations]
        tags["samtune.perturbations"] = to_json({"config": trial.config, "changes": changes})[:MAX_TAG]
    return tags


def study_tags(study: Study) -> dict[str, str]:
    return {
        "samtune.study": study.name,
        "samtune.kind": study.kind,
        "samtune.state": str(TrialState.RUNNING),
        "samtune.command": shown_command(study.command)[:MAX_TAG],
        "samtune.objective": study.goal,
        "samtune.storage_path": study.storage_path,
        "samtune.version": study.versions.get("samtune", ""),
    }


def study_end_tags(study: Study) -> dict[str, str]:
    states = {"FINISHED": TrialState.COMPLETED, "KILLED": TrialState.INTERRUPTED, "FAILED": TrialState.FAILED}
    tags = {"samtune.state": str(states[study_status(study)])}
    if best := study.best:
        tags["samtune.best_trial"] = str(best.number)
        tags |= {f"best.{key}": param(value) for key, value in best.config.items()}
    if len(study.objectives) > 1:
        tags["samtune.pareto"] = ", ".join(str(trial.number) for trial in study.pareto)[:MAX_TAG]
    if study.stopped_by:
        tags["samtune.stopped_by"] = study.stopped_by
    return tags


def study_end_metrics(study: Study) -> dict[str, float]:
    """The search's results in numbers; the best objective itself is logged as a curve over the trials."""
    metrics = {
        "num_trials": float(len(study.trials)),
        "num_completed": float(study.count(TrialState.COMPLETED)),
        "num_pruned": float(study.count(TrialState.PRUNED)),
        "num_failed": float(study.count(TrialState.FAILED)),
        "search_seconds": study.seconds,
        **study.usage,
    }
    if best := study.best:
        others = [name for name in ("val_accuracy", "val_loss", "num_passes") if name != study.objective.metric]
        metrics |= {f"best_{name}": best.metrics[name] for name in others if name in best.metrics}
    return metrics


def best_yaml(study: Study, best: Trial) -> str:
    """The best configuration of a search, as a space that `train`, `confirm` and `search` take as it is.

    Of a study that is none: the searched keys, then every key of the trial.
    """
    with suppress(SpaceError):
        space = fixed_space(SearchSpace.from_text(study.space_yaml, "space.yaml"), best.config, study.name)
        value = f"{study.objective} {format_metric(study.objective.value(best))}"
        return fixed_yaml(space, [f"Trial {best.number} of study {study.name}: {value}"])
    return yaml.safe_dump(
        {"trial": best.number, "config": best.config, "metrics": best.metrics, "params": best.params},
        sort_keys=False,
        allow_unicode=True,
    )


def leaderboard_columns(study: Study) -> dict[str, list[Any]]:
    """All trials by column, the best first, in JSON's types: what is missing or not finite is null.

    The searched keys keep their full names, with a slash, since MLflow's table shows nothing for a name with a dot:
    `training/lr` is the peak, the metric `lr` the value in the last epoch.
    """
    trials = study.ranked()
    trials.sort(key=lambda trial: trial.state is TrialState.FAILED)
    num_ranked = sum(_has_rank(study, trial) for trial in trials)
    objectives: dict[str, list[Any]] = {
        str(objective): [objective.value(trial) for trial in trials] for objective in study.objectives
    }
    if len(objectives) > 1:
        front = study.pareto
        objectives["Pareto"] = ["front" if trial in front else None for trial in trials]
    metrics = dict.fromkeys(name for trial in trials for name in trial.metrics if name not in objectives)
    columns: dict[str, list[Any]] = {
        "rank": [rank if rank <= num_ranked else None for rank in range(1, len(trials) + 1)],
        "trial": [trial.number for trial in trials],
        "state": [str(trial.state) for trial in trials],
        **objectives,
    }
    keys = searched_keys(trials)
    columns |= {key.replace(".", "/"): [trial.config.get(key) for trial in trials] for key in keys}
    columns |= {name: [_finite(trial.metrics.get(name)) for trial in trials] for name in metrics}
    return columns | {"seconds": [round(t.seconds, 3) for t in trials], "error": [t.error for t in trials]}


def _has_rank(study: Study, trial: Trial) -> bool:
    return trial.state is not TrialState.FAILED and study.objective.value(trial) is not None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def to_json(data: Mapping[str, Any]) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False, default=str)


def description(study: Study) -> str:
    """Markdown for the top of the search's page."""
    lines = [f"**{study.name}**: {_progress(study)}", ""]
    if (best := study.best) and study.kind != "confirmation":  # whose lines below name the best by its mean
        lines += [
            f"Best: `{study.objective.metric}` **{format_metric(study.objective.value(best))}** (trial {best.number})",
            "",
            "```",
            _code(set_arguments(best.config)),
            "```",
            "",
        ]
    lines += [f"- {markdown_cell(line)}" for line in study.verdict] + [""] * bool(study.verdict)
    searched = study.plan.get("searched", {})
    lines += ["Searched:", ""] * bool(searched)
    lines += [f"- {markdown_cell(f'{key}: {text}')}" for key, text in searched.items()] + [""] * bool(searched)
    if study.trials:
        lines += [*_markdown_table(study), ""]
    lines += ["Command:", "", "```", _code(shown_command(study.command)), "```", ""]
    lines.append(
        "Versions: " + ", ".join(markdown_cell(f"{name} {version}") for name, version in study.versions.items())
    )
    return "\n".join(lines)[:MAX_TAG]


def _code(text: str) -> str:
    """A text within a fence, which it does not end."""
    return printable(text).replace("```", "'''")


def _progress(study: Study) -> str:
    counts = {
        str(state): study.count(state)
        for state in (TrialState.COMPLETED, TrialState.PRUNED, TrialState.FAILED, TrialState.INTERRUPTED)
    }
    text = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no trial ended yet"
    return f"{text} of {counted(study.num_trials, 'trial')} in {format_seconds(study.seconds)}"


def _markdown_table(study: Study) -> list[str]:
    ranked = [trial for trial in study.ranked() if _has_rank(study, trial)][:DESCRIBED_TRIALS]
    names = short_names(searched_keys(ranked))
    header = ["rank", "trial", *map(str, study.objectives), *names.values(), "state"]
    rows = [
        [
            str(rank),
            str(trial.number),
            *(format_metric(objective.value(trial)) for objective in study.objectives),
            *(format_value(trial.config[key]) if key in trial.config else "-" for key in names),
            str(trial.state),
        ]
        for rank, trial in enumerate(ranked, start=1)
    ]
    shown = [[markdown_cell(cell) for cell in cells] for cells in (header, *rows)]
    return ["| " + " | ".join(cells) + " |" for cells in (shown[0], ["---"] * len(header), *shown[1:])]
