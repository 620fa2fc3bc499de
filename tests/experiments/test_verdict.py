"""What a search may say of its best trial, against closed forms and scipy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers.studies import make_confirmation
from scipy import stats

from samtune.experiments import verdict as module
from samtune.experiments.confirmed_study import confirmation_in, confirmation_lines, format_best_candidate
from samtune.experiments.summary import next_commands
from samtune.experiments.uncertainty import standard_error
from samtune.experiments.verdict import bootstrap_lead, verdict_of
from samtune.study import EpochLog, Objective, Study, Trial, TrialState


def made(
    values: dict[str, Sequence[float]],
    *,
    objective: Objective = Objective(),  # noqa: B008
    num_validation: int | None = 500,
    passes: dict[str, float] | None = None,
) -> Study:
    """A search whose trials had these values, method by method."""
    study = Study(
        name="made",
        objectives=(objective,),
        num_trials=sum(map(len, values.values())),
        space_yaml="",
        plan={"num_validation": num_validation},
        storage_path=str(Path("samtune-results").absolute() / "made"),
        tracking_uri="",
        experiment="made",
        command="",
        versions={},
    )
    for method, own in values.items():
        for value in own:
            trial = Trial(len(study.trials), f"t{len(study.trials)}", {}, {"method.name": method}, 1)
            trial.state = TrialState.COMPLETED
            record = {"epoch": 1.0, objective.metric: value, "num_passes": (passes or {}).get(method, 24.0)}
            trial.history.append(record)
            study.trials.append(trial)
    return study


@pytest.mark.parametrize(("share", "number"), [(0.5, 10), (0.95, 503), (1.0, 144), (0.0, 20)])
def test_the_standard_error_is_that_of_two_more_successes_and_failures(share: float, number: int) -> None:
    successes = round(share * number)
    adjusted = (successes + 2) / (number + 4)
    assert standard_error(successes / number, number) == pytest.approx(
        stats.binom(number + 4, adjusted).std() / (number + 4)
    )
    # Its centre is that of Wilson's interval at two standard errors, which holds the truth where p(1-p)/n gives 0.
    wilson = stats.binomtest(successes, number).proportion_ci(stats.chi2.cdf(4, 1), method="wilson")
    assert adjusted == pytest.approx((wilson.low + wilson.high) / 2)
    assert 0 < wilson.high - wilson.low < 4 * standard_error(successes / number, number)


def test_with_one_trial_each_the_interval_is_that_of_two_normal_values() -> None:
    low, high = bootstrap_lead([0.95], [0.9], ([0.01], [0.02]))
    expected = stats.norm.interval(0.95, loc=0.05, scale=math.hypot(0.01, 0.02))
    assert (low, high) == pytest.approx(expected, abs=0.002)  # of 4,000 draws


def test_without_noise_the_best_of_a_sample_follows_its_closed_form() -> None:
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    drawn = module._drawn_best(np.random.default_rng(1), values, np.zeros(5))
    # P(max <= x_(k)) = (k/5)^5
    cumulative = (np.arange(1, 6) / 5) ** 5
    expected = module.DRAWS * np.diff(cumulative, prepend=0.0)
    observed = [int((drawn == value).sum()) for value in values]
    assert sum(observed) == module.DRAWS
    assert stats.chisquare(observed, expected).pvalue > 0.001


def test_many_trials_are_drawn_in_parts_with_the_same_number_of_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 700)
    drawn = module._drawn_best(np.random.default_rng(1), np.arange(100.0), np.zeros(100))
    assert drawn.shape == (module.DRAWS,)
    assert drawn.mean() == pytest.approx(99 - sum((k / 100) ** 100 for k in range(1, 100)), abs=0.1)


def test_the_trials_within_one_standard_error_tie_with_the_best() -> None:
    error = standard_error(0.96, 500)
    values = [0.96, 0.96 - 0.99 * error, 0.96, 0.96 - 1.01 * error, 0.5]
    found = verdict_of(made({"sam": values}))
    assert found is not None
    assert (found.value, found.num_examples, found.num_tied, found.num_trials) == (0.96, 500, 2, 5)
    assert found.lead is None
    first, last = found.lines()
    assert first.startswith("0.9600 ± 0.0091 (standard error) on 500 validation examples; ")
    assert first.endswith("; 2 of the other 4 trials tie with it within that")
    assert last == "the best of 5 is partly luck; run `samtune confirm made` to decide"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.96, 0.955], "the other trial ties"),
        ([0.96, 0.9], "the other trial does not tie"),
        ([0.96, 0.955, 0.9], "1 of the other 2 trials ties"),
        ([0.96, 0.91, 0.9], "none of the other 2 trials tie"),
    ],
)
def test_few_trials_are_counted_in_words_that_fit(values: list[float], words: str) -> None:
    found = verdict_of(made({"sam": values}))
    assert found is not None
    assert found.lines()[0].endswith(f"; {words} with it within that")


def test_the_leading_method_is_named_with_its_interval() -> None:
    study = made({"sgd": [0.80, 0.81, 0.82], "sam": [0.95, 0.96, 0.94], "asam": [0.9, 0.9, 0.9], "gsam": [0.99]})
    found = verdict_of(study)
    assert found is not None
    assert found.lead is not None  # of methods with enough trials
    assert (found.lead.method, found.lead.other, found.lead.num_trials) == ("sam", "asam", (3, 3))
    assert found.lead.difference == pytest.approx(0.06)
    assert found.lead.is_clear
    assert found.lines()[1].startswith("sam leads asam by 0.0600 at 24 passes each; 95% interval +0.0")
    assert found.to_dict()["lead"]["interval"] == list(found.lead.interval)
    more = verdict_of(made({"sgd": [0.80, 0.81, 0.82], "sam": [0.95, 0.96, 0.94, 0.93]}))
    assert more is not None
    assert more.lines()[1].startswith(
        "sam leads sgd by 0.1400 at 24 passes each (4 trials against 3); 95% interval +0."
    )
    close = verdict_of(made({"sgd": [0.955, 0.95, 0.94], "sam": [0.95, 0.96, 0.94]}, passes={"sgd": 12.0}))
    assert close is not None
    assert close.lead is not None
    assert not close.lead.is_clear
    assert "sam is ahead of sgd by 0.0050, with 24 passes against 12; 95% interval -0.0" in close.lines()[1]
    assert "which holds 0: no method leads (bootstrap over trials and examples)" in close.lines()[1]


def test_where_less_is_better_the_lead_is_positive_and_no_share_has_no_standard_error() -> None:
    found = verdict_of(made({"sgd": [0.5, 0.6, 0.7], "sam": [0.2, 0.21, 0.22]}, objective=Objective("val_loss", "min")))
    assert found is not None
    assert (found.standard_error, found.num_tied) == (None, None)
    assert found.lead is not None
    assert found.lead.method == "sam"
    # The best of sgd is 0.5, 0.6 or 0.7 with chances 19/27, 7/27 and 1/27; of sam 0.2, 0.21 or 0.22.
    assert found.lead.interval == (pytest.approx(0.285, abs=0.0051), pytest.approx(0.49, abs=0.0101))
    first, second, _ = found.lines()
    assert first == "0.2000 has no standard error: it is no share of examples"
    assert "(bootstrap over trials)" in second


def test_without_a_completed_trial_there_is_no_verdict() -> None:
    study = made({"sam": [0.9]})
    study.trials[0].state = TrialState.PRUNED
    assert verdict_of(study) is None


def test_of_trials_with_the_same_value_the_lower_loss_is_the_best() -> None:
    study = made({"sam": [1.0, 1.0, 1.0, 0.9]})
    for trial, loss in zip(study, [0.03, 0.01, math.nan, 0.001], strict=True):
        trial.metrics["val_loss"] = loss
    assert [trial.number for trial in study.ranked()] == [1, 0, 2, 3]
    assert study.best is study.trials[1]


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        ((0.97, 0.98, 0.99), "trial 5 (sam) is better than sgd by 0.0300 ± 0.0101"),
        ((0.90, 0.92, 0.93), "trial 5 (sam) is worse than sgd by 0.0333 ± 0.0143"),
        (
            (0.93, 0.96, 0.97),
            "the interval of the difference holds 0: these replicas do not tell trial 5 (sam) from sgd",
        ),
        ((0.97,), "one replica has no interval: it does not tell trial 5 (sam) from sgd"),
    ],
)
def test_a_confirmation_says_whether_its_candidate_is_better_than_the_baseline(
    tmp_path: Path, candidate: tuple[float, ...], said: str
) -> None:
    study = make_confirmation(
        tmp_path, {"trial 5 (sam)": candidate, "sgd": (0.94, 0.95, 0.96)}, replicas=3, baselines=["sgd"]
    )
    confirmation = confirmation_in(study)
    assert confirmation is not None
    assert confirmation_lines(confirmation)[1] == said
    assert format_best_candidate(confirmation).startswith("best candidate trial 5 (sam): test_accuracy ")


def test_a_trial_that_is_the_baseline_too_may_be_the_best(tmp_path: Path) -> None:
    values = {"trial 3 (sgd)": (0.97, 0.96, 0.98), "trial 4 (sam)": (0.95, 0.94, 0.96), "sgd (9 epochs)": (0.9,) * 3}
    baselines = ["trial 3 (sgd)", "sgd (9 epochs)"]
    study = make_confirmation(
        tmp_path, values, replicas=3, baselines=baselines, chosen_baselines=["trial 3 (sgd)"], searched=0.96
    )
    confirmation = confirmation_in(study)
    assert confirmation is not None
    assert confirmation.best is not None
    assert confirmation.best.label == confirmation.baseline == "trial 3 (sgd)"
    assert format_best_candidate(confirmation).startswith("best candidate trial 3 (sgd): ")
    line = "trial 3 (sgd) is the baseline itself: no other candidate has a better mean"
    assert confirmation_lines(confirmation)[1] == line


@pytest.mark.parametrize(("folds", "number"), [(None, 60), ([1, 1], 60), ([1, 5], 60), ([5, 5], 300)])
def test_over_folds_every_example_of_the_search_is_validated_on(folds: list[int] | None, number: int) -> None:
    """A journal from before folds has none; where some trials have one validation set, that is what counts."""
    study = made({"sam": [0.9]}, num_validation=60)
    study.plan |= {"num_train": 240} | ({} if folds is None else {"folds": folds})
    verdict = verdict_of(study)
    assert verdict is not None
    assert verdict.num_examples == number
    assert verdict.standard_error == standard_error(0.9, number)


def test_methods_of_too_few_trials_are_said_not_to_be_compared() -> None:
    verdict = verdict_of(made({"sam": [0.9, 0.91, 0.92, 0.9], "sgd": [0.8]}))
    assert verdict is not None
    assert "methods are not compared: that takes 3 completed trials of two of them (completed: sam 4, sgd 1)" in (
        verdict.lines()
    )
    alone = verdict_of(made({"sam": [0.9, 0.91]}))
    assert alone is not None
    assert alone.not_compared is None


def with_errors(study: Study, errors: Sequence[float]) -> Study:
    """The search whose trials reported these standard errors of theirs."""
    for trial, error in zip(study, errors, strict=True):
        trial.metrics["val_accuracy_se"] = error
    return study


def test_over_folds_the_error_is_that_over_the_folds_which_the_trial_reports() -> None:
    """Folds of 0.9, 0.94 and 0.98 have the deviation 0.04, so their mean has the error 0.04 / sqrt(3) = 0.0231."""
    folds = np.array([0.9, 0.94, 0.98])
    own = float(folds.std(ddof=1) / math.sqrt(3))
    study = with_errors(made({"sam": [0.94, 0.94 - 0.022, 0.94 - 0.024]}, num_validation=1000), [own, 0.001, 0.001])
    study.plan |= {"num_train": 2000, "folds": [3, 3]}
    found = verdict_of(study)
    assert found is not None
    assert found.standard_error == pytest.approx(0.04 / math.sqrt(3))
    assert found.error_source == "folds"
    assert found.num_tied == 1  # with the error of 3,000 examples, 0.0043, none would
    assert found.lines()[0].startswith(
        "0.9400 ± 0.0231 (standard error over the folds) on 3000 validation examples; 1 of"
    )
    with_errors(study, [0.0, 0.001, 0.001])  # all folds agree: the number of examples says more
    agreed = verdict_of(study)
    assert agreed is not None
    assert (agreed.standard_error, agreed.error_source) == (standard_error(0.94, 3000), "examples")


def test_the_interval_of_a_lead_has_the_errors_that_the_trials_report() -> None:
    """Of three values with the error s, the largest has the deviation 0.748 s, so that the difference of two such has
    1.058 s: 95% of it are within 2.07 s."""
    study = with_errors(made({"sam": [0.9] * 3, "sgd": [0.8] * 3}, num_validation=100_000), [0.02] * 6)
    study.plan |= {"num_train": 400_000, "folds": [5, 5]}
    found = verdict_of(study)
    assert found is not None
    assert found.lead is not None
    assert found.lead.interval == (
        pytest.approx(0.1 - 2.07 * 0.02, abs=0.003),
        pytest.approx(0.1 + 2.07 * 0.02, abs=0.003),
    )
    assert found.lead.over_examples


@pytest.mark.parametrize(("epochs", "error"), [("last", 0.03), ("best", 0.01), (2, 0.025)])
def test_the_reported_error_is_that_of_the_epochs_that_count(epochs: str | int, error: float) -> None:
    study = made({"sam": [0.5]}, objective=Objective(epochs=epochs))  # type: ignore[arg-type]
    history = study.trials[0].history = EpochLog()
    for epoch, (value, own) in enumerate([(0.9, 0.01), (0.7, 0.02), (0.8, 0.03)], 1):
        history.append({"epoch": float(epoch), "val_accuracy": value, "val_accuracy_se": own})
    found = verdict_of(study)
    assert found is not None
    assert found.standard_error == pytest.approx(error)


def test_a_training_function_may_report_its_error_and_is_named_where_it_does_not() -> None:
    study = made({"sam": [0.9]}, num_validation=None)
    study.plan["train"] = "loop.py:train"
    silent = verdict_of(study)
    assert silent is not None
    assert silent.lines()[0] == "0.9000 has no standard error: the training function does not report val_accuracy_se"
    told = verdict_of(with_errors(study, [0.02]))
    assert told is not None
    assert told.lines()[0] == "0.9000 ± 0.0200 (standard error, as the training function reports it)"


@pytest.mark.parametrize(
    ("metric", "plan", "line"),
    [
        (
            "val_accuracy",
            {"num_validation": 144},
            "val_accuracy 0.9500 ± 0.0198 (standard error) on 144 validation examples",
        ),
        ("test_accuracy", {"num_test": 144}, "test_accuracy 0.9500 ± 0.0198 (standard error) on 144 test examples"),
        (
            "val_accuracy",
            {},
            "val_accuracy 0.9500 has no standard error: the number of examples is not known beforehand",
        ),
        ("val_loss", {"num_validation": 144}, "val_loss 0.9500 has no standard error: it is no share of examples"),
    ],
)
def test_a_training_has_the_error_of_its_one_value_and_nothing_to_decide(
    metric: str, plan: dict[str, int], line: str
) -> None:
    study = made({"sam": [0.95]}, objective=Objective(metric), num_validation=None)
    study.kind, study.plan = "training", dict(plan)
    found = verdict_of(study)
    assert found is not None
    assert found.lines() == [line]
    assert found.command is None
    assert [command.split()[1] for command, _ in next_commands(study)] == ["report", "ui"]  # confirm refuses it
