"""The command line, one module per command: parse, call one function, print."""

from samtune.cli.app import main

__all__ = ["main"]
