"""`python -m samtune.gpucheck [--quick] [--data DIR] [--json FILE]`: a table, a JSON; exit code 1 if a check fails."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from samtune.errors import UsageError
from samtune.gpucheck.card import NO_GPU, PRECISIONS, Card, describe, measured_peak
from samtune.gpucheck.correctness import check_methods, format_outcomes
from samtune.gpucheck.networks import FULL, SMALL
from samtune.gpucheck.peers import installed_peers
from samtune.gpucheck.steps import Setting
from samtune.gpucheck.timing import HEAD, Budget, Timed, peaks, time_compiled, time_graphs, time_setting
from samtune.gpucheck.training import train


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the check; the exit code says whether all methods keep their promises."""
    options = _parse(arguments)
    device = torch.device(options.device)
    card = describe(device)
    try:
        if options.json is not None:
            _try_to_write(options.json)
        report = _run(options, device, card)
    except UsageError as error:
        print(f"samtune.gpucheck: error: {error}", file=sys.stderr)
        return 2
    text = json.dumps(report, indent=2)
    if options.json is None:
        print(f"\n{text}")
    else:
        options.json.write_text(text + "\n", encoding="utf-8")
        print(f"\n{options.json}")
    return 0 if report["passed"] else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m samtune.gpucheck", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer settings and rounds")
    parser.add_argument("--data", type=Path, metavar="DIR", help="CIFAR-10's binary version, for a short real training")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON there; default: after the table")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no new setting is begun (default 8)")
    parser.add_argument("--peer", action="append", default=[], help="module:Class of another SAM; may be repeated")
    return parser.parse_args(arguments)


def _try_to_write(path: Path) -> None:
    """Before minutes of work whose result would be lost."""
    try:
        path.touch()
    except OSError as error:
        raise UsageError(f"--json {path}: cannot be written: {error.strerror}") from error


def _run(options: argparse.Namespace, device: torch.device, card: Card) -> dict[str, Any]:
    budget = Budget(options.minutes)
    _show(card.lines())
    outcomes = check_methods(device)
    _show(["", "Methods", *format_outcomes(outcomes)])
    training = None
    if options.data is not None:
        training = train(options.data, device, precision="bf16" if card.is_gpu else "fp32", quick=options.quick)
        _show(["", "Training", training.line()])
    size = 8192 if card.is_gpu else 512
    measured = {precision: measured_peak(device, precision, size) for precision in _precisions(card)}
    _show(["", "100%", *peaks(card, measured)])
    timed = _time(options, device, card, measured, budget)
    if budget.left_out:
        _show(["", f"left out after {options.minutes:g} minutes: {'; '.join(budget.left_out)}"])
    return {
        "card": card.as_dict(),
        "note": None if card.is_gpu else NO_GPU,
        "quick": options.quick,
        "passed": all(outcome.holds is not False for outcome in outcomes),
        "methods": [vars(outcome) for outcome in outcomes],
        "training": None if training is None else training.as_dict(),
        "matrix_product_tflops": measured,
        "steps": [each.as_dict() for each in timed],
        "left_out": budget.left_out,
    }


def _precisions(card: Card) -> list[str]:
    """On a CPU TF32 does not exist, and bf16 is often slower than fp32: it is there to show that it runs."""
    if not card.is_gpu:
        return ["bf16", "fp32"]
    return [precision for precision in PRECISIONS if precision != "bf16" or card.has_bf16]


def _time(
    options: argparse.Namespace, device: torch.device, card: Card, measured: dict[str, float], budget: Budget
) -> list[Timed]:
    networks = FULL if card.is_gpu else SMALL
    sizes = (128, 256) if card.is_gpu else (16,)
    rounds = 3 if options.quick or not card.is_gpu else 10
    peers = installed_peers() + options.peer
    settings = [
        Setting(network, size, precision, device) for size in sizes for precision in measured for network in networks
    ]
    if options.quick:
        settings = [each for each in settings if each.batch_size == sizes[0] and each.precision == next(iter(measured))]
    found: list[Timed] = []
    _show(["", "Steps", HEAD])
    for setting in settings:
        if budget.has_room_for(setting.name):
            found += _shown(setting, time_setting(setting, peers, rounds, measured[setting.precision]))
    # Compiling takes most of a minute, and a graph that cannot be recorded may leave the card unusable: both last.
    firsts = settings[: len(networks)]
    for setting in [] if options.quick and not card.is_gpu else firsts:
        if budget.has_room_for(f"{setting.name}, compiled"):
            found += _shown(setting, time_compiled(setting, rounds))
    for setting in firsts:
        if budget.has_room_for(f"{setting.name}, graph"):
            found += _shown(setting, time_graphs(setting, rounds))
    return found


def _shown(setting: Setting, timed: list[Timed]) -> list[Timed]:
    _show([setting.name, *(f"  {each.row}" for each in timed)])
    return timed


def _show(lines: list[str]) -> None:
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    sys.exit(main())
