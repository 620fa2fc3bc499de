"""A method of the user's: trained like samtune's own, and told in one line where it breaks the contract of a rule."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from helpers.own_rules import Forgetful, Forgets, Mix, NoShare, Returns, TooFew, WrongShape
from helpers.reference import Reference, flat_weights
from helpers.sam_training import BATCH_SIZE, batch, make_network
from torch import nn
from torch.testing import assert_close

from samtune import SearchSpace, UsageError
from samtune.config.method import OwnMethodConfig
from samtune.preflight import check_method
from samtune.sam import Method, RuleError, TrainStep
from samtune.testing import MethodContract
from samtune.train.trial import TrialRun

HEAD = {
    "name": "own",
    "data": {"name": "digits", "fraction": 0.1},
    "model": {"name": "mlp"},
    "training": {"epochs": 1, "batch_size": 16},
}


def space(method, **sections):
    return SearchSpace.from_dict({**HEAD, "method": method, **sections})


class TestMix(MethodContract):
    method = Method(Mix, rho=0.1, alpha=0.3)
    passes_per_step = 2.0


class TestMixFromASpace(MethodContract):
    method = OwnMethodConfig(name="helpers.own_rules:Mix", options={"alpha": 0.3}, rho=0.1)
    passes_per_step = 2.0


def test_the_contract_finds_state_that_is_not_saved():
    contract = MethodContract()
    contract.method = Method(Forgetful, rho=0.1)
    with pytest.raises(AssertionError, match="state_dict does not hold all"):
        contract.test_resumed_equals_uninterrupted_bit_for_bit()


def test_own_rule_in_closed_form():
    model = make_network()
    step = TrainStep(
        model,
        nn.CrossEntropyLoss(),
        torch.optim.SGD(model.parameters(), lr=0.1),
        Method(Mix, rho=0.5),  # alpha from the options class
        batch_size=BATCH_SIZE,
    )
    w = flat_weights(model)
    step(*batch(0))
    reference = Reference(make_network(), *batch(0))
    g = reference.gradient(w)
    expected = w - 0.1 * (0.5 * g + 0.5 * reference.gradient(w + 0.5 * g / g.norm()))
    assert_close(flat_weights(model), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Forgets, r"the rule Forgets moved layers\.0\.bias and left it there: move weights with group\.perturb\(\)"),
        (
            WrongShape,
            r"group\.perturb takes tensors of the parameters' shapes: layers\.0\.weight has \[8, 6\] \(got \[48",
        ),
        (TooFew, r"the rule TooFew: group\.contribute takes 4 tensors, one for each parameter \(got 1\)"),
        (NoShare, r"the rule NoShare must end in group\.descend\(\) or group\.contribute\(\): it called neither"),
        (Returns, r"the rule Returns must return nothing \(it returned list\)"),
    ],
)
def test_a_broken_rule_is_told_in_one_line(rule, message):
    model = make_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = TrainStep(model, nn.CrossEntropyLoss(), optimizer, Method(rule), batch_size=BATCH_SIZE)
    with pytest.raises(RuleError, match=message) as caught:
        step(*batch(0))
    assert "\n" not in str(caught.value)


# -- in a space --------------------------------------------------------------------------------------------------------


def test_options_beside_the_name_are_searched():
    made = space({"name": "helpers.own_rules:Mix", "alpha": {"uniform": [0, 1]}, "rho": 0.2, "passes": 2})
    assert [key for key, _ in made.distributions()] == ["method.options.alpha"]
    method = made.trial({"method.options.alpha": 0.25}).method
    assert (method.options, method.rho, method.passes_per_step) == ({"alpha": 0.25}, 0.2, 2.0)


def test_own_method_among_others_in_a_choice():
    own = {"name": "helpers.own_rules:Mix", "alpha": {"choice": [0.1, 0.2]}}
    made = space({"choice": [{"name": "sgd"}, own]})
    trial = made.trial({"method.name": "helpers.own_rules:Mix", "method.options.alpha": 0.2})
    assert trial.method.options == {"alpha": 0.2}
    assert made.trial({"method.name": "sgd"}).method.name == "sgd"


def test_names_of_options_are_the_users():
    made = space({"name": "helpers.own_rules:Mix", "lam": 1, "num_directions": {"int": [1, 3]}})
    method = made.trial({"method.options.num_directions": 2}).method
    assert method.options == {"lam": 1, "num_directions": 2}


def test_a_class_itself_in_python():
    run = TrialRun(space({"name": Mix, "alpha": 0.3}).trial({}), rank=0, num_workers=1, device=torch.device("cpu"))
    record = run.train_epoch(1)
    assert record["num_passes"] == pytest.approx(2.0)


def test_every_second_step_counts_its_passes():
    method = {"name": "helpers.own_rules:Mix", "every": 2}
    spec = space(method, training={"passes": 6, "batch_size": 16}).trial({})
    assert (spec.passes_per_step, spec.num_epochs) == (1.5, 4)


def test_a_file_of_the_working_directory_is_named_and_not_imported(tmp_path, monkeypatch):
    """`validate` and `--dry-run` read the source alone; `check_method` with import_code is what a search does."""
    (tmp_path / "my_rule.py").write_text(
        "from helpers.own_rules import Mix\n\n\nclass MyRule(Mix):\n"
        "    def __init__(self, parameters, seed, *, alpha=0.5):\n"
        "        super().__init__(parameters, seed, alpha=alpha)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    method = OwnMethodConfig(name="my_rule.py:MyRule", options={"alpha": 0.3})
    check_method(method, import_code=False)
    assert "my_rule" not in sys.modules
    wrong = OwnMethodConfig(name="my_rule.py:MyRule", options={"alhpa": 0.3})
    with pytest.raises(UsageError, match=r"method\.alhpa: unknown option of my_rule.*; did you mean 'alpha'\?"):
        check_method(wrong, import_code=False)
    check_method(method)
    assert "my_rule" in sys.modules
    monkeypatch.delitem(sys.modules, "my_rule")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("helpers.own_rules:Mix", {"alpha": 2.0}, r"refuses its options: alpha must lie in \[0, 1\] \(got 2\.0\)"),
        ("helpers.own_rules:Mix", {"beta": 2.0}, r"method\.beta: unknown option of helpers\.own_rules:Mix"),
        ("helpers.own_rules:Mixx", {}, r"method\.name: helpers\.own_rules:Mixx cannot be imported"),
    ],
)
def test_what_a_rule_does_not_take_is_refused_before_a_trial(name, options, message):
    with pytest.raises(UsageError, match=message):
        check_method(OwnMethodConfig(name=name, options=options))


def test_what_is_no_rule_is_refused():
    config = OwnMethodConfig(name="helpers.own_rules:not_a_rule")
    with pytest.raises(UsageError, match=r"not_a_rule must be a samtune\.sam\.Rule \(got str\)"):
        config.make_rule([torch.zeros(2)], 0)


def test_unknown_names_and_passes_are_refused():
    with pytest.raises(UsageError, match="greater than or equal to 1"):
        space({"name": "helpers.own_rules:Mix", "passes": 0})
    with pytest.raises(UsageError, match="smm"):
        space({"name": "smm"})
    json.dumps(space({"name": "helpers.own_rules:Mix", "alpha": 0.3}).model_dump())
