"""The one entry point of the benchmarks: `python -m samtune.benchmarks NAME [options]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

BENCHMARKS = {
    "search": "what a search costs on top of its training, against the pattern of Ray's guide",
    "start": "where the time goes from Return to the first trial: each process, its imports and CPU seconds",
    "plain": "a search against a plain script: Optuna and a hand-written SAM loop in two processes",
    "layouts": "trials per hour on two places: one group of two workers, two groups of one, and auto",
    "sam": "a SAM step against its physical limit and against other implementations",
    "input": "batches against torchvision's transforms in a DataLoader; memory of more workers",
    "samplers": "how long samplers take to propose, and how good what they find is",
    "sharpness": "Hessian-vector products and estimates of curvature against PyHessian's algorithm",
}
"""Modules of this package with a `main(arguments)`, and what each measures."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one benchmark with the options that follow its name."""
    width = max(map(len, BENCHMARKS))
    parser = argparse.ArgumentParser(
        prog="python -m samtune.benchmarks",
        description="Benchmarks of samtune. `NAME --help` shows the options of one.",
        epilog="\n".join(f"  {name:<{width}}  {what}" for name, what in BENCHMARKS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", choices=BENCHMARKS, help=f"one of {', '.join(BENCHMARKS)}")
    arguments = sys.argv[1:] if arguments is None else arguments
    given = parser.parse_args(arguments[:1])  # what follows the name is the benchmark's own
    import_module(f"samtune.benchmarks.{given.name}").main(arguments[1:])


if __name__ == "__main__":
    main()
