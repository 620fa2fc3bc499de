"""The report: one page that opens anywhere, offline, with everything inside it."""

from __future__ import annotations

import base64
import gzip
import time
from importlib.resources import files
from typing import Any

from samtune.experiments.confirm import load_confirmation
from samtune.experiments.confirmation import CAPTION, Confirmation, format_estimate, table
from samtune.experiments.confirmed_study import (
    confirmation_commands,
    confirmation_in,
    confirmation_lines,
    format_best_candidate,
)
from samtune.experiments.results import Results
from samtune.experiments.summary import format_best, format_failures, format_outcome, next_commands
from samtune.formatting import (
    format_metric,
    format_number,
    format_seconds,
    format_value,
    printable,
    searched_keys,
    set_arguments,
    short_names,
)
from samtune.report.figures import Figure, figures
from samtune.study import CANDIDATE, REPLICA, Study, Trial, TrialState
from samtune.tracking.credentials import shown_command

LEADERBOARD = 50


def render(results: Results) -> str:
    """The page of a study, as HTML.

    It asks the network for nothing, and says so to the browser (Content-Security-Policy). plotly.js is in it, 5 MB that
    are compressed to 2. The page of ten thousand trials stays below 5 MB: figures show a bounded number of them.
    """
    import jinja2
    from plotly.offline import get_plotlyjs

    study, drawn = results.study, list(figures(results))
    confirmation = confirmation_in(study)
    templates = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, finalize=_shown)
    page = templates.from_string(files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8"))
    return page.render(
        study=study,
        outcome=format_outcome(study),
        best=format_best_candidate(confirmation) if confirmation else format_best(study),
        verdict=confirmation_lines(confirmation) if confirmation else _verdict(study),
        confirmed=_confirmed(confirmation or load_confirmation(study)),
        set_arguments=set_arguments(study.best.config) if study.best and study.kind == "search" else "",
        failures=format_failures(study),
        subject=_subject(study),
        facts=_facts(study, confirmation),
        leaderboard=_replicas(confirmation) if confirmation else _leaderboard(study),
        figures=[figure for figure in drawn if isinstance(figure, Figure)],
        missing=[reason for reason in drawn if isinstance(reason, str)],
        json_of=_json,
        command=shown_command(study.command),
        commands=_commands(study),
        written=time.strftime("%Y-%m-%d %H:%M"),
        plotly=base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode("ascii"),
    )


def _shown(value: Any) -> Any:
    """What a stranger's text says, but not what it would do; what is safe already stays."""
    return printable(value) if type(value) is str else value


def _json(figure: Any) -> str:
    """A plotly figure for a script element: `</script>` in a name must not end it."""
    return str(figure.to_json()).replace("<", "\\u003c")


def _verdict(study: Study) -> list[str]:
    from samtune.experiments.confirm import confirmation_so_far
    from samtune.experiments.verdict import verdict_of

    verdict = verdict_of(study, confirmation_so_far(study))
    return verdict.lines() if verdict else []


def _confirmed(confirmation: Confirmation | None) -> dict[str, Any] | None:
    """The table of a confirmation, as far as it has come; None where there is none."""
    if confirmation is None:
        return None
    header, rows = table(confirmation)
    lines = [f"{confirmation.missing}."] if confirmation.num_missing else []
    return {"caption": CAPTION, "header": header, "rows": rows, "lines": lines}


def _subject(study: Study) -> str:
    """What was trained, as the plan has it, and when."""
    plan = study.plan
    parts = [str(plan[key]) for key in ("data", "model", "method") if key in plan]
    for key, unit in (("epochs", "epochs"), ("batch_size", "examples a batch")):
        if key in plan:
            low, high = (format_number(end) for end in plan[key])
            parts.append(f"{low if low == high else f'{low} to {high}'} {unit}")
    return " · ".join([*parts, time.strftime("%Y-%m-%d %H:%M", time.localtime(study.started_at))])


def _facts(study: Study, confirmation: Confirmation | None) -> list[tuple[str, str]]:
    """The head of the page: name and value."""
    best, passes = study.best, sum(trial.metrics.get("num_passes", 0.0) for trial in study)
    facts = [(f"best {study.objective}", format_metric(study.objective.value(best)))] if best else []
    if confirmation and confirmation.best:
        facts = [(f"{confirmation.metric}, best mean", format_estimate(confirmation.best.estimate))]
    facts += [
        (
            "replicas" if confirmation else "trials",
            f"{study.count(TrialState.COMPLETED)} of {study.num_trials} completed",
        ),
        ("wall time", format_seconds(study.seconds)),
        ("passes over the data", format_number(passes)),
    ]
    if (busy := study.usage.get("busy_fraction")) is not None:
        facts.append(("workers busy", f"{busy:.0%}"))
    return facts


def _leaderboard(study: Study) -> dict[str, Any]:
    """Header and rows as text, the best first; failed trials last."""
    trials = sorted(study.ranked(), key=lambda trial: trial.state is TrialState.FAILED)[:LEADERBOARD]
    names = short_names(searched_keys(trials))
    others = [objective.metric for objective in study.objectives[1:]]
    header = ["trial", study.objective.metric, *others, *names.values(), "passes", "time", "state"]
    return {"header": header, "rows": [_row(study, trial, list(names)) for trial in trials], "of": len(study.trials)}


def _replicas(confirmation: Confirmation) -> dict[str, Any]:
    """Header and rows as text: every replica, by candidate, the best first."""
    study = confirmation.study
    order = {row.label: index for index, row in enumerate(confirmation.rows)}
    trials = sorted(study, key=lambda t: (order.get(str(t.config[CANDIDATE]), len(order)), t.config[REPLICA] or 0))
    header = ["trial", study.objective.metric, "replica", "seed", "candidate", "passes", "time", "state"]
    rows = []
    for trial in trials[: 2 * LEADERBOARD]:
        number, value, *rest = _row(study, trial, [])
        seed = format_value(trial.params.get("seed"))
        rows.append(
            [number, value, format_value(trial.config[REPLICA]), seed, str(trial.config[CANDIDATE]), *rest[-3:]]
        )
    return {"header": header, "rows": rows, "of": len(trials)}


def _row(study: Study, trial: Trial, keys: list[str]) -> list[str]:
    passes = trial.metrics.get("num_passes")
    return [
        str(trial.number),
        *(format_metric(objective.value(trial)) for objective in study.objectives),
        *(format_value(trial.config[key]) if key in trial.config else "-" for key in keys),
        "-" if passes is None else format_number(passes),
        format_seconds(trial.seconds),
        str(trial.state),
    ]


def _commands(study: Study) -> list[tuple[str, str]]:
    """What to run: (what it does, the command)."""
    if study.kind != "search":
        return [(what, shown_command(command)) for command, what in confirmation_commands(study)]
    again = ("the same search again, from the YAML below", "samtune search --space space.yaml")
    return [again, *((what, command) for command, what in next_commands(study))]
