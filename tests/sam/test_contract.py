"""What every method promises, whatever its mathematics: one class, through which all of them go."""

from __future__ import annotations

import gc
import math
import weakref
from functools import partial
from typing import Any

import pytest
import torch
from helpers.ranks import run_ranks
from helpers.reference import flat_weights
from helpers.sam_training import BATCH_SIZE, batch, examples, make_network, make_optimizer, train
from torch import Tensor, nn
from torch.testing import assert_close

from samtune.config.method import (
    ASAMConfig,
    BaseOptimizerConfig,
    DetSAMConfig,
    FrobSAMConfig,
    FSAMConfig,
    GSAMConfig,
    LookSAMConfig,
    MethodConfig,
    MomentumSAMConfig,
    RWPConfig,
    SAMConfig,
    SSAMDConfig,
    SSAMFConfig,
    TraceSAMConfig,
    UniversalConfig,
    USAMConfig,
    VaSSOConfig,
    WSAMConfig,
)
from samtune.config.sections import config_classes
from samtune.sam import TrainStep

METHODS: dict[str, MethodConfig] = {
    "sgd": BaseOptimizerConfig(),
    "sam": SAMConfig(rho=0.1),
    "sam_inf": SAMConfig(rho=0.01, p=math.inf),
    "sam_1": SAMConfig(rho=0.1, p=1.0),
    "sam_3": SAMConfig(rho=0.1, p=3.0),
    "sam_steps": SAMConfig(rho=0.1, ascent_steps=3, step_size=0.05),
    "sam_random": SAMConfig(rho=0.1, ascent="random"),
    "sam_second_order": SAMConfig(rho=0.1, second_order=True),
    "asam": ASAMConfig(rho=0.3),
    "asam_inf": ASAMConfig(rho=0.1, p=math.inf),
    "ssam_f": SSAMFConfig(rho=0.1, num_examples=6),
    "ssam_d": SSAMDConfig(rho=0.1, num_examples=6),
    "gsam": GSAMConfig(rho=0.1),
    "usam": USAMConfig(rho=0.1),
    "wsam": WSAMConfig(rho=0.1, gamma=0.6),
    "fsam": FSAMConfig(rho=0.1),
    "vasso": VaSSOConfig(rho=0.1),
    "rwp": RWPConfig(rho=0.02, mix=0.7),
    "looksam": LookSAMConfig(rho=0.1, k=2),
    "momentum_sam": MomentumSAMConfig(rho=0.1),
    "trace_sam": TraceSAMConfig(num_directions=2),
    "frob_sam": FrobSAMConfig(num_directions=3),
    "det_sam": DetSAMConfig(),
    "universal": UniversalConfig(
        rho=0.1, phi="helpers.sam_functions:phi", psi="helpers.sam_functions:psi", num_directions=2
    ),
}
PERTURBED = [name for name, method in METHODS.items() if name != "sgd"]
ROUNDING = {"rtol": 0.0, "atol": 1e-9}


def make_step(name: str, model: nn.Module, optimizer: torch.optim.Optimizer, **options: Any) -> TrainStep:
    changes = {"m": options.pop("m")} if "m" in options else {}
    changes |= {"rho": options.pop("rho")} if "rho" in options else {}
    method = METHODS[name].model_copy(update=changes)
    loss = options.pop("loss", nn.CrossEntropyLoss())
    step = TrainStep(model, loss, optimizer, method, batch_size=BATCH_SIZE, seed=3, **options)
    step.begin_epoch(0, 1, steps_per_epoch=4, examples=partial(examples, dtype=step.parameters[0].dtype))
    return step


def test_every_declared_method_is_here():
    assert {type(method) for method in METHODS.values()} == set(config_classes(MethodConfig))


