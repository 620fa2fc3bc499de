from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import threading

import pytest
from helpers.searches import Search
from rich.console import Console

import samtune.terminal.plain
from samtune.study import TrialState
from samtune.terminal import LiveDisplay, NotebookDisplay, PlainDisplay, make_console, make_display
from samtune.terminal.tally import Tally


def plain(search: Search, width: int = 80) -> tuple[PlainDisplay, io.StringIO]:
    output = io.StringIO()
    display = PlainDisplay(Console(file=output, width=width, markup=False, highlight=False))
    search.displays.append(display)
    display.on_study_start(search.study)
    return display, output


def frame(search: Search, display: LiveDisplay, width: int = 80, height: int = 24) -> list[str]:
    """What the live display would draw now, as lines of plain text."""
    console = Console(file=io.StringIO(), width=width, height=height, record=True, legacy_windows=False)
    display._console = console
    console.print(display._render())
    return console.export_text(styles=False).splitlines()


@pytest.fixture
def live(search: Search) -> LiveDisplay:
    """A live display with its clockwork stopped: tests draw single frames."""
    display = LiveDisplay(Console(file=io.StringIO(), force_terminal=True, width=80, height=24))
    display.on_study_start(search.study)
    assert display._live is not None
    display._live.stop()
    search.displays.append(display)
    return display


class TestNotebook:
    def page(self, search: Search) -> str:
        """What a notebook shows, without its tags and in lines."""
        tally = Tally(search.study)
        for trial in search.study:
            if trial.state is TrialState.RUNNING:
                tally.start(trial)
        return re.sub("<[^>]+>+", "\n", re.sub("</t[dh]><t[dh][^>]*>", " | ", NotebookDisplay().html(tally)))

    def test_trials_the_best_and_the_progress(self, search: Search) -> None:
        search.run(0.5, rho=0.2)
        search.run(0.9778)
        search.epoch(search.start(), 0.7)
        lines = [line for line in self.page(search).splitlines() if line]
        assert lines == [
            "digits-1: max val_accuracy",
            "trial | state | val_accuracy | rho | lr | epoch | time",
            "0 | completed | 0.5000 | 0.2 | 1.2e-03 | 1/10 | 0.0s",
            "1 (best) | completed | 0.9778 | 0.0512 | 1.2e-03 | 1/10 | 0.0s",
            lines[4],
            "best val_accuracy 0.9778 (trial 1: rho=0.0512 lr=1.2e-03)",
            "2 of 4 trials in 0:00",
        ]
        assert lines[4].startswith("2 | running | 0.7000 | 0.0512 | 1.2e-03 | 1/10 | ")

    def test_of_many_trials_those_that_run_and_the_best(self, search: Search) -> None:
        for number in range(30):
            search.run(0.5 + number / 100)
        search.start()
        rows = re.findall(r"^(\d+)(?: \(best\))? \|", self.page(search), re.MULTILINE)
        assert rows == [*map(str, range(11, 30)), "30"]
        assert "… and 11 other trials" in self.page(search)

    def test_what_a_trial_says_is_no_html(self, search: Search) -> None:
        display = NotebookDisplay()
        display.on_status(search.study, "warning: <script>alert(1)</script>")
        assert "&lt;script&gt;" in display.html(Tally(search.study))
        assert "<script" not in display.html(Tally(search.study))


