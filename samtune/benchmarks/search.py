"""What a search costs on top of its training: `python -m samtune.benchmarks search`.

`documented` is the pattern of Ray's guide, a new trainer in every trial; `warm` the same trials with samtune; `noop` a
search whose trials take no time, so that only the driver's own work is left.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from samtune.benchmarks.documented import run_documented
from samtune.benchmarks.machine import print_machine
from samtune.benchmarks.noop import Mark, run_noop
from samtune.benchmarks.warm import run_warm
from samtune.config.space import SearchSpace

TRIVIAL = ["data.num_train=128", "model={name: mlp, width: 8, depth: 2}", "training.epochs=1"]


def compare(title: str, space: SearchSpace, num_trials: int, num_documented: int, folder: Path) -> None:
    """Both contestants on the same kind of trials, one after the other."""
    epochs = space.trial({}).num_epochs
    warm, usage = run_warm(space, num_trials, folder)
    documented = run_documented(space, num_documented, epochs, folder)
    how = "measured" if num_documented == num_trials else f"{num_documented} measured, the rest calculated"
    print(f"\n{title} ({space.resources.least_workers} workers, {epochs} epoch{'s' * (epochs > 1)})")
    print(f"  {'':34}{'samtune':>10}{'documented':>12}{'ratio':>9}")
    rows: list[tuple[str, float, float]] = [
        ("one more trial, s", warm.per_trial, documented.per_trial),
        (f"search of {num_trials} trials, s", warm.seconds, documented.wall(num_trials)),
        ("start to the first epoch's end, s", warm.to_first_epoch, documented.to_first_epoch),
    ]
    for name, ours, theirs in rows:
        print(f"  {name:34}{ours:10.3f}{theirs:12.3f}{f'1/{theirs / ours:.1f}':>9}")
    print(f"  documented: {how}. samtune: startup {usage['startup_seconds']:.1f} s, busy {usage['busy_fraction']:.0%}")


def driver_table(marks: Sequence[Mark], steps: Sequence[int]) -> str:
    """Wall and CPU time of the driver per trial around these numbers of trials, and its memory."""
    lines = [f"  {'trials':>8}{'wall/trial, ms':>17}{'cpu/trial, ms':>16}{'memory, MiB':>14}"]
    for step in steps:
        window = marks[max(1, step - max(10, step // 4)) : step]
        first, last = window[0], window[-1]
        count = last.num_trials - first.num_trials
        wall, cpu = (last.wall - first.wall) / count * 1000, (last.cpu - first.cpu) / count * 1000
        lines.append(f"  {step:8}{wall:17.1f}{cpu:16.1f}{last.memory:14.0f}")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m samtune.benchmarks search", description=__doc__)
    parser.add_argument("--trials", type=int, default=32, help="trials of samtune's searches (default 32)")
    parser.add_argument("--documented-trials", type=int, default=4, help="trials of the baseline's (default 4)")
    parser.add_argument("--noop-trials", type=int, default=3000, help="trials of the driver's table (default 3000)")
    parser.add_argument("--noop-groups", type=int, default=2, help="groups of the driver's table (default 2)")
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"], help="of the driver's table")
    parser.add_argument("--only", choices=["trivial", "digits", "driver"], help="one part")
    options = parser.parse_args(arguments)
    names = ("samtune", "ray", "torch", "optuna", "mlflow")
    print_machine(names)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for part, title, settings in (("trivial", "trivial trials", TRIVIAL), ("digits", "digits", [])):
            if options.only in (None, part):
                space = SearchSpace.from_yaml("digits.yaml", settings)
                compare(title, space, options.trials, options.documented_trials, folder)
        for sampler in options.samplers if options.only in (None, "driver") else ():
            space = SearchSpace.from_yaml(
                "digits.yaml", ["training.epochs=1", f"sampler={{name: {sampler}}}", "resources.cpus_per_worker=0.1"]
            )
            marks = run_noop(space, options.noop_trials, options.noop_groups, folder)
            steps = [step for step in (10, 100, 300, 1000, 3000, 10_000) if step <= len(marks)]
            print(f"\nthe driver, trials of no duration, sampler {sampler}, {options.noop_groups} groups")
            print(driver_table(marks, steps))
            sys.stdout.flush()