@pytest.mark.parametrize("name", METHODS)
class TestAlone:
    """One rank."""

    def test_weights_are_restored_bit_for_bit_and_keep_their_storage(self, name):
        """With lr = 0 the base optimizer changes nothing, so neither must the rest."""
        model = make_network(torch.float32)
        step = make_step(name, model, torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9), m=4)
        before = flat_weights(model)
        pointers = [p.data_ptr() for p in model.parameters()]
        visited: list[bool] = []
        model.register_forward_pre_hook(lambda *_: visited.append(torch.equal(flat_weights(model), before)))
        for index in range(4):
            step(*batch(index, dtype=torch.float32))
            assert torch.equal(flat_weights(model), before)
        assert [p.data_ptr() for p in model.parameters()] == pointers
        assert all(visited) == (name == "sgd")  # the others did look elsewhere

    def test_rho_zero_is_the_base_optimizer_bit_for_bit(self, name):
        def final(name, **options):
            model = make_network(torch.float32, batch_norm=True)
            step = make_step(name, model, make_optimizer(model), **options)
            for index in range(4):
                step(*batch(index, dtype=torch.float32))
            return torch.cat([flat_weights(model), *(b.flatten().float() for b in model.buffers())]), step.passes

        options = {"rho": 0.0, "m": 2} if name != "sgd" else {}
        state, passes = final(name, **options)
        expected, _ = final("sgd")
        assert torch.equal(state, expected)
        assert passes == 1.0

    def test_zero_gradient_leaves_the_weights_where_they_are(self, name):
        model = make_network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        step = make_step(name, model, optimizer, loss=lambda outputs, targets: outputs.sum() * 0.0)
        before = flat_weights(model)
        for index in range(4):
            step(*batch(index))
        assert torch.equal(flat_weights(model), before)
        metrics = step.epoch_metrics()
        assert metrics["skipped_steps"] == 0
        assert all(math.isfinite(value) for value in metrics.values())

    def test_a_frozen_parameter_is_not_moved_at_all(self, name):
        model = make_network()
        frozen = model.layers[0].weight.requires_grad_(False)
        before = frozen.clone()
        seen: list[bool] = []
        model.register_forward_pre_hook(lambda *_: seen.append(torch.equal(frozen, before)))
        step = make_step(name, model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        for index in range(4):
            step(*batch(index))
        assert all(seen)
        assert torch.equal(frozen, before)
        assert not torch.equal(flat_weights(model), flat_weights(make_network()))

    def test_a_parameter_without_gradient_is_not_decayed(self, name):
        """As in the base optimizer, which skips a parameter whose .grad is None."""
        model = make_network(unused=True)
        step = make_step(name, model, make_optimizer(model))
        for index in range(4):
            step(*batch(index))
        assert torch.equal(model.unused, torch.ones(4, dtype=torch.float64))
        without = make_network()
        assert not torch.equal(model.layers[0].weight, without.layers[0].weight)

    def test_an_empty_parameter_group_changes_nothing(self, name):
        def final(empty: bool) -> Tensor:
            model = make_network()
            parameters: list[dict[str, Any]] = [{"params": list(model.parameters())}]
            if empty:
                parameters.insert(0, {"params": []})
            step = make_step(name, model, torch.optim.SGD(parameters, lr=0.1, momentum=0.9))
            for index in range(4):
                step(*batch(index))
            return flat_weights(model)

        assert torch.equal(final(empty=True), final(empty=False))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_dtype_is_kept(self, name, dtype):
        model = make_network(dtype)
        step = make_step(name, model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        for index in range(2):
            step(*batch(index, dtype=dtype))
        assert {p.dtype for p in model.parameters()} == {dtype}
        assert torch.isfinite(flat_weights(model)).all()

    def test_number_of_passes_is_as_declared(self, name):
        model = make_network()
        step = make_step(name, model, make_optimizer(model), **({"m": 4} if name != "sgd" else {}))
        forwards: list[int] = []
        model.register_forward_pre_hook(lambda module, inputs: forwards.append(len(inputs[0])))
        for index in range(4):
            step(*batch(index))
        declared = METHODS[name].passes_per_step
        assert step.passes == pytest.approx(declared)
        # A Hessian-vector product is one forward that counts for two passes.
        assert sum(forwards) / BATCH_SIZE / 4 == pytest.approx(declared - (name == "sam_second_order"))

    def test_resumed_equals_uninterrupted_bit_for_bit(self, name):
        def make() -> tuple[nn.Module, TrainStep]:
            model = make_network(torch.float32, batch_norm=True, dropout=0.2)
            return model, make_step(name, model, make_optimizer(model))

        model, step = make()
        for index in range(6):
            step(*batch(index, dtype=torch.float32))

        first, first_step = make()
        for index in range(3):
            first_step(*batch(index, dtype=torch.float32))
        second = make_network(torch.float32, batch_norm=True, dropout=0.2)
        resumed = TrainStep(
            second, nn.CrossEntropyLoss(), make_optimizer(second), METHODS[name], batch_size=BATCH_SIZE, seed=3
        )
        second.load_state_dict(first.state_dict())
        resumed.load_state_dict(first_step.state_dict())
        for index in range(3, 6):
            resumed(*batch(index, dtype=torch.float32))
        assert torch.equal(flat_weights(second), flat_weights(model))
        assert resumed.num_steps == 6

    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    def test_mixed_precision_stays_close_and_keeps_float32_weights(self, name, precision):
        def final(precision):
            model = make_network(torch.float32)
            step = make_step(
                name, model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), precision=precision
            )
            for index in range(4):
                step(*batch(index, dtype=torch.float32))
            assert step.epoch_metrics()["skipped_steps"] == 0
            return flat_weights(model)

        exact, found = final("fp32"), final(precision)
        assert found.dtype == torch.float32
        change = (exact - flat_weights(make_network(torch.float32))).norm()
        assert (found - exact).norm() < (0.1 if precision == "bf16" else 0.03) * change
        assert not torch.equal(found, exact)

    def test_accumulating_two_batches_is_the_step_of_one_of_both(self, name):
        def final(size: int, accumulate: int) -> Tensor:
            model = make_network(dropout=0.2)
            method = METHODS[name].model_copy(update={} if name == "sgd" else {"m": 4})
            if name == "sgd":  # its forwards run on a worker's whole batch: no dropout, whose masks would differ
                model = make_network()
            step = TrainStep(
                model,
                nn.CrossEntropyLoss(),
                make_optimizer(model),
                method,
                batch_size=size,
                accumulate=accumulate,
                seed=3,
            )
            step.begin_epoch(0, 1, steps_per_epoch=3, examples=examples)
            for index in range(3):
                inputs, targets = batch(index, 32)
                for x, y in zip(inputs.split(size), targets.split(size), strict=True):
                    step(x, y)
            assert step.num_steps == 3
            return flat_weights(model)

        assert_close(final(16, 2), final(32, 1), **ROUNDING)

    def test_clipping_bounds_the_direction_not_the_perturbation(self, name):
        if name == "momentum_sam":
            pytest.skip("needs momentum, which mixes in earlier directions")
        model = make_network()
        step = make_step(name, model, torch.optim.SGD(model.parameters(), lr=1.0), clip_norm=0.01)
        before = flat_weights(model)
        step(*batch(0))
        assert (before - flat_weights(model)).norm().item() == pytest.approx(0.01, rel=1e-5)
        if name in ("sam", "gsam"):
            assert step.epoch_metrics()["perturbation_norm"] == pytest.approx(0.1)

    @pytest.mark.parametrize("when", ["input", "first", "second"])
    def test_a_gradient_that_is_not_finite_skips_the_step(self, name, when):
        """Nothing of the step stays: weights, momentum, running statistics; the next step is taken."""
        if when == "second" and METHODS[name].passes_per_step < 2:
            pytest.skip("a single pass in some steps")
        model = make_network(batch_norm=True)
        optimizer = make_optimizer(model)
        step = make_step(name, model, optimizer)

        def everything() -> Tensor:
            momenta = [optimizer.state[p]["momentum_buffer"].flatten() for p in step.parameters]
            running = [model.layers[1].running_mean, model.layers[1].running_var]
            return torch.cat([flat_weights(model), *momenta, *running])

        step(*batch(0))
        before = everything()
        forwards: list[bool] = []

        def overflow(module: nn.Module, inputs: Any, outputs: Tensor) -> Tensor | None:
            forwards.append(True)
            return outputs * math.inf if len(forwards) == {"first": 1, "second": 2}.get(when) else None

        handle = model.layers[-1].register_forward_hook(overflow)
        inputs, targets = batch(1)
        if when == "input":
            inputs[0, 0] = math.nan
        step(inputs, targets)
        handle.remove()
        # A first forward that overflows behind BatchNorm still updates it: the step is undone as a whole.
        assert torch.equal(everything(), before)
        step(*batch(2))
        assert torch.isfinite(everything()).all()
        assert not torch.equal(everything(), before)
        assert step.epoch_metrics()["skipped_steps"] == 1

    def test_nothing_is_left_behind(self, name):
        """A worker process trains hundreds of trials: a step and its model can be collected."""
        model = make_network()
        step = make_step(name, model, make_optimizer(model))
        step(*batch(0))
        dead = weakref.ref(step), weakref.ref(model)
        del step, model
        gc.collect()
        assert [ref() for ref in dead] == [None, None]


@pytest.mark.parametrize("name", METHODS)
class TestOnRanks:
    """The step is a function of (B, m, the data), not of the number of workers. float64, 20 steps, real gloo ranks."""

    def check(self, name: str, m: Any, layers: dict[str, Any]) -> None:
        method = METHODS[name].model_copy(update={} if name == "sgd" else {"m": m})
        alone = train(0, 1, method, layers=layers)
        for num_ranks in (2, 4):
            results = run_ranks(num_ranks, train, method, layers=layers)
            for result in results[1:]:
                assert torch.equal(result["weights"], results[0]["weights"])  # bit-identical on all ranks
                assert result["metrics"] == results[0]["metrics"]
            found = results[0]
            assert_close(found["weights"], alone["weights"], **ROUNDING)
            assert found["passes"] == pytest.approx(alone["passes"])
            assert found["metrics"].keys() == alone["metrics"].keys()
            for key in found["metrics"].keys() - {"lost_perturbation"}:  # counts roundings
                assert found["metrics"][key] == pytest.approx(alone["metrics"][key], rel=1e-6, abs=1e-8), key
            for key, value in found["buffers"].items():
                if "running" in key:
                    assert_close(value, alone["buffers"][key], **ROUNDING)

    def test_groups_within_a_worker(self, name):
        layers = {} if name == "sgd" else {"batch_norm": True, "dropout": 0.2}
        self.check(name, 4, layers)  # b = 8 on two workers, b = 4 on four

    def test_one_group_for_all_workers(self, name):
        self.check(name, "global", {})

    def test_two_workers_share_a_group_and_one_parameter_is_unused(self, name):
        self.check(name, 8, {"unused": True})  # m = b on two workers, m = 2b on four
