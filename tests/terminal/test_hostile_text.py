"""Names, values and errors of strangers are shown; they do nothing to a terminal, a page, a table or a shell."""

from __future__ import annotations

import io
import shlex
from pathlib import Path

import pytest
from helpers.studies import make_study
from rich.console import Group
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from samtune.cli.app import app
from samtune.experiments.results import Results
from samtune.formatting import markdown_cell, printable, spreadsheet_cell
from samtune.report import render
from samtune.study import Study, TrialState
from samtune.terminal import PlainDisplay, print_summary
from samtune.terminal.console import SafeConsole
from samtune.terminal.live import LiveDisplay
from samtune.tracking.content import description

CLIPBOARD, CLEAR = "\x1b]52;c;cm0gLXJmIH4=\x07", "\x1b[2J\x1b[H"
HOSTILE = f"{CLIPBOARD}{CLEAR}\u202e\x9b2Jx|`<script>alert(1)</script>[bold]; rm -rf ~"
EVIL_KEY = f"model.{CLEAR}key"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = make_study(tmp_path)
    for trial in study:
        trial.config[EVIL_KEY] = trial.params[EVIL_KEY] = HOSTILE
        if trial.state is TrialState.FAILED:
            trial.error = f"ValueError: {HOSTILE}"
    study.stopped_by = HOSTILE
    study.versions["torch"] = HOSTILE
    study.command = f"samtune search --space {HOSTILE}"
    return study


def assert_harmless(shown: str) -> None:
    for character in "\x07\u202e\x9b":
        assert character not in shown
    assert "\x1b]" not in shown
    assert "\x1b[2J" not in shown
    assert "\\x1b" in shown  # said, not done


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_shows_control_characters_as_escapes(study: Study, terminal: bool) -> None:
    out = io.StringIO()
    console = SafeConsole(file=out, force_terminal=terminal, markup=False, highlight=False, width=120, height=40)
    print_summary(console, study)
    display = PlainDisplay(console)
    display.on_study_start(study)
    for trial in study:
        display.on_trial_start(study, trial)
        display.on_trial_end(study, trial)
    display.on_status(study, HOSTILE)
    table = Table(HOSTILE)
    table.add_row(HOSTILE)
    console.print(Group(table, Text(HOSTILE)))
    assert_harmless(out.getvalue())
    assert "[bold]" in out.getvalue()  # markup is text


def test_the_live_display_moves_the_cursor_itself_alone(study: Study) -> None:
    out = io.StringIO()
    display = LiveDisplay(SafeConsole(file=out, force_terminal=True, markup=False, width=120, height=40))
    display.on_study_start(study)
    display.on_trial_start(study, study.trials[0])
    display.on_status(study, HOSTILE)
    display.on_study_end(study)
    assert_harmless(out.getvalue().replace("\x1b[?25", ""))
    assert "\x1b[" in out.getvalue()


def test_the_page_escapes_everything(study: Study) -> None:
    page = render(Results(study))
    assert_harmless(page.partition("<script>")[0])
    assert "<script>alert(1)" not in page


def test_the_description_s_table_keeps_its_columns(study: Study) -> None:
    text = description(study)
    assert_harmless(text)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    assert text.count("```") % 2 == 0
    assert "<script>" not in "".join(line for line in rows).replace("\\<", "")


def test_a_printed_command_is_words_to_a_shell(study: Study) -> None:
    text = description(study)
    command = text.partition("Command:\n\n```\n")[2].partition("\n```")[0]
    assert ";" not in shlex.split(command)[:3]
    assert "rm" in shlex.split(command)  # an argument of samtune's
    assert not any(word in (";", "|", "&&") for word in shlex.shlex(command, posix=True, punctuation_chars=True))


def test_a_spreadsheet_computes_nothing(tmp_path: Path) -> None:
    from samtune.store.journal import Journal

    study = make_study(tmp_path, num_trials=1, name="sheet")
    (tmp_path / "sheet" / "journal.jsonl").unlink()
    study.trials[0].error = '=HYPERLINK("http://x","y")'
    study.trials[0].config["model.name"] = study.trials[0].params["model.name"] = "+cmd|' /C calc'!A0"
    study.trials[0].state = TrialState.FAILED
    journal = Journal(tmp_path / "sheet")
    journal.on_study_start(study)
    journal.on_trial_start(study, study.trials[0])
    journal.on_epoch(study, study.trials[0], study.trials[0].history[-1])
    journal.on_trial_end(study, study.trials[0])
    journal.close()
    file = tmp_path / "out.csv"
    done = CliRunner().invoke(app, ["export", "sheet", str(file), "--storage-path", str(tmp_path)])
    assert done.exit_code == 0, done.output
    text = file.read_text()
    assert "\"'=HYPERLINK" in text
    assert "\"'+cmd" in text
    assert not any(cell.strip('"').startswith(("=", "+", "@")) for cell in text.replace("\n", ",").split(","))


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\tb\nc", "a\tb\nc"), ("\x1b[0m", "\\x1b[0m"), ("\r", "\\r"), ("ünï 😀", "ünï 😀"), ("\udcff", "\\udcff")],
)
def test_what_is_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_cells() -> None:
    assert markdown_cell("a|b\n<i>") == r"a\|b \<i>"
    assert [spreadsheet_cell(text) for text in ("=1", "@a", "-x", "0.5", "x=1")] == ["'=1", "'@a", "'-x", "0.5", "x=1"]
