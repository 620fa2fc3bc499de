"""The small version of the papers' claims, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from samtune.experiments.summary import format_outcome
from samtune.study import Study
from samtune.terminal.failures import print_failures

if TYPE_CHECKING:
    from samtune.experiments.small_claims import Claim

_STYLES = {"shows": "green", "contradicted": "red"}
_CAPTION = (
    "Mean and 95% interval (Student t) over the replicas; differences are paired by seed. A claim shows where the "
    "interval of its difference lies on the published side of 0, is contradicted where it lies on the other, and else "
    "does not show at this size. Where the published figures are the same, an interval that holds 0 only says that no "
    "difference was found."
)


def print_claims(console: Console, study: Study, claims: list[Claim]) -> None:
    """Each claim with its published and its measured figures, and whether the signs agree."""
    console.print()
    console.print(Text(format_outcome(study), style="bold"), soft_wrap=True)
    for each in claims:
        console.print()
        verdict = Text(each.verdict, style=_STYLES.get(each.verdict, "yellow"))
        console.print(Text.assemble((each.claim, "bold"), ": ", verdict), soft_wrap=True)
        console.print(f"  published, {each.place}: {each.published}", soft_wrap=True)
        console.print(f"  measured, {_measured(each)}", soft_wrap=True)
    console.print()
    console.print(Text(_CAPTION, style="dim"))
    print_failures(console, study)
    console.print(f"kept in {study.storage_path}", soft_wrap=True)


def _measured(claim: Claim) -> str:
    from samtune.experiments.small_claims import format_side

    sides, comparison = claim.sides, claim.comparison
    if sides is None or comparison is None:
        return f"{claim.metric}: {claim.candidate} or {claim.against} has no replica"
    pair = f"{claim.candidate} {format_side(sides[0])}, {claim.against} {format_side(sides[1])}"
    signs = {None: "", True: "; same sign", False: "; not the published sign"}[claim.sign_agrees]
    return f"{claim.metric}: {pair}: {format_side(comparison.difference, signed=True)}{signs}"
