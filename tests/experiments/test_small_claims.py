"""The small version of the papers' claims: what is trained, and how it is held against what is published."""

from __future__ import annotations

import pytest

from samtune.experiments.small_claims import Claim, claims_of, small_candidates
from samtune.study import CANDIDATE, REPLICA, EpochLog, Objective, Study, Trial, TrialState


def claim(expected: int, own: list[float], other: list[float]) -> Claim:
    return Claim("c", "table 4", "2 against 1", expected, "test accuracy, %", "a", "b", (own, other))


@pytest.mark.parametrize(
    ("expected", "own", "verdict", "agrees"),
    [
        # Against 1, 2, 3. Differences 3, 3.1, 2.9: 3 ± 4.303 x 0.1 / √3.
        (1, [4.0, 5.1, 5.9], "shows", True),
        (-1, [4.0, 5.1, 5.9], "contradicted", False),
        (0, [4.0, 5.1, 5.9], "contradicted", None),
        # Differences 3, -1, 1: 1 ± 4.303 x 2 / √3.
        (1, [4.0, 1.0, 4.0], "does not show", True),
        (-1, [4.0, 1.0, 4.0], "does not show", False),
        (0, [4.0, 1.0, 4.0], "no difference found", None),
    ],
)
def test_a_claim_shows_where_the_whole_interval_has_the_published_sign(
    expected: int, own: list[float], verdict: str, agrees: bool | None
) -> None:
    found = claim(expected, own, [1.0, 2.0, 3.0])
    assert (found.verdict, found.sign_agrees) == (verdict, agrees)


def test_without_an_interval_nothing_is_said() -> None:
    assert claim(1, [2.0], [1.0]).verdict == "not measured"
    assert claim(1, [], []).verdict == "not measured"
    assert claim(1, [], []).to_dict()["difference"] is None


def test_every_claim_compares_candidates_that_are_trained_and_figures_that_are_published() -> None:
    listed = small_candidates(3)
    assert listed.num_trials == 3 * len(listed.candidates)
    study = Study("s", (Objective("test_accuracy"),), 1, "", {}, "", "", "", "", {})
    claims = {each.claim: each for each in claims_of(study)}
    assert {side for each in claims.values() for side in (each.candidate, each.against)} == set(listed.candidates)
    noise = claims["with 40% wrong labels SAM is more accurate than SGD"]
    assert (noise.place, noise.published, noise.expected) == ("table 4", "93.4 against 68.8: +24.6", 1)
    assert [each.expected for each in claims.values()] == [1, 1, -1, 1, 1, 1, 1, 0, 1, -1, -1, -1]


def test_pairs_are_of_the_same_replica_and_in_percent() -> None:
    def trial(number: int, label: str, replica: int, accuracy: float) -> Trial:
        history = EpochLog([{"epoch": 1.0, "test_accuracy": accuracy}])
        return Trial(number, f"t{number}", {CANDIDATE: label, REPLICA: replica}, {}, 1, TrialState.COMPLETED, history)

    study = Study("s", (Objective("test_accuracy"),), 4, "", {}, "", "", "", "", {})
    study.trials += [trial(0, "SAM", 1, 0.75), trial(1, "SGD", 1, 0.5), trial(2, "SAM", 0, 0.25), trial(3, "SGD", 2, 1)]
    found = claims_of(study)[0]
    assert found.values == ([75.0], [50.0])
    assert found.to_dict()["difference"] == 25.0
