"""`samtune models`, `data`, `methods`, `samplers`: what a space can name, and what keys each has."""

from __future__ import annotations

import json
import shutil
import textwrap
from typing import Annotated

import typer

from samtune.cli.options import Debug, Json

Name = Annotated[str | None, typer.Argument(help="The one whose keys to show. Default: lists them all.")]


def models(name: Name = None, json_: Json = False, debug: Debug = False) -> None:
    """List the networks, or show the keys, ranges and defaults of one.

    `timm:` and `transformers:`, with wildcards `'timm:vit*'`, list those of the library that is installed.
    """
    from samtune.config.library_model import library_of

    if name is not None and (library := library_of(name)) and name != f"{library}:architecture":
        from samtune.models.libraries import list_architectures

        found = list_architectures(name)
        if json_ or name not in found:
            print(json.dumps(found) if json_ else "\n".join(found))
            return
        name = f"{library}:architecture"
    _show("model", name, json_)


def data(name: Name = None, json_: Json = False, debug: Debug = False) -> None:
    """List the data sets, or show the keys, ranges and defaults of one."""
    _show("data", name, json_)


def methods(name: Name = None, json_: Json = False, debug: Debug = False) -> None:
    """List the training methods with their sources, or show the keys, ranges and defaults of one."""
    _show("method", name, json_)


def samplers(name: Name = None, json_: Json = False, debug: Debug = False) -> None:
    """List the samplers, or show the keys, ranges and defaults of one."""
    _show("sampler", name, json_)


def _show(section: str, name: str | None, as_json: bool) -> None:
    from samtune.config.described import part_of, parts_of

    if name is None:
        parts = parts_of(section)
        if as_json:
            print(json.dumps([part.to_dict() for part in parts]))
            return
        width = max(len(part.name) for part in parts)
        for part in parts:
            typer.echo(f"{part.name:<{width}}  {part.summary}")
        return
    part = part_of(section, name)
    if as_json:
        print(json.dumps(part.to_dict()))
        return
    columns = shutil.get_terminal_size().columns or 80
    typer.echo(f"{section}: {{name: {part.name}}}\n\n{part.text}\n")
    for key in part.keys:
        default = "required" if key.default == "required" else f"default {key.default}"
        typer.echo(f"{key.name}: {key.rule} ({default})")
        if key.text:
            typer.echo(textwrap.indent(textwrap.fill(key.text, max(columns - 4, 40)), "    "))
