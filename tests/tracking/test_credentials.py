"""Secrets of tracking URIs are shown nowhere, whatever they look like."""

from __future__ import annotations

import random
import shlex
import string
from pathlib import Path
from urllib.parse import quote

import pytest
from helpers.studies import edit_journal, make_study
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from samtune.errors import TrackingError
from samtune.store.study_folder import StudyFolder
from samtune.tracking import credentials
from samtune.tracking.content import study_tags
from samtune.tracking.credentials import (
    add_secret,
    hide_credentials,
    missing_secret,
    redact,
    redact_command,
    redact_text,
    secret_variables,
    shown_command,
    with_credentials,
)

ODD = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ \té"
SCHEMES = ("postgresql", "mysql+pymysql", "mssql+pyodbc", "http", "https")


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "_remembered", {})
    monkeypatch.setattr(credentials, "_secrets", set())
    for name in ("URI", "USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)


def generated(seed: int) -> tuple[str, str]:
    """A URI with a secret somewhere, quoted or not, and the secret as it stands there."""
    draw = random.Random(seed)
    secret = "S3" + "".join(draw.choices(string.ascii_letters + ODD, k=draw.randint(3, 20))) + "zZ"
    written = quote(secret, safe="") if draw.random() < 0.5 else secret
    scheme, host = draw.choice(SCHEMES), draw.choice(("host", "10.0.0.1:5432", "[::1]:5000", "a.example.org"))
    path = draw.choice(("", "/", "/mlflow", "/team/x.y"))
    match draw.choice(("password", "token", "query")):
        case "password":
            return f"{scheme}://{draw.choice(('me', ''))}:{written}@{host}{path}", written
        case "token":
            written = quote(secret, safe="")
            return f"{scheme}://{written}@{host}{path}", written
        case _:
            written = quote(secret, safe="")
            name = draw.choice(("password", "sslpassword", "access_token", "PWD", "api_key"))
            return f"{scheme}://{host}{path}?timeout=3&{name}={written}&x=1", written


@pytest.mark.parametrize("seed", range(300))
def test_no_secret_of_a_generated_uri_is_shown(seed: int) -> None:
    uri, secret = generated(seed)
    assert secret not in redact(uri)
    assert redact(redact(uri)) == redact(uri)
    for command in (["samtune", "search", "--tracking-uri", uri], ["samtune", f"--tracking-uri={uri}", "--json"]):
        shown = redact_command(command)
        assert secret not in "".join(shlex.split(shown))
        assert shown_command(shlex.join(command)) == shown
        assert len(shlex.split(shown)) == len(command)
    hidden = hide_credentials(uri)
    assert secret not in hidden
    assert with_credentials(hidden) == uri
    assert hide_credentials(hidden) == hidden
    assert secret not in redact_text(f"cannot connect to '{uri}': password {secret} refused")


@pytest.mark.parametrize("seed", range(100))
def test_what_sqlalchemy_takes_for_the_password_is_hidden(seed: int) -> None:
    uri, _ = generated(seed)
    try:
        password = make_url(uri).password
    except (ArgumentError, ValueError):
        return
    if password:
        assert password not in redact(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:5000",
        "https://host/team?timeout=3",
        "sqlite:////data/me@home/mlflow.db",
        "sqlite:///a b.db",
        "databricks",
        "postgresql://host/mlflow?sslmode=require",
        "file.db",
    ],
)
def test_a_uri_without_a_secret_stays(uri: str) -> None:
    assert redact(uri) == hide_credentials(uri) == with_credentials(uri) == redact_text(uri) == uri


def test_a_resumed_study_takes_them_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrackingError, match=r"postgresql://me:\*\*\*@db/x: .*set MLFLOW_TRACKING_URI"):
        with_credentials("postgresql://me:***@db/x")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:other@elsewhere/x")
    with pytest.raises(TrackingError):
        with_credentials("postgresql://me:***@db/x")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:s3cret@db/x")
    assert with_credentials("postgresql://me:***@db/x") == "postgresql://me:s3cret@db/x"
    # MLflow itself reads MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or the token.
    assert with_credentials("https://me:***@host/x") == "https://host/x"
    assert with_credentials("https://***@host/x") == "https://host/x"


def test_what_is_missing_is_asked_for_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    database, server, token = "postgresql://me:***@db/x", "https://me:***@host/x", "https://***@host/x"
    assert missing_secret(database) == "password of me at postgresql://db/x"
    assert missing_secret(server) == "password of me at https://host/x"
    assert missing_secret(token) == "token for https://host/x"
    assert missing_secret("https://host/x") is None
    assert missing_secret("https://host/x?token=***") is None  # not the place of a user
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "from:env")
    assert (missing_secret(server), secret_variables()) == (None, "MLFLOW_TRACKING_PASSWORD")
    assert with_credentials(server) == "https://me:from%3Aenv@host/x"
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "you")
    assert secret_variables() == "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    assert with_credentials(server) == "https://host/x"  # MLflow reads both itself
    assert missing_secret(database) is not None  # they are those of servers
    add_secret(database, "p@ss/word")
    assert missing_secret(database) is None
    assert with_credentials(database) == "postgresql://me:p%40ss%2Fword@db/x"
    add_secret(token, "abcd")
    assert with_credentials(token) == "https://abcd@host/x"
    assert redact_text("p@ss/word abcd") == "*** ***"


def test_a_study_with_a_password_shows_it_nowhere(tmp_path: Path) -> None:
    """A journal of before, which holds it."""
    study = make_study(tmp_path)
    uri = "postgresql://me:s3cret@db/x"
    held = {"tracking_uri": uri, "command": f"samtune search --tracking-uri '{uri}'; rm -rf ~"}
    edit_journal(tmp_path / study.name, lambda line: line["event"] == "study" and line.update(held))
    read = StudyFolder(str(tmp_path), study.name).read()
    assert read.tracking_uri == "postgresql://me:***@db/x"
    assert read.command == "samtune search --tracking-uri 'postgresql://me:***@db/x;' rm -rf '~'"
    assert "s3cret" not in str(read) + str(study_tags(read))
    assert with_credentials(read.tracking_uri) == uri
