"""A rule of the user's inside `SAM`: the steps of `TrainStep`, its passes, its state and its errors."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.own_rules import Forgets, Mix, NoShare, Returns, TooFew, WrongShape
from helpers.ranks import run_ranks
from helpers.reference import flat_weights
from helpers.sam_training import BATCH_SIZE, batch, make_network
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from samtune.sam import SAM, Method, Rule, RuleError, TrainStep

SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}


class Drag(Rule):
    """∇L(w + rho·v), v a running mean of gradients that is the same on all workers."""

    def __init__(self, parameters, seed):
        super().__init__(parameters, seed)
        self.mean = [torch.zeros_like(p) for p in self.parameters]

    def __call__(self, group):
        group.perturb([group.rho * m for m in self.mean])
        group.descend(lambda loss: 1 + loss)

    def finish(self, step, gradients):
        self.mean = [0.5 * m + g for m, g in zip(self.mean, gradients, strict=True)]

    def state_dict(self):
        return {"mean": [m.clone() for m in self.mean]}

    def load_state_dict(self, state):
        self.mean = [m.clone() for m in state["mean"]]


class NeedsOutputs(Rule):
    def __call__(self, group):
        group.forward()


class NeedsProgress(Rule):
    def __call__(self, group):
        group.descend(1 - group.progress)


class NeedsEpochs(Rule):
    def begin_epoch(self, step, epoch, num_epochs, examples):
        pass


def take(optimizer, model, index, rank=0, num_ranks=1, runs=None):
    inputs, targets = batch(index)
    rows = slice(rank * BATCH_SIZE // num_ranks, (rank + 1) * BATCH_SIZE // num_ranks)

    def closure():
        if runs is not None:
            runs.append(index)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs[rows]), targets[rows])
        loss.backward()
        return loss

    return optimizer.step(closure)


def trained(rule, model, steps=4, m="worker", **options):
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    step = TrainStep(
        model, nn.CrossEntropyLoss(), optimizer, Method(rule, rho=0.3, m=m, **options), batch_size=BATCH_SIZE
    )
    for index in range(steps):
        step(*batch(index))
    return flat_weights(model)


@pytest.mark.parametrize(("rule", "options", "passes"), [(Mix, {"alpha": 0.3}, 2), (Mix, {}, 2), (Drag, {}, 1)])
@pytest.mark.parametrize("perturb", ["all", r"layers\.0"])
def test_the_steps_and_passes_are_those_of_train_step(rule, options, passes, perturb):
    model, other = make_network(batch_norm=True), make_network(batch_norm=True)
    sam = SAM(model.parameters(), torch.optim.SGD, rho=0.3, rule=rule, rule_options=options, perturb=perturb, **SGD)
    runs = []
    for index in range(4):
        take(sam, model, index, runs=runs)
    assert len(runs) == sam.param_groups[0]["sam_passes"] == 4 * passes
    assert_close(flat_weights(model), trained(rule, other, perturb=perturb, **options), rtol=0, atol=1e-13)
    for mine, theirs in zip(model.buffers(), other.buffers(), strict=True):
        assert_close(mine, theirs, rtol=0, atol=1e-13)


def test_a_resumed_or_copied_optimizer_goes_on_as_it_was():
    model = make_network()
    sam = SAM(model.parameters(), torch.optim.SGD, rho=0.3, rule=Drag, **SGD)
    for index in range(2):
        take(sam, model, index)
    other = copy.deepcopy(model)
    resumed = SAM(other.parameters(), torch.optim.SGD, rho=0.3, rule=Drag, **SGD)
    resumed.load_state_dict(copy.deepcopy(sam.state_dict()))
    copied_model, copied = copy.deepcopy((model, sam))
    for optimizer, network in ((sam, model), (resumed, other), (copied, copied_model)):
        take(optimizer, network, 2)
        take(optimizer, network, 3)
    assert_close(flat_weights(other), flat_weights(model), rtol=0, atol=0)
    assert_close(flat_weights(copied_model), flat_weights(model), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Forgets, r"the rule Forgets moved layers\.0\.bias and left it there"),
        (WrongShape, r"group\.perturb takes tensors of the parameters' shapes: layers\.0\.weight has"),
        (TooFew, r"the rule TooFew: group\.contribute takes 4 tensors"),
        (NoShare, r"the rule NoShare must end in"),
        (Returns, r"the rule Returns must return nothing"),
        (NeedsOutputs, r"the rule NeedsOutputs asks for group\.forward, which SAM as an optimizer cannot give"),
        (NeedsProgress, r"the rule NeedsProgress asks for the step's progress, which SAM as an optimizer cannot"),
    ],
)
def test_a_broken_rule_is_told_in_one_line(rule, message):
    model = make_network()
    sam = SAM(model.parameters(), torch.optim.SGD, rho=0.3, rule=rule, **SGD)
    with pytest.raises(RuleError, match=message) as caught:
        take(sam, model, 0)
    assert "\n" not in str(caught.value)


def test_what_does_not_go_with_a_rule():
    parameters = list(make_network().parameters())
    with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\] \(got 2\)"):
        SAM(parameters, torch.optim.SGD, rule=Mix, rule_options={"alpha": 2}, **SGD)
    with pytest.raises(ValueError, match="needs epochs"):
        SAM(parameters, torch.optim.SGD, rule=NeedsEpochs, **SGD)
    with pytest.raises(ValueError, match="rule_options needs a rule"):
        SAM(parameters, torch.optim.SGD, rule_options={}, **SGD)
    with pytest.raises(RuntimeError, match="accumulate cannot be used with a rule"):
        SAM(parameters, torch.optim.SGD, rule=Mix, **SGD).accumulate(lambda: None)


def on_rank(rank, num_ranks, m):
    model = make_network()
    ddp = DistributedDataParallel(model)
    sam = SAM(model.parameters(), torch.optim.SGD, rho=0.3, rule=Mix, rule_options={"alpha": 0.3}, m=m, **SGD)
    for index in range(4):
        take(sam, ddp, index, rank, num_ranks)
    return flat_weights(model).detach()


@pytest.mark.parametrize(("m", "size"), [("worker", BATCH_SIZE // 2), ("global", "global")])
def test_two_ranks_are_one_with_as_many_groups(m, size):
    expected = trained(Mix, make_network(), alpha=0.3, m=size)
    for weights in run_ranks(2, on_rank, m):
        assert_close(weights, expected, rtol=0, atol=1e-13)
