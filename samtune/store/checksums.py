"""A checksum at the end of every line of a journal: a flipped bit is found, not believed."""

from __future__ import annotations

import json
import zlib
from typing import Any

_KEY = b', "crc": "'
_LENGTH = len(_KEY) + 8 + len(b'"}')


class DamagedLineError(ValueError):
    """The line is not what was written."""


def to_line(entry: dict[str, Any]) -> str:
    """The entry as one line of JSON, whose last key is the checksum of the rest."""
    text = json.dumps(entry)
    return f'{text[:-1]}, "crc": "{zlib.crc32(text.encode()):08x}"}}'


def from_line(line: bytes) -> dict[str, Any]:
    """The entry of a line. Lines of samtune 0.1.0, which have no checksum, are read as they are.

    Raises:
        DamagedLineError: the checksum is another, or the line is no JSON object.
    """
    if line[-_LENGTH:].startswith(_KEY):
        written = line[-_LENGTH + len(_KEY) : -2]
        line = line[:-_LENGTH] + b"}"
        if b"%08x" % zlib.crc32(line) != written:
            raise DamagedLineError("the line does not match its checksum")
    try:
        entry = json.loads(line)
    except ValueError as error:  # UnicodeDecodeError included
        raise DamagedLineError(str(error)) from error
    if not isinstance(entry, dict):
        raise DamagedLineError("the line is no JSON object")
    return entry
