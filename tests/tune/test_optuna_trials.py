"""How trials reach Optuna."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.driven import Driven, log
from optuna.trial import TrialState as OptunaState

from samtune import SearchSpace, Trial, TrialState
from samtune.study import Objective
from samtune.tune.concurrency_limiter import ConcurrencyLimiter
from samtune.tune.ending import Ending
from samtune.tune.optuna_trials import OptunaTrials, open_study
from samtune.tune.trial_source import Proposal

SPACE = SearchSpace.from_yaml("digits.yaml")


def optuna_trials(folder: Path, space: SearchSpace = SPACE, earlier: tuple[Trial, ...] = ()) -> OptunaTrials:
    return OptunaTrials(space, open_study(space, "s", folder / "journal", parallel=False), earlier)


def record(epoch: int, value: float) -> dict[str, float]:
    return {"epoch": float(epoch), "val_accuracy": value}


@pytest.mark.parametrize(
    ("state", "values", "optuna_state", "told"),
    [
        (TrialState.COMPLETED, (0.5, 0.9), OptunaState.COMPLETE, [0.9]),
        (TrialState.COMPLETED, (0.5, float("nan")), OptunaState.FAIL, None),
        (TrialState.FAILED, (0.5, 0.6), OptunaState.FAIL, None),
        (TrialState.PRUNED, (0.5, 0.6), OptunaState.PRUNED, None),
    ],
)
def test_every_end_is_told_as_what_it_is(
    tmp_path: Path,
    state: TrialState,
    values: tuple[float, ...],
    optuna_state: OptunaState,
    told: list[float] | None,
) -> None:
    source = optuna_trials(tmp_path)
    driven = Driven(source)
    driven.suggest("t")
    driven.end("t", *(record(i + 1, v) for i, v in enumerate(values)), state=state)
    (trial,) = source._study.trials
    assert trial.state is optuna_state
    if told is not None:
        assert trial.values == told
    assert trial.intermediate_values[1] == 0.5
    assert trial.user_attrs["trial_id"] == "t"


def test_a_search_that_is_stopped_leaves_its_trials_to_be_resumed(tmp_path: Path) -> None:
    source = optuna_trials(tmp_path)
    driven = Driven(source)
    config = driven.suggest("t")
    driven.end("t", record(1, 0.5), state=TrialState.INTERRUPTED)
    assert source._study.trials[0].state is OptunaState.RUNNING

    known = Trial(0, "t", config, {}, 12, TrialState.INTERRUPTED, log(record(1, 0.5)))
    resumed: list[tuple[str, str]] = []
    again = optuna_trials(tmp_path, earlier=(known,))
    limiter = ConcurrencyLimiter(
        again, Objective(), [known], lambda: 2, Ending(), on_resume=lambda new, old: resumed.append((new, old))
    )
    assert limiter.suggest("u") == config
    assert resumed == [("u", "t")]
    assert limiter.numbers == {"u": 0}
    assert limiter.resumed == {"u": known}
    assert limiter.suggest("v") != config  # a new trial
    assert limiter.numbers["v"] == 1
    assert limiter.suggest("w") is None  # both groups are busy
    known.state = TrialState.COMPLETED
    again.end(known)
    assert again._study.trials[0].value == 0.5


def test_history_is_brought_up_to_the_records_when_the_driver_died_before_it_told(tmp_path: Path) -> None:
    first = Driven(optuna_trials(tmp_path))
    configs = [first.suggest(name) for name in "abcd"]
    records = (
        Trial(0, "a", configs[0], {}, 2, TrialState.COMPLETED, log(record(1, 0.5), record(2, 0.7))),
        Trial(1, "b", configs[1], {}, 2, TrialState.FAILED, log(record(1, 0.1))),
        Trial(2, "c", configs[2], {}, 2, TrialState.PRUNED, log(record(1, 0.2))),
    )  # "d" was asked for and never started
    again = optuna_trials(tmp_path, earlier=records)
    states = [trial.state for trial in again._study.trials]
    assert states == [OptunaState.COMPLETE, OptunaState.FAIL, OptunaState.PRUNED, OptunaState.RUNNING]
    assert again._study.trials[0].value == 0.7
    assert again._study.trials[0].intermediate_values == {1: 0.5, 2: 0.7}
    assert again.next("new id") == Proposal(3, configs[3])


def test_initial_points_come_first_and_the_seed_decides_the_rest(tmp_path: Path) -> None:
    draws = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        search = Driven(optuna_trials(tmp_path / name))
        draws.append([search.suggest(str(i)) for i in range(4)])
    assert draws[0] == draws[1]
    assert draws[0][0] == {"method.rho": 0.05, "training.lr": 0.1, "training.weight_decay": 5e-4}
    assert len({tuple(config.values()) for config in draws[0]}) == 4


def test_keys_of_a_method_that_is_not_chosen_are_absent(tmp_path: Path) -> None:
    space = SearchSpace.from_yaml(
        "digits.yaml", ["initial=[]", "search.method.name={choice: [sgd, sam]}", "sampler={name: random}"]
    )
    search = Driven(optuna_trials(tmp_path, space))
    configs = [search.suggest(str(i)) for i in range(12)]
    assert {config["method.name"] for config in configs} == {"sgd", "sam"}
    assert all(("method.rho" in config) == (config["method.name"] == "sam") for config in configs)
    assert all(space.trial(config).method.name == config["method.name"] for config in configs)
    assert all(type(value) in (float, str) for config in configs for value in config.values())


def ended_trials() -> tuple[Trial, ...]:
    """As the study's journal has them: one completed, one pruned, one failed."""
    configs = [{"method.rho": 0.05, "training.lr": lr, "training.weight_decay": 5e-4} for lr in (0.1, 0.02, 0.03)]
    states = (TrialState.COMPLETED, TrialState.PRUNED, TrialState.FAILED)
    return tuple(
        Trial(number, f"t{number}", config, {}, 2, state, log(record(1, 0.5), record(2, 0.6 + number / 10)))
        for number, (config, state) in enumerate(zip(configs, states, strict=True))
    )


