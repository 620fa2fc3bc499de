"""The command line, one module per command: parse, call one function, print.

Knows what the other packages export; must not import torch, Ray or MLflow before a command needs them.
"""

from samtune.cli.app import main

__all__ = ["main"]
