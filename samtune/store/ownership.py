"""Whether a study is this user's own: begun by this user, on this machine.

A study that is resumed imports the functions that its space names. What this user began is signed with a key that
only this user can read, so that a study from elsewhere, or one whose space somebody else changed, is told apart.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from functools import cache
from pathlib import Path

_KEY_BYTES = 32


def key_file() -> Path:
    """Where the key is: in `$XDG_CONFIG_HOME`, or `~/.config`."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "samtune" / "study-key"


def sign(space_yaml: str, tracking_uri: str) -> str | None:
    """The signature of what a study imports and where it writes; None where this user has no place for a key."""
    key = _key(key_file(), create=True)
    return None if key is None else _digest(key, space_yaml, tracking_uri)


def is_signed(signature: object, space_yaml: str, tracking_uri: str) -> bool:
    """Whether this user signed it on this machine."""
    key = _key(key_file(), create=False)
    if key is None or not isinstance(signature, str):
        return False
    return hmac.compare_digest(signature.encode(), _digest(key, space_yaml, tracking_uri).encode())


def _digest(key: bytes, *parts: str) -> str:
    return hmac.new(key, json.dumps(parts).encode(), hashlib.sha256).hexdigest()


def _key(file: Path, *, create: bool) -> bytes | None:
    try:
        return _read_key(file)
    except FileNotFoundError:
        return _create_key(file) if create else None
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None


@cache
def _read_key(file: Path) -> bytes | None:
    """Raises OSError where it cannot be read."""
    info = file.stat()
    if info.st_uid != os.geteuid() or info.st_mode & 0o022:  # somebody else may have put it there
        return None
    key = file.read_bytes()
    return key if len(key) == _KEY_BYTES else None


def _create_key(file: Path) -> bytes | None:
    temporary = file.with_name(f".{file.name}-{secrets.token_hex(8)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as new:
            new.write(secrets.token_bytes(_KEY_BYTES))
        try:
            os.link(temporary, file)  # of two processes, the first one's stays
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
        return _read_key(file)
    except OSError:
        return None
