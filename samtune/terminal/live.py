"""A search on a terminal: a table that changes in place."""

from __future__ import annotations

import atexit
import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from samtune.formatting import counted, format_clock, format_config, format_metric
from samtune.study import Study, Trial
from samtune.terminal.tables import live_table
from samtune.terminal.tally import Tally, TallyDisplay

REFRESH_PER_SECOND = 4
MESSAGE_SECONDS = 15.0  # how long a message stays once trials run
_OTHER_LINES = 9  # title, header, rule, rows left out, best, progress, message, and room for the prompt


class LiveDisplay(TallyDisplay):
    """Trials, the best so far, progress and the latest message, redrawn a few times per second while it runs.

    Gone without a trace at the end: the summary is what stays. Callbacks may come from several threads.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._live: Live | None = None
        self._message = ""
        self._message_until = 0.0

    def on_study_start(self, study: Study) -> None:
        super().on_study_start(study)
        self._live = Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=REFRESH_PER_SECOND,
            transient=True,
            vertical_overflow="crop",
        )
        atexit.register(self._live.stop)  # whatever happens, the cursor comes back
        self._live.start()

    def on_status(self, study: Study, message: str) -> None:
        if self._live is None or message.startswith("warning"):
            self._console.print(Text(message, style="yellow" if message.startswith("warning") else ""))
        else:
            self._message, self._message_until = message, time.monotonic() + MESSAGE_SECONDS

    def on_study_end(self, study: Study) -> None:
        if self._live:
            self._live.stop()
            atexit.unregister(self._live.stop)
            self._live = None

    def _render(self) -> RenderableType:
        tally = self._tally
        if tally is None:
            return Text()
        study = tally.study
        parts: list[RenderableType] = [self._title(study)]
        shown, num_hidden = self._shown(tally)
        if shown:
            parts.append(live_table(self._console, study, shown, tally.best, tally.seconds_of))
        if num_hidden:
            parts.append(Text(f"{self._ellipsis} and {num_hidden} more", style="dim"))
        if best := tally.best:
            line = Text.assemble(
                ("best  ", "dim"),
                (format_metric(study.objective.value(best)), "bold green"),
                f"  trial {best.number}  {format_config(best.config)}",
            )
            parts.append(self._one_line(line))
        parts.append(self._progress(tally))
        if not shown or time.monotonic() < self._message_until:
            parts.append(self._one_line(Text(self._message, style="dim")))
        return Group(*parts)

    def _title(self, study: Study) -> Text:
        return self._one_line(Text.assemble((study.name, "bold"), (f"  {study.goal}", "dim")))

    def _shown(self, tally: Tally) -> tuple[list[Trial], int]:
        """The trials there is room for: those that run, the newest few that ended, and the best; by number."""
        running = sorted(tally.running.values(), key=lambda trial: trial.number)
        room = max(self._console.height - _OTHER_LINES, 3)
        chosen = {trial.id: trial for trial in running[-room:]}
        ended = list(tally.ended)
        newest = ended[-max((room - len(chosen)) // 3, 0) :] if room - len(chosen) >= 3 else []
        for trial in [*tally.ranked[:1], *reversed(newest), *tally.ranked[:room], *reversed(ended[-room:])]:
            if len(chosen) >= room:
                break
            chosen.setdefault(trial.id, trial)
        total = len(running) + len(ended)
        return sorted(chosen.values(), key=lambda trial: trial.number), total - len(chosen)

    def _progress(self, tally: Tally) -> Table:
        left = tally.seconds_left
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_row(
            ProgressBar(total=1.0, completed=tally.fraction, width=max(min(40, self._console.width // 3), 10)),
            f"{len(tally.ended)}/{counted(tally.study.num_trials, 'trial')}",
            Text(format_clock(tally.seconds), style="dim"),
            Text("" if left is None else f"{format_clock(left)} left"),
        )
        return row

    def _one_line(self, text: Text) -> Text:
        text.no_wrap, text.overflow = True, "crop" if self._console.options.ascii_only else "ellipsis"
        return text

    @property
    def _ellipsis(self) -> str:
        return "..." if self._console.options.ascii_only else "…"