def cut(journal: bytes) -> bytes:
    return journal[:-25]  # in the middle of the last line


def with_zeros(journal: bytes) -> bytes:
    return journal[:100] + bytes(50) + journal[150:]


def with_flipped_bit(journal: bytes) -> bytes:
    assert b'"op_code":0' in journal
    return journal.replace(b'"op_code":0', b'"op_codd":0', 1)


def not_text(journal: bytes) -> bytes:
    return b"\xff\xfe" + journal


def lost(journal: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [cut, with_zeros, with_flipped_bit, not_text, lost])
def test_a_damaged_journal_of_optuna_is_made_again(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    journal, earlier, lines = tmp_path / "optuna.journal", ended_trials(), []
    OptunaTrials(SPACE, open_study(SPACE, "s", journal, parallel=False, earlier=earlier), earlier)
    journal.write_bytes(damage(journal.read_bytes()))
    study = open_study(SPACE, "s", journal, False, earlier, lines.append)
    source = OptunaTrials(SPACE, study, earlier)
    found = {trial.user_attrs["number"]: trial for trial in study.trials}
    assert {number: trial.state for number, trial in found.items()} == {
        0: OptunaState.COMPLETE,
        1: OptunaState.PRUNED,
        2: OptunaState.FAIL,
    }
    assert found[0].value == 0.6
    assert found[0].params == pytest.approx(earlier[0].config)
    assert found[1].intermediate_values == {1: 0.5, 2: 0.7}
    assert source.next("new").number == 3
    assert bool(lines) == (damage not in (cut, lost))
    assert all(str(journal) in line and "made again from the study's own journal" in line for line in lines)
    open_study(SPACE, "s", journal, parallel=False)  # and it stays readable


def test_a_renamed_study_keeps_its_trials(tmp_path: Path) -> None:
    journal, earlier = tmp_path / "optuna.journal", ended_trials()
    OptunaTrials(SPACE, open_study(SPACE, "before", journal, parallel=False), earlier)
    again = open_study(SPACE, "after", journal, parallel=False)
    assert len(again.trials) == len(earlier) + len(SPACE.initial)


def test_a_failed_trial_that_is_run_again_is_told_with_its_value(tmp_path: Path) -> None:
    earlier = ended_trials()
    source = optuna_trials(tmp_path, earlier=earlier)
    earlier[2].state = TrialState.COMPLETED
    source.end(earlier[2])
    assert source._study.trials[-1].value == 0.8
