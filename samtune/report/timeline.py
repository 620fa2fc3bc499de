"""When each worker group did what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from samtune.errors import RunError
from samtune.report.style import GREY, STATE_COLOURS
from samtune.study import Study, Trial, TrialState

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_BARS = 2000
"""More are put together: a screen has no room for them."""

GAP_SECONDS = 1.0
"""Between two epochs of a trial on the same group; after more, the group has done something else."""


@dataclass(frozen=True)
class Span:
    """A group's time with a trial, in seconds since 1970."""

    group: int
    trial: Trial
    start: float
    end: float
    num_trials: int = 1
    """From `trial` on; more than one where spans were put together."""

    @property
    def label(self) -> str:
        return str(self.trial.number) if self.num_trials == 1 else ""

    @property
    def description(self) -> str:
        if self.num_trials > 1:
            return f"{self.num_trials} trials from {self.trial.number} on"
        return f"trial {self.trial.number}, {len(self.trial.history)} epochs in all"


def spans(trial: Trial) -> list[Span]:
    """The stays of a trial on groups: one, or more where it was paused or its search was resumed."""
    found: list[Span] = []
    for record in trial.history.records:
        if record.group is None or record.ended_at is None:
            continue
        group, end = record.group, record.ended_at
        start = end - record.metrics.get("epoch_seconds", 0.0)
        last = found[-1] if found else None
        if last is not None and last.group == group and start - last.end < GAP_SECONDS:
            found[-1] = Span(group, trial, last.start, end)
        else:
            begun = trial.started_at if last is None and trial.started_at is not None else start
            found.append(Span(group, trial, min(begun, start), end))
    return found


def put_together(spans: list[Span], most: int = MOST_BARS) -> list[Span]:
    """At most about so many spans: each group's time is cut into equal parts, and what ends in one becomes one span.

    It has the state that took most of the time, and as much time as all of them.
    """
    if len(spans) <= most:
        return spans
    zero, end = min(span.start for span in spans), max(span.end for span in spans)
    width = (end - zero) / max(most // len({span.group for span in spans}), 1)
    parts: dict[tuple[int, int], list[Span]] = {}
    for span in sorted(spans, key=lambda span: span.start):
        parts.setdefault((span.group, int((span.end - zero) / width)), []).append(span)
    return [_one_span(own) for own in parts.values()]


def _one_span(spans: list[Span]) -> Span:
    seconds: dict[TrialState, float] = {}
    for span in spans:
        seconds[span.trial.state] = seconds.get(span.trial.state, 0.0) + span.end - span.start
    first = next(s for s in spans if s.trial.state is max(seconds, key=lambda state: seconds[state]))
    start = spans[0].start
    return Span(spans[0].group, first.trial, start, start + sum(seconds.values()), len(spans))


def timeline(study: Study) -> go.Figure:
    """Bars of start-up, and of each trial in the colour of its state.

    Raises:
        RunError: no epoch was finished yet.
    """
    import plotly.graph_objects as go

    busy = put_together([span for trial in study for span in spans(trial)])
    if not busy:
        raise RunError("no epoch was finished yet")
    zero = min(study.started_at, *(span.start for span in busy))
    figure = go.Figure()
    groups = sorted({span.group for span in busy})
    if ready := study.usage.get("startup_seconds"):
        first = {
            g: min((s.start for s in busy if s.group == g and s.start >= study.started_at), default=0) for g in groups
        }
        ends = {g: max(first[g], study.started_at + ready) if first[g] else study.started_at + ready for g in groups}
        figure.add_bar(
            y=[_label(group) for group in groups],
            base=[study.started_at - zero] * len(groups),
            x=[ends[group] - study.started_at for group in groups],
            orientation="h",
            name="start-up",
            marker={"color": "rgba(138,143,152,0.25)", "pattern": {"shape": "/", "fgcolor": GREY}},
            hovertemplate="start-up: %{x:.1f} s<extra></extra>",
        )
    for state, colour in STATE_COLOURS.items():
        own = [span for span in busy if str(span.trial.state) == state]
        if not own:
            continue
        figure.add_bar(
            y=[_label(span.group) for span in own],
            base=[span.start - zero for span in own],
            x=[span.end - span.start for span in own],
            orientation="h",
            name=state,
            marker={"color": colour, "line": {"width": 1, "color": "rgba(255,255,255,0.7)"}},
            text=[span.label for span in own],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            customdata=[span.description for span in own],
            hovertemplate="%{customdata}: %{x:.1f} s<extra></extra>",
        )
    figure.update_layout(barmode="overlay", height=150 + 36 * len(groups), bargap=0.25)
    figure.update_yaxes(autorange="reversed")
    return figure.update_xaxes(title="seconds since the start", rangemode="tozero")


def _label(group: int) -> str:
    return f"group {group}"
