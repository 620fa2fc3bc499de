"""Tables for notebooks: what `_repr_html_` of the public classes returns."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

_OBEYED = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # would turn the direction of writing
_STYLE = "text-align:left;padding:2px 12px 2px 0"


def html_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]], below: Iterable[str] = ()) -> str:
    """A table with a title, in HTML that needs no style sheet, script or network.

    Args:
        title, below: lines before and after it.
        header: of the columns; empty: there is none.
    """
    head = "".join(f'<th style="{_STYLE}">{_escaped(cell)}</th>' for cell in header)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_STYLE}">{_escaped(cell)}</td>' for cell in row) + "</tr>" for row in rows
    )
    table = f"<table>{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"
    lines = "".join(f"<div>{_escaped(line)}</div>" for line in below)
    return f"<div><strong>{_escaped(title)}</strong></div>{table}{lines}"


def _escaped(text: str) -> str:
    return html.escape(_OBEYED.sub("�", str(text)))
