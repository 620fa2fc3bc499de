"""Credentials in tracking URIs: kept in this process's memory, and neither shown nor written.

Everything but the door to MLflow (`samtune.tracking.store`) sees URIs with `***` in the place of their secrets. A study
that is resumed takes them from the environment: `MLFLOW_TRACKING_URI`, and for servers `MLFLOW_TRACKING_USERNAME`,
`MLFLOW_TRACKING_PASSWORD` and `MLFLOW_TRACKING_TOKEN`, which MLflow reads itself. What is not there can be asked for
(`missing_secret`, `add_secret`).
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from samtune.errors import TrackingError

HIDDEN = "***"

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>`]*")
_ARGUMENT = re.compile(r"(?s)(--?[A-Za-z][\w-]*=|[A-Za-z_]\w*=)?([A-Za-z][A-Za-z0-9+.-]*://.*)")
_SECRET_NAME = re.compile(r"(?i)pass|pwd|secret|token|key|credential|auth|signature|\bsig\b")
_MIN_SECRET = 4
"""Characters; what is shorter would be found everywhere in a text."""

_TOKEN, _USERNAME, _PASSWORD = "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"

_remembered: dict[str, str] = {}
_secrets: set[str] = set()


@dataclass(frozen=True)
class _Parts:
    """A URI: `scheme://user:password@rest`, with the values of its query that are secret."""

    scheme: str
    user: str | None
    password: str | None
    rest: str

    @classmethod
    def of(cls, uri: str) -> _Parts | None:
        """None where it is no URI.

        The user and the password reach to the last @, as SQLAlchemy reads them: a password may hold every character.
        The user has no slash, so that an @ in a path without a user is none.
        """
        scheme, mark, rest = uri.partition("://")
        if not mark or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
            return None
        before, at, after = rest.rpartition("@")
        user, colon, password = before.partition(":")
        if not at or re.search(r"[/?#]", user):
            return cls(scheme, None, None, rest)
        return cls(scheme, user, password if colon else None, after)

    def secrets(self) -> list[str]:
        found = [self.password] if self.password is not None else [self.user] if self.user else []
        return [each for each in [*found, *(value for name, value in self._query() if _is_secret(name))] if each]

    def hidden(self) -> str:
        base, mark, query = self.rest.partition("?")
        shown = "&".join(_hidden_pair(pair) for pair in query.split("&"))
        # A user without a password is a token.
        user = "" if self.user is None else f"{HIDDEN}@" if self.password is None else f"{self.user}:{HIDDEN}@"
        return f"{self.scheme}://{user}{base}{mark}{shown}"

    def without_user(self) -> str:
        return f"{self.scheme}://{self.rest}"

    def with_secret(self, secret: str) -> str:
        """With this password, or token where there is no user."""
        quoted = quote(secret, safe="")
        return f"{self.scheme}://{f'{self.user}:' if self.password is not None else ''}{quoted}@{self.rest}"

    @property
    def is_of_server(self) -> bool:
        """Whether it is of an MLflow server, whose credentials MLflow also takes from the environment."""
        return self.scheme in ("http", "https") and HIDDEN not in self.without_user()

    def _query(self) -> Iterable[tuple[str, str]]:
        for pair in self.rest.partition("?")[2].partition("#")[0].split("&"):
            name, _, value = pair.partition("=")
            yield name, value


def redact(uri: str) -> str:
    """The URI without its secrets: a password, a token in the place of the user, and those in its query."""
    parts = _Parts.of(uri)
    return uri if parts is None else parts.hidden()


def redact_text(text: str) -> str:
    """A message without the secrets of the URIs in it, and without those that this process knows."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _URI.sub(lambda found: redact(found[0]), text)


def redact_command(arguments: Iterable[str]) -> str:
    """A command line to be pasted into a shell, without the secrets of the URIs in it."""
    return shlex.join(_redact_argument(argument) for argument in arguments)


def shown_command(command: str) -> str:
    """A stored command line, which may be somebody else's, as words that a shell takes as they are."""
    try:
        return redact_command(shlex.split(command))
    except ValueError:  # quotes that do not close
        return shlex.quote(redact_text(command))


def hide_credentials(uri: str) -> str:
    """Remembers the secrets of a URI in this process, and returns it without them."""
    parts = _Parts.of(uri)
    if parts is None or not parts.secrets() or parts.hidden() == uri:
        return uri
    for secret in parts.secrets():
        forms = {secret, unquote(secret), unquote_plus(secret), quote(secret, safe=""), quote_plus(secret)}
        _secrets.update(form for form in forms if len(form) >= _MIN_SECRET and form != HIDDEN)
    _remembered[parts.hidden()] = uri
    return parts.hidden()


def with_credentials(uri: str) -> str:
    """The URI to connect to: with the secrets that `hide_credentials` took out of it.

    Raises:
        TrackingError: they are neither remembered nor in the environment.
    """
    if HIDDEN not in uri:
        return uri
    configured = os.environ.get("MLFLOW_TRACKING_URI", "")
    if configured and hide_credentials(configured) == uri:
        return configured
    if uri in _remembered:
        return _remembered[uri]
    parts = _Parts.of(uri)
    if parts is not None and parts.is_of_server:
        password = os.environ.get(_PASSWORD)
        if parts.password is not None and password and not os.environ.get(_USERNAME):
            return parts.with_secret(password)
        return parts.without_user()
    raise TrackingError(
        f"--tracking-uri {uri}: its password is not kept with a study: set MLFLOW_TRACKING_URI to the whole address"
    )


def missing_secret(uri: str) -> str | None:
    """What a URI lacks to be connected to, as it is asked for: `password of me at https://host`.

    Returns:
        None where it lacks nothing, or has it from this process or the environment, or lacks more than one secret.
    """
    parts = _Parts.of(uri)
    if HIDDEN not in uri or uri in _remembered or parts is None or HIDDEN in parts.without_user():
        return None
    configured = os.environ.get("MLFLOW_TRACKING_URI", "")
    if (configured and hide_credentials(configured) == uri) or (parts.is_of_server and secret_variables()):
        return None
    where = redact(parts.without_user())
    return f"token for {where}" if parts.password is None else f"password of {parts.user} at {where}"


def secret_variables() -> str:
    """The environment variables that have the credentials of servers, as text; empty where there are none."""
    if os.environ.get(_TOKEN):
        return _TOKEN
    return " and ".join(name for name in (_USERNAME, _PASSWORD) if os.environ.get(name)) * bool(
        os.environ.get(_PASSWORD)
    )


def add_secret(uri: str, secret: str) -> None:
    """Remembers in this process what `missing_secret` asked for."""
    parts = _Parts.of(uri)
    assert parts is not None
    hide_credentials(parts.with_secret(secret))


def _redact_argument(argument: str) -> str:
    found = _ARGUMENT.fullmatch(argument)
    return redact_text(argument) if found is None else (found[1] or "") + redact(found[2])


def _hidden_pair(pair: str) -> str:
    name, equals, value = pair.partition("=")
    return f"{name}={HIDDEN}" if equals and value and _is_secret(name) else pair


def _is_secret(name: str) -> bool:
    return bool(_SECRET_NAME.search(unquote_plus(name)))
