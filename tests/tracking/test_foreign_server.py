"""No token goes to a server that only a study names."""

from __future__ import annotations

import base64
import os
import pty
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from helpers.command import CLEAN, SAMTUNE
from helpers.studies import edit_journal, make_study
from typer.testing import CliRunner

from samtune.cli.app import app
from samtune.experiments.trust import UntrustedError, check_trust
from samtune.store.study_folder import StudyFolder
from samtune.tracking import is_configured

TOKEN = "token-of-this-environment"


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What a stranger's server hears; a study in `tmp_path` names it."""
    found: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.append(str(self.headers))
            self.send_response(500)
            self.end_headers()

        do_POST = do_PUT = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    study = make_study(tmp_path)
    named = {"tracking_uri": f"http://127.0.0.1:{server.server_port}", "parent_run_id": "f" * 32}
    edit_journal(tmp_path / study.name, lambda line: line["event"] == "study" and line.update(named))
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield found
    server.shutdown()
    server.server_close()


def test_a_report_goes_to_a_file_alone(heard: list[str], tmp_path: Path) -> None:
    arguments = ["report", "digits-1", "--storage-path", str(tmp_path), "-o", str(tmp_path / "page.html")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "page.html").stat().st_size > 10_000
    assert "which is not configured here (--log does)" in done.output
    assert heard == []


def test_a_word_from_the_user_sends_it(heard: list[str], tmp_path: Path) -> None:
    arguments = ["report", "digits-1", "--storage-path", str(tmp_path), "-o", str(tmp_path / "page.html"), "--log"]
    CliRunner().invoke(app, arguments)
    assert any(TOKEN in each for each in heard)


def test_a_stranger_s_study_is_not_resumed_on_its_server(heard: list[str], tmp_path: Path) -> None:
    study = StudyFolder(str(tmp_path), "digits-1").read()
    assert not study.is_own
    with pytest.raises(UntrustedError, match=r"it logs to http://127\.0\.0\.1:\d+, with the credentials of this"):
        check_trust(study, {}, trust=False)
    assert heard == []


def test_a_password_that_no_study_keeps_is_asked_for(heard: list[str], tmp_path: Path) -> None:
    def hide(line: dict[str, Any]) -> None:
        if line["event"] == "study":
            line["tracking_uri"] = line["tracking_uri"].replace("http://", "http://me:***@")

    edit_journal(tmp_path / "digits-1", hide)
    arguments = ["report", "digits-1", "--storage-path", str(tmp_path), "-o", str(tmp_path / "page.html"), "--log"]
    process, terminal = pty.fork()
    if process == 0:
        os.execvpe(SAMTUNE[0], [*SAMTUNE, *arguments], CLEAN | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"})
    shown = b""
    while b"password of me at http://127.0.0.1" not in shown:
        shown += os.read(terminal, 1000)
    os.write(terminal, b"p@ss:word\n")
    with suppress(OSError):  # the end of it
        while more := os.read(terminal, 1000):
            shown += more
    os.waitpid(process, 0)
    os.close(terminal)
    assert f"Basic {base64.b64encode(b'me:p@ss:word').decode()}" in heard[0]
    assert b"p@ss" not in shown


def test_which_stores_are_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_configured(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path))
    assert not is_configured(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "other"))
    assert not is_configured(f"sqlite:///{tmp_path}/a/../../mlflow.db", str(tmp_path))
    assert not is_configured("https://host/x", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:s3cret@host/x/")
    assert is_configured("https://me:***@host/x", str(tmp_path))
    assert not is_configured("https://elsewhere/x", str(tmp_path))
