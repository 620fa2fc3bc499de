"""`samtune docs`."""

from __future__ import annotations

from typing import Annotated

import typer

from samtune.cli.options import Debug


def docs(
    topic: Annotated[str, typer.Argument(help="The topic to read. Default: lists them all.")] = "",
    debug: Debug = False,
) -> None:
    """Read the documentation in the terminal."""
    from samtune.docs import TOPICS, read_topic

    if not topic:
        width = max(map(len, TOPICS))
        for name, summary in TOPICS.items():
            typer.echo(f"{name:<{width}}  {summary}")
        return
    text = read_topic(topic)
    from samtune.terminal import make_console

    console = make_console()
    if not console.is_terminal:
        typer.echo(text, nl=False)
        return
    from rich.markdown import Markdown

    with console.pager(styles=True):
        console.print(Markdown(text))
