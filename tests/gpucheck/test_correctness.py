"""The check of a card finds what is wrong: each promise is broken once."""

from __future__ import annotations

import itertools

import pytest
import torch

from samtune.gpucheck.correctness import Outcome, check_methods, format_outcomes
from samtune.gpucheck.methods import METHODS, Checked
from samtune.sam import Method, Rule

CPU = torch.device("cpu")


def rules(kind: type[Rule]) -> set[type[Rule]]:
    return {kind}.union(*(rules(narrower) for narrower in kind.__subclasses__()))


def test_every_rule_is_checked():
    abstract = {"MaskRule", "AveragedAscentRule", "AdamWRule"}  # the last is SGD's rule for another optimizer
    there = {rule for rule in rules(Rule) if rule.__module__.startswith("samtune.")}
    assert {checked.method.rule for checked in METHODS.values()} == {r for r in there if r.__name__ not in abstract}


def outcomes(rule: type[Rule]) -> dict[str, Outcome]:
    found = check_methods(CPU, {"mine": Checked(Method(rule, rho=0.1, m=4))})
    return {outcome.promise: outcome for outcome in found}


class Drifts(Rule):
    """Its perturbation depends on how many steps any run before it took."""

    steps = itertools.count()

    def __call__(self, group):
        group.perturb([torch.full_like(p, 1e-3 * next(self.steps)) for p in self.parameters])
        group.descend()


class Explodes(Rule):
    def __call__(self, group):
        raise RuntimeError("a kernel that is not there\nand more")


def test_weights_that_are_moved_are_found():
    class Moves(Rule):
        def finish(self, step, gradients):
            with torch.no_grad():
                self.parameters[0].add_(1e-3)

    found = outcomes(Moves)["restores"]
    assert found.holds is False
    assert found.detail == "48 of 83 weights are not restored bit for bit"


def test_results_that_do_not_repeat_are_found():
    found = outcomes(Drifts)
    assert found["repeats"].holds is False
    assert found["repeats"].detail.startswith("two runs differ by ")
    assert found["= CPU"].holds is False


def test_a_method_that_fails_leaves_the_others_their_turn():
    methods = {"mine": Checked(Method(Explodes, rho=0.1)), "sam": METHODS["sam"]}
    found = check_methods(CPU, methods)
    assert {each.holds for each in found if each.method == "sam"} == {True, None}
    text = "\n".join(format_outcomes(found))
    assert "FAIL mine, repeats: RuntimeError: a kernel that is not there\n" in text


def test_what_a_cpu_cannot_show_is_neither_passed_nor_failed():
    found = outcomes(Rule)["no wait"]
    assert (found.holds, found.cell, found.detail) == (None, "-", "needs a GPU")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_all_methods_keep_their_promises_on_the_gpu():
    assert [outcome for outcome in check_methods(torch.device("cuda")) if outcome.holds is False] == []
