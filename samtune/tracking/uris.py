"""Where MLflow keeps the runs: tracking URIs made absolute, checked, and shown to people. Does not import mlflow."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path
from urllib.parse import quote, unquote, urlencode, urlsplit, urlunsplit

from samtune.errors import TrackingError
from samtune.study import Study
from samtune.tracking.mlflow_names import PARENT_RUN_ID

UI_PORT = 5000

_DATABASES = ("postgresql", "mysql", "mssql")
_SERVERS = ("http", "https")
_DATABRICKS = ("databricks", "databricks-uc", "uc")
_SQLITE_SUFFIXES = (".db", ".sqlite", ".sqlite3")
_EXPECTED = "use sqlite:////absolute/path/mlflow.db, a database URI, or the http(s) address of an MLflow server"


def default_tracking_uri(storage_path: str | Path) -> str:
    """The sqlite store `mlflow.db` in a storage folder.

    Raises:
        TrackingError: the storage path is not on this machine's file system; sqlite needs one.
    """
    if "://" in str(storage_path):
        raise TrackingError(
            "a remote folder cannot hold the MLflow store; give `tracking_uri`",
            argument="storage_path",
            value=storage_path,
        )
    return sqlite_uri(Path(storage_path) / "mlflow.db")


def sqlite_uri(path: Path) -> str:
    """`sqlite:////absolute/path`, with the three characters escaped that mean something else in a URI."""
    absolute = path.expanduser().absolute().as_posix()
    return "sqlite:///" + quote(absolute, safe="".join(c for c in map(chr, range(33, 127)) if c not in "%?#") + " ")


def sqlite_path(uri: str) -> Path | None:
    """The file of a sqlite URI; None for every other URI."""
    if _scheme(uri) != "sqlite":
        return None
    return Path(unquote(uri.partition("///")[2].partition("?")[0]))


def resolve_tracking_uri(uri: str) -> str:
    """A tracking URI as the user gave it, made absolute.

    Args:
        uri: relative sqlite URIs and plain paths of a database file count from the working directory.

    Raises:
        TrackingError: MLflow cannot keep runs there.
    """
    uri = uri.strip()
    scheme = _scheme(uri)
    if scheme is None:
        return _resolve_path(uri)
    if scheme == "file":
        path = Path(unquote(urlsplit(uri).path) or "mlruns")
        raise store_error(uri, f"MLflow no longer keeps runs in plain folders; use {sqlite_uri(path / 'mlflow.db')}")
    if scheme == "sqlite":
        slashes, _, query = uri.partition("?")
        path_text = unquote(slashes.partition("///")[2])
        if not path_text or path_text == ":memory:":
            raise store_error(uri, f"must name a file, e.g. {sqlite_uri(Path('mlflow.db'))}")
        return sqlite_uri(Path(path_text)) + (f"?{query}" if query else "")
    if scheme in _SERVERS and not _host(uri):
        raise store_error(uri, "must have a host, e.g. http://127.0.0.1:5000")
    if scheme.partition("+")[0] in (*_DATABASES, *_SERVERS, *_DATABRICKS):
        return uri.rstrip("/") if scheme in _SERVERS else uri
    raise store_error(uri, f"MLflow cannot keep runs at {scheme}: {_EXPECTED}")


def _resolve_path(text: str) -> str:
    if text in _DATABRICKS:
        return text
    path = Path(text)
    if path.suffix in _SQLITE_SUFFIXES and not path.is_dir():
        return sqlite_uri(path)
    if not text or path.is_dir() or path.name == "mlruns":
        raise store_error(
            text or repr(text), f"MLflow no longer keeps runs in plain folders; use {sqlite_uri(path / 'mlflow.db')}"
        )
    raise store_error(text, f"is neither a URI nor a .db file; {_EXPECTED}")


def _scheme(uri: str) -> str | None:
    scheme, colon, _ = uri.partition(":")
    named = colon and len(scheme) > 1 and scheme[0].isalpha() and all(c.isalnum() or c in "+-." for c in scheme)
    return scheme.lower() if named else None


def _host(uri: str) -> str | None:
    try:
        parts = urlsplit(uri)
        _ = parts.port  # a port that is no number raises
    except ValueError:
        return None
    return parts.hostname


def is_server(uri: str) -> bool:
    """Whether the URI is the address of an MLflow server."""
    return _scheme(uri) in _SERVERS


def database_address(uri: str) -> tuple[str, int] | None:
    """Host and port of a database URI; None for every other URI, and where the URI leaves them to the driver."""
    scheme = (_scheme(uri) or "").partition("+")[0]
    if scheme not in _DATABASES or not (host := _host(uri)):
        return None
    return host, urlsplit(uri).port or {"postgresql": 5432, "mysql": 3306, "mssql": 1433}[scheme]


def redact_text(text: str) -> str:
    """A command line or a message, without the passwords of the URIs in it."""
    return re.sub(r"(://[^/\s:@'\"]*):[^@\s'\"]*@", r"\1:***@", text)


def redact(uri: str) -> str:
    """The URI for messages: without its password."""
    if "@" not in uri or "://" not in uri:
        return uri
    scheme, rest = uri.split("://", 1)
    credentials, host = rest.rsplit("@", 1)
    user, colon, _ = credentials.partition(":")
    return f"{scheme}://{user}{':***' if colon else ''}@{host}"


def store_error(uri: str, problem: str) -> TrackingError:
    """What is wrong with an MLflow store, or with its URI."""
    return TrackingError(problem, argument="tracking_uri", value=redact(uri))


def ui_command(study: Study) -> str:
    """The command that starts MLflow's UI on a study's store; for a server, which has one, the page to open."""
    if is_server(study.tracking_uri):
        return ui_page(study)
    uri = shlex.quote(redact(study.tracking_uri))
    return f"{_mlflow_executable()} ui --backend-store-uri {uri} --port {UI_PORT}"


def ui_page(study: Study, base: str = f"http://127.0.0.1:{UI_PORT}/") -> str:
    """The address of the page that lists a study's trials, the best first.

    Args:
        base: where `samtune ui` serves the study's store; a tracking server has its own address.
    """
    if is_server(study.tracking_uri):
        parts = urlsplit(study.tracking_uri)
        base = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], f"{parts.path}/", "", ""))
    if study.experiment_id is None:
        return base
    query = {"workflowType": "machine_learning"}  # else MLflow's UI looks for traces of language models
    if study.parent_run_id:
        query |= {
            "searchFilter": f"tags.`{PARENT_RUN_ID}`='{study.parent_run_id}'",
            "orderByKey": f"metrics.`{study.objective.metric}`",
            "orderByAsc": str(study.objective.mode == "min").lower(),
        }
    return f"{base}#/experiments/{study.experiment_id}/runs?{urlencode(query, quote_via=quote)}"


def _mlflow_executable() -> str:
    """`mlflow` where the shell finds the one of this Python, else its full path."""
    own = Path(sys.executable).parent / "mlflow"
    found = shutil.which("mlflow")
    if not own.is_file() or (found and Path(found).parent == own.parent):
        return "mlflow"
    return shlex.quote(str(own))
