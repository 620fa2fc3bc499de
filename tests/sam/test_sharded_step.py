"""`TrainStep` on models that `fully_shard` has cut up, on gloo ranks, against the whole model in one process."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from helpers.all_methods import METHODS
from helpers.ranks import run_ranks
from helpers.sam_training import (
    BATCH_SIZE,
    Network,
    batch,
    examples,
    make_network,
    make_optimizer,
    shard_layers,
    train,
    whole_parameters,
)
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from samtune.sam import Method, Rule, TrainStep
from samtune.sam.rules.universal import UniversalRule
from samtune.sam.sharded_step import cut_state, whole_state

STEPS = 4
REFUSED = ("sam_1", "sam_second_order")
ALIKE = ("sam_inf", "asam_inf", "esam_weights", "usam")
"""The same code is reached by others, or in test_fully_shard.py."""
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    name: (method.model_copy(update={} if name == "sgd" else {"m": "global"}), {})
    for name, method in METHODS.items()
    if name not in (*REFUSED, *ALIKE)
}
SAM = CASES["sam"][0]
CASES |= {
    "sam, adamw, clipped": (SAM, {"optimizer": "adamw", "clip_norm": 0.3}),
    "sam, accumulated": (SAM, {"accumulate": 2, "batch_size": 8}),
    "wsam, accumulated": (CASES["wsam"][0], {"accumulate": 2, "batch_size": 8}),
    "sam, norms only": (SAM.model_copy(update={"perturb": "only_norm"}), {"layers": {"batch_norm": True}}),
    "sam, batch norm": (SAM, {"layers": {"batch_norm": True}, "clip_norm": 0.3}),
    "sam, every second step": (SAM.model_copy(update={"every": 2}), {}),
}


def trained_in_shards(rank: int, num_ranks: int, names: list[str]) -> dict[str, Any]:
    return {name: train(rank, num_ranks, CASES[name][0], steps=STEPS, sharded=True, **CASES[name][1]) for name in names}


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_the_step_of_every_method_is_that_of_the_whole_model(num_ranks: int) -> None:
    names = list(CASES) if num_ranks == 2 else ["sam, adamw, clipped", "sam_3", "trace_sam"]
    found = run_ranks(num_ranks, trained_in_shards, names)
    for name in names:
        method, options = CASES[name]
        if "batch_norm" in options.get("layers", {}):  # it normalises over a worker's examples
            alone = run_ranks(num_ranks, train, method, steps=STEPS, **options)[0]
        else:
            alone = train(0, 1, method, steps=STEPS, **options)
        for result in found:
            assert_close(result[name]["weights"], alone["weights"], rtol=1e-12, atol=1e-13, msg=name)
            assert result[name]["passes"] == pytest.approx(alone["passes"]), name
            assert result[name]["buffers"].keys() == alone["buffers"].keys()
            for key, buffer in alone["buffers"].items():
                assert_close(result[name]["buffers"][key], buffer, rtol=1e-12, atol=1e-13, msg=name)
            metrics = found[0][name]["metrics"]
            assert metrics == pytest.approx(alone["metrics"], rel=1e-9, abs=1e-12), name


# -- resumed, on any number of ranks -----------------------------------------------------------------------------------

RESUMED = ["sam, adamw, clipped", "looksam", "mesa", "ssam_d"]


class Part:
    """A network, its step, and where it is."""

    def __init__(
        self,
        rank: int,
        num_ranks: int,
        name: str,
        *,
        sharded: bool = True,
        network: type[Network] = Network,
        dtype: torch.dtype = torch.float64,
        **options: Any,
    ) -> None:
        self.rank, self.num_ranks = rank, num_ranks
        self.model = make_network(dtype)
        self.model.__class__ = network
        if sharded:
            shard_layers(self.model)
        method, chosen = CASES.get(name) or (METHODS[name], {})
        options = {"batch_size": BATCH_SIZE, "clip_norm": chosen.get("clip_norm"), **options}
        self.size = options["batch_size"] // num_ranks
        self.step = TrainStep(
            self.model,
            nn.CrossEntropyLoss(),
            make_optimizer(self.model, chosen.get("optimizer", "sgd")),
            options.pop("method", method),
            **{"num_workers": num_ranks, "rank": rank, "seed": 3, **options},
        )

    def train(self, steps: range) -> list[Tensor]:
        """The whole weights after these steps of one epoch."""
        self.step.begin_epoch(0, 1, steps_per_epoch=6, examples=examples, steps_done=steps.start)
        for index in steps:
            inputs, targets = batch(index, self.size * self.num_ranks)
            rows = slice(self.rank * self.size, (self.rank + 1) * self.size)
            self.step(inputs[rows], targets[rows])
        return whole_parameters(self.model)

    def state(self) -> dict[str, Any]:
        return copy.deepcopy({"model": whole_state(self.model.state_dict()), "step": self.step.state_dict()})

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(cut_state(state["model"], self.model.state_dict()))
        self.step.load_state_dict(copy.deepcopy(state["step"]))


def begun(rank: int, num_ranks: int, names: list[str]) -> dict[str, Any]:
    """The state in the middle, and the weights at the end of a training, without and with a resume from it."""
    results = {}
    for name in names:
        part = Part(rank, num_ranks, name)
        part.train(range(3))
        state = part.state()
        ended, again = part.train(range(3, 6)), Part(rank, num_ranks, name)
        again.load(state)
        results[name] = {"state": state, "ended": ended, "again": again.train(range(3, 6))}
    return results


def resumed(rank: int, num_ranks: int, states: dict[str, Any]) -> dict[str, Any]:
    results = {}
    for name, state in states.items():
        part = Part(rank, num_ranks, name)
        part.load(state)
        results[name] = part.train(range(3, 6))
    return results


def test_a_saved_state_is_whole_and_goes_on_bit_for_bit_and_on_other_numbers_of_ranks() -> None:
    found = run_ranks(2, begun, RESUMED)
    states = {name: found[0][name]["state"] for name in RESUMED}
    for result in found:
        for name in RESUMED:
            assert_equal(result[name]["again"], result[name]["ended"])
            assert_equal(flat(result[name]["state"]), flat(states[name]))
    for result in run_ranks(4, resumed, states):
        for name in RESUMED:
            assert_close(result[name], found[0][name]["ended"], rtol=1e-12, atol=1e-13, msg=name)
    for name in RESUMED:  # and in one process, whole
        part = Part(0, 1, name, sharded=False)
        part.load(states[name])
        assert_close(part.train(range(3, 6)), found[0][name]["ended"], rtol=1e-12, atol=1e-13, msg=name)


def flat(state: Any) -> list[Tensor]:
    if isinstance(state, dict | list | tuple):
        values = state.values() if isinstance(state, dict) else state
        return [tensor for value in values for tensor in flat(value)]
    return [state] if isinstance(state, Tensor) else []


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    assert found
    assert all(type(a) in (Tensor, nn.Parameter) and torch.equal(a, b) for a, b in zip(found, expected, strict=True))


# -- what is refused, and what else a step meets -----------------------------------------------------------------------


class OwnRule(Rule):
    """Nothing of its own."""


def draw(parameters: Any, gradient: Any, generator: Any) -> Any:
    return [torch.randn_like(p) for p in parameters]


def refused(rank: int, num_ranks: int) -> list[str]:
    directions = Method(UniversalRule, m="global", directions=draw)
    lines = []
    for name, options in [
        ("sam_1", {"method": METHODS["sam_1"].model_copy(update={"m": "global"})}),
        ("sam_second_order", {"method": METHODS["sam_second_order"].model_copy(update={"m": "global"})}),
        ("sam", {"method": METHODS["sam"]}),
        ("sam", {"method": METHODS["sam"].model_copy(update={"m": 4})}),
        ("sam", {"method": Method(OwnRule, m="global")}),
        ("sam", {"method": directions}),
        ("sam", {"num_workers": 1}),
    ]:
        try:
            Part(rank, num_ranks, name, **options)
        except ValueError as error:
            lines.append(str(error))
    return lines


def test_what_needs_more_than_a_part_is_refused_in_one_line() -> None:
    assert run_ranks(2, refused)[0] == [
        "p must be above 1 for sharded parameters (got 1)",
        "second_order takes no sharded parameters (DTensor): fully_shard has no second derivative",
        "m must be global for sharded parameters (DTensor: fully_shard), of whose gradient there is only the mean over "
        "the workers (m is 8 of 16 examples)",
        "m must be global for sharded parameters (DTensor: fully_shard), of whose gradient there is only the mean over "
        "the workers (m is 4 of 16 examples)",
        "a rule of your own takes no sharded parameters (DTensor): its norms would be those of a part",
        "directions of your own take no sharded parameters (DTensor): they would draw for a part",
        "the model must be sharded over all workers (over 2, num_workers 1)",
    ]


def met(rank: int, num_ranks: int) -> dict[str, bool]:
    """Whether steps are right that ..."""
    found = {}
    part = Part(rank, num_ranks, "sam")
    before = whole_parameters(part.model)
    inputs, targets = batch(0, BATCH_SIZE)
    rows = slice(rank * part.size, (rank + 1) * part.size)
    part.step(inputs[rows] * (math.nan if rank else 1.0), targets[rows])
    skipped = part.step.epoch_metrics()["skipped_steps"]
    found["are not finite on one rank"] = skipped == 1 and same(whole_parameters(part.model), before)

    part.model.eval()
    with torch.no_grad():  # the root stays whole after it
        part.model(inputs[rows])
    part.model.train()
    part.train(range(1))
    found["come after an evaluation"] = same(whole_parameters(part.model), Part(rank, num_ranks, "sam").train(range(1)))

    recomputing = Part(rank, num_ranks, "sam", network=Recomputing)
    found["recompute activations"] = same(recomputing.train(range(2)), Part(rank, num_ranks, "sam").train(range(2)))

    scaled = Part(rank, num_ranks, "sam", precision="fp16", dtype=torch.float32)
    before = whole_parameters(scaled.model)
    inputs = inputs.float()
    scaled.step(inputs[rows] * (1e30 if rank else 1.0), targets[rows])
    found["overflow on one rank"] = same(whole_parameters(scaled.model), before)
    found["scale the loss"] = scaled.step.state_dict()["scaler"]["scale"] == 2.0**15
    return found


class Recomputing(Network):
    """With an activation checkpoint."""

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layers[1:](checkpoint(self.layers[0], inputs, use_reentrant=False))
        return outputs


def test_steps_are_right_that() -> None:
    for found in run_ranks(2, met):
        assert found == dict.fromkeys(found, True)


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