class TestPlain:
    def test_one_line_per_ended_trial(self, search: Search) -> None:
        _, output = plain(search)
        search.run(0.5, rho=0.2)
        search.run(0.9778)
        search.run(0.3, TrialState.PRUNED)
        lines = output.getvalue().splitlines()
        assert len(lines) == 4  # the study, and one for each trial, however narrow the terminal
        assert re.fullmatch(
            r"\[0:0\d\] trial 1 completed  val_accuracy 0\.9778  rho=0\.0512 lr=1\.2e-03  0\.0s  "
            r"best so far  2/4, 0:0\d left",
            lines[2],
        )
        assert "trial 2 pruned" in lines[3]
        assert "best 0.9778 (trial 1)" in lines[3]

    def test_a_failure_shows_the_first_line_of_its_error(self, search: Search) -> None:
        _, output = plain(search)
        search.end(search.start(), TrialState.FAILED, "OutOfMemoryError: CUDA [GPU 0]\nmore")
        assert "trial 0 failed  OutOfMemoryError: CUDA [GPU 0]  val_accuracy -" in output.getvalue()
        assert "more" not in output.getvalue()

    def test_messages_are_lines(self, search: Search) -> None:
        display, output = plain(search)
        display.on_status(search.study, "waiting for 2 CPUs [bold]of 4[/bold]")
        assert output.getvalue().endswith("] waiting for 2 CPUs [bold]of 4[/bold]\n")

    def test_a_long_trial_says_now_and_then_how_it_is_doing(
        self, search: Search, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, output = plain(search)
        trial = search.start()
        search.epoch(trial, 0.5)
        assert "epoch" not in output.getvalue()
        monkeypatch.setattr(samtune.terminal.plain, "HEARTBEAT_SECONDS", 0.0)
        search.epoch(trial, 0.6)
        assert "trial 0 epoch 2/10  val_accuracy 0.6000" in output.getvalue()

    def test_no_control_codes_even_from_many_threads(self, search: Search) -> None:
        display, output = plain(search)
        threads = [
            threading.Thread(target=display.on_status, args=(search.study, f"message {number} " + "x" * 200))
            for number in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lines = output.getvalue().splitlines()[1:]
        assert sorted(int(line.split()[2]) for line in lines) == list(range(20))
        assert "\x1b" not in output.getvalue()


class TestLive:
    def test_before_the_first_trial_it_says_what_it_waits_for(self, search: Search, live: LiveDisplay) -> None:
        live.on_status(search.study, "starting 1 worker group of 2 workers")
        lines = frame(search, live)
        assert lines[0].startswith("digits-1  max val_accuracy")
        assert "0/4 trials" in lines[1]
        assert "starting 1 worker group of 2 workers" in lines[2]

    def test_trials_with_state_configuration_metric_best_and_progress(self, search: Search, live: LiveDisplay) -> None:
        search.run(0.9778)
        search.run(0.5, TrialState.PRUNED, rho=0.3)
        trial = search.start()
        for _ in range(5):
            search.epoch(trial, 0.8)
        text = "\n".join(frame(search, live))
        assert re.search(r"trial +state +val_accuracy +rho +lr +epoch +time", text)
        assert re.search(r"0 +completed +0\.9778 +0\.0512 +1\.2e-03 +1/10", text)
        assert re.search(r"1 +pruned +0\.5000 +0\.3 ", text)
        assert re.search(r"2 +running +0\.8000 +0\.0512 +1\.2e-03 +5/10", text)
        assert "best  0.9778  trial 0  rho=0.0512 lr=1.2e-03" in text
        assert re.search(r"2/4 trials  0:0\d  0:0\d left", text)

    @pytest.mark.parametrize("height", [10, 15, 24, 50])
    def test_it_never_outgrows_the_terminal(self, search: Search, live: LiveDisplay, height: int) -> None:
        search.study.num_trials = 100
        for number in range(60):
            search.run(number / 100)
        for _ in range(30):
            search.epoch(search.start(), 0.1)
        lines = frame(search, live, height=height)
        assert len(lines) < height
        assert any(re.search(r"and \d+ more", line) for line in lines)

    def test_with_little_room_it_shows_running_newest_and_best(self, search: Search, live: LiveDisplay) -> None:
        search.study.num_trials = 100
        search.run(0.99)
        for number in range(40):
            search.run(number / 100)
        search.epoch(search.start(), 0.1)
        shown = [int(match[1]) for line in frame(search, live) if (match := re.match(r" +(\d+) +[a-z]+ ", line))]
        assert shown[0] == 0  # the best
        assert shown[-1] == 41  # runs
        assert 40 in shown  # the newest
        assert 39 in shown  # among the best
        assert 5 not in shown

    @pytest.mark.parametrize("width", [40, 60, 80, 120])
    def test_many_searched_keys_do_not_break_lines(self, search: Search, live: LiveDisplay, width: int) -> None:
        more = {f"training.some_long_key_{index}": 0.1 * index for index in range(1, 8)}
        search.epoch(search.start(0.05, **more), 0.8)
        lines = frame(search, live, width=width)
        assert all(len(line) <= width for line in lines)
        assert sum(line.lstrip().startswith("0 ") for line in lines) == 1
        assert any("running" in line for line in lines)

    def test_warnings_stay_on_the_screen(self, search: Search) -> None:
        output = io.StringIO()
        console = Console(file=output, force_terminal=True, width=80, height=24)
        display = LiveDisplay(console)
        display.on_study_start(search.study)
        display.on_status(search.study, "warning: MLflow does not answer")
        display.on_study_end(search.study)
        assert "warning: MLflow does not answer" in output.getvalue()
        assert output.getvalue().endswith("\x1b[?25h") or "\x1b[?25h" in output.getvalue()  # the cursor is back

    def test_a_search_that_is_resumed_counts_what_was_done(self, search: Search) -> None:
        search.run(0.9)
        search.run(0.8)
        display = LiveDisplay(Console(file=io.StringIO(), force_terminal=True, width=80, height=24))
        display.on_study_start(search.study)
        display.on_study_end(search.study)
        text = "\n".join(frame(search, display))
        assert "2/4 trials" in text
        assert "left" not in text  # no pace yet
        assert "best  0.9000" in text


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from helpers.searches import Search
from samtune.terminal import make_console, make_display, print_summary
console = make_console(stderr="--stderr" in sys.argv)
search = Search(Path("/tmp/x"), 2)
display = make_display(console)
search.displays.append(display)
display.on_study_start(search.study)
display.on_status(search.study, "\\u00e9 \\u03b5\\u0302 \\u2026")
search.run(0.9)
search.run(0.95)
display.on_study_end(search.study)
print_summary(console, search.study)
"""


def run_script(*args: str, stdout: int = subprocess.PIPE, **environment: str) -> subprocess.CompletedProcess[bytes]:
    folder = os.path.dirname(os.path.dirname(__file__))
    variables = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "FORCE_COLOR")}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, folder, *args],
        env={**variables, **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        check=True,
        timeout=60,
    )


def test_in_a_pipe_it_is_plain_lines_without_colour() -> None:
    result = run_script(FORCE_COLOR="1")
    assert b"trial 1 completed" in result.stdout
    assert b"\x1b[?25l" not in result.stdout  # nothing is drawn in place
    assert b"\x1b" not in run_script().stdout
    assert result.stderr == b""


def test_with_json_all_of_it_goes_to_stderr() -> None:
    result = run_script("--stderr")
    assert result.stdout == b""
    assert b"trial 1 completed" in result.stderr


def test_an_ascii_only_stream_is_no_reason_to_fail() -> None:
    result = run_script(PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0")
    assert b"trial 1 completed" in result.stdout
    assert all(byte < 128 for byte in result.stdout)


@pytest.mark.parametrize("terminal", ["xterm-256color", "dumb"])
def test_on_a_real_terminal(terminal: str) -> None:
    master, slave = pty.openpty()
    output = bytearray()

    def read() -> None:
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # the other end is closed
                return
            output.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    run_script(TERM=terminal, stdout=slave)
    os.close(slave)
    reader.join(timeout=60)
    os.close(master)
    text = output.decode()
    assert "best val_accuracy 0.9500 (trial 1)" in text
    if terminal == "dumb":
        assert "\x1b" not in text
        assert "trial 1 completed" in text
    else:
        assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor was hidden, and is back


def test_the_display_suits_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(make_display(make_console()), PlainDisplay)
    assert isinstance(make_display(Console(file=io.StringIO(), force_terminal=True)), PlainDisplay)
