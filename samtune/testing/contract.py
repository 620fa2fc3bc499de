"""What every method promises on one worker, as a class of tests."""

from __future__ import annotations

import gc
import math
import weakref
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from samtune.sam.method import MethodLike
from samtune.sam.train_step import TrainStep
from samtune.testing.problem import BATCH_SIZE, Varied, batch, examples, flat_weights, make_network, make_optimizer

ROUNDING: dict[str, Any] = {"rtol": 0.0, "atol": 1e-9}


class MethodContract:
    """Tests of a method: derive a class whose name begins with `Test` and set `method`.

    They hold for `rho` and `m` of any value, so choose a rho at which the method visibly does something on a network of
    83 weights, e.g. 0.1.
    """

    method: MethodLike
    """A `samtune.sam.Method`, or a configuration of a search space."""
    passes_per_step: float | None = None
    """Forward+backward passes of the whole batch, as a mean over the first four steps; None: not tested."""
    forwards_per_step: float | None = None
    """Forwards of the whole batch in these passes, where that is another number; None: as many as passes."""
    perturbs: bool = True
    """Whether the method looks at the loss elsewhere than at w."""
    is_sgd_at_rho_zero: bool = True
    """Whether a rho of 0 leaves the base optimizer's step."""

    # -- the weights -------------------------------------------------------------------------------------------------

    def test_weights_are_restored_bit_for_bit_and_keep_their_storage(self) -> None:
        """With lr = 0 the base optimizer changes nothing, so neither must the rest."""
        model = make_network(torch.float32)
        step = self._step(model, torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9), m=4)
        before = flat_weights(model)
        pointers = [p.data_ptr() for p in model.parameters()]
        visited: list[bool] = []
        model.register_forward_pre_hook(lambda *_: visited.append(torch.equal(flat_weights(model), before)))
        for index in range(4):
            step(*batch(index, dtype=torch.float32))
            assert torch.equal(flat_weights(model), before), "the weights are not restored bit for bit"
        assert [p.data_ptr() for p in model.parameters()] == pointers, "a parameter has new storage"
        assert all(visited) != self.perturbs, "perturbs says whether the loss is looked at elsewhere than at w"

    def test_zero_gradient_leaves_the_weights_where_they_are(self) -> None:
        model = make_network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        step = self._step(model, optimizer, loss=lambda outputs, targets: outputs.sum() * 0.0)
        before = flat_weights(model)
        for index in range(4):
            step(*batch(index))
        assert torch.equal(flat_weights(model), before), "a gradient of 0 moved the weights"
        metrics = step.epoch_metrics()
        assert metrics["skipped_steps"] == 0, "a gradient of 0 made a number that is not finite"
        assert all(math.isfinite(value) for value in metrics.values())

    def test_a_frozen_parameter_is_not_moved_at_all(self) -> None:
        model = make_network()
        frozen = next(model.parameters()).requires_grad_(False)
        before = frozen.clone()
        seen: list[bool] = []
        model.register_forward_pre_hook(lambda *_: seen.append(torch.equal(frozen, before)))
        step = self._step(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        for index in range(4):
            step(*batch(index))
        assert all(seen)
        assert torch.equal(frozen, before)
        assert not torch.equal(flat_weights(model), flat_weights(make_network()))

    def test_a_parameter_without_gradient_is_not_decayed(self) -> None:
        """As in the base optimizer, which skips a parameter whose .grad is None."""
        model = make_network(unused=True)
        step = self._step(model, make_optimizer(model))
        for index in range(4):
            step(*batch(index))
        assert torch.equal(model.unused, torch.ones(4, dtype=torch.float64))
        assert not torch.equal(next(model.layers.parameters()), next(make_network().parameters()))

    def test_an_empty_parameter_group_changes_nothing(self) -> None:
        def final(empty: bool) -> Tensor:
            model = make_network()
            parameters: list[dict[str, Any]] = [{"params": list(model.parameters())}]
            if empty:
                parameters.insert(0, {"params": []})
            step = self._step(model, torch.optim.SGD(parameters, lr=0.1, momentum=0.9))
            for index in range(4):
                step(*batch(index))
            return flat_weights(model)

        assert torch.equal(final(empty=True), final(empty=False))

    # -- passes ------------------------------------------------------------------------------------------------------

    def test_rho_zero_is_the_base_optimizer_bit_for_bit(self) -> None:
        if not self.is_sgd_at_rho_zero:
            return
        method, passes = self._state_after_four_steps(rho=0.0, m=2)
        model = make_network(torch.float32, batch_norm=True)
        optimizer = make_optimizer(model)
        for index in range(4):
            inputs, targets = batch(index, dtype=torch.float32)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        assert torch.equal(method, _everything_of(model))
        assert passes == 1.0

    def test_number_of_passes_is_as_declared(self) -> None:
        model = make_network()
        step = self._step(model, make_optimizer(model), m=4)
        forwards: list[int] = []
        model.register_forward_pre_hook(lambda module, inputs: forwards.append(len(inputs[0])))
        for index in range(4):
            step(*batch(index))
        if self.passes_per_step is None:
            return
        assert_close(step.passes, self.passes_per_step)
        made = sum(forwards) / BATCH_SIZE / 4
        assert_close(made, self.passes_per_step if self.forwards_per_step is None else self.forwards_per_step)

    # -- precision ---------------------------------------------------------------------------------------------------

    def test_dtype_is_kept(self) -> None:
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            model = make_network(dtype)
            step = self._step(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
            for index in range(2):
                step(*batch(index, dtype=dtype))
            assert {p.dtype for p in model.parameters()} == {dtype}
            assert torch.isfinite(flat_weights(model)).all()

    def test_mixed_precision_stays_close_and_keeps_float32_weights(self) -> None:
        def final(precision: Literal["fp32", "bf16", "fp16"]) -> Tensor:
            model = make_network(torch.float32)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
            step = self._step(model, optimizer, precision=precision)
            for index in range(4):
                step(*batch(index, dtype=torch.float32))
            assert step.epoch_metrics()["skipped_steps"] == 0
            return flat_weights(model)

        exact = final("fp32")
        change = (exact - flat_weights(make_network(torch.float32))).norm()
        for precision, share in (("bf16", 0.1), ("fp16", 0.03)):
            found = final(precision)  # type: ignore[arg-type]
            assert found.dtype == torch.float32
            assert (found - exact).norm() < share * change
            assert not torch.equal(found, exact)

    def test_a_gradient_that_is_not_finite_skips_the_step(self) -> None:
        """Nothing of the step stays: weights, momentum, running statistics; the next step is taken."""
        for when in ("input", "first", "second"):
            if when != "second" or (self.passes_per_step is not None and self.passes_per_step >= 2):
                self._skip(when)

    # -- state -------------------------------------------------------------------------------------------------------

    def test_resumed_equals_uninterrupted_bit_for_bit(self) -> None:
        def make() -> tuple[nn.Module, TrainStep]:
            model = make_network(torch.float32, batch_norm=True, dropout=0.2)
            return model, self._step(model, make_optimizer(model))

        model, step = make()
        for index in range(6):
            step(*batch(index, dtype=torch.float32))
        first, first_step = make()
        for index in range(3):
            first_step(*batch(index, dtype=torch.float32))
        second = make_network(torch.float32, batch_norm=True, dropout=0.2)
        loss, optimizer = nn.CrossEntropyLoss(), make_optimizer(second)
        resumed = TrainStep(second, loss, optimizer, self.method, batch_size=BATCH_SIZE, seed=3)
        second.load_state_dict(first.state_dict())
        resumed.load_state_dict(first_step.state_dict())
        resumed.begin_epoch(0, 1, steps_per_epoch=4, steps_done=3)
        for index in range(3, 6):
            resumed(*batch(index, dtype=torch.float32))
        assert torch.equal(flat_weights(second), flat_weights(model)), "state_dict does not hold all of the method"
        assert resumed.num_steps == 6

    def test_nothing_is_left_behind(self) -> None:
        """A worker process trains hundreds of trials: a step and its model can be collected."""
        model = make_network()
        step = self._step(model, make_optimizer(model))
        step(*batch(0))
        dead: tuple[weakref.ref[Any], ...] = (weakref.ref(step), weakref.ref(model))
        del step, model
        gc.collect()
        assert [ref() for ref in dead] == [None, None]

    # -- batches -----------------------------------------------------------------------------------------------------

    def test_accumulating_two_batches_is_the_step_of_one_of_both(self) -> None:
        def final(size: int, accumulate: int) -> Tensor:
            # Without a perturbation a forward runs on a worker's whole batch, and the masks of dropout would differ.
            model = make_network(dropout=0.2 if self.perturbs else 0.0)
            step = TrainStep(
                model,
                nn.CrossEntropyLoss(),
                make_optimizer(model),
                Varied(self.method, m=4),
                batch_size=size,
                accumulate=accumulate,
                seed=3,
            )
            step.begin_epoch(0, 1, steps_per_epoch=3, examples=examples)
            for index in range(3):
                inputs, targets = batch(index, 32)
                for x, y in zip(torch.split(inputs, size), torch.split(targets, size), strict=True):
                    step(x, y)
            assert step.num_steps == 3
            return flat_weights(model)

        assert_close(final(16, 2), final(32, 1), **ROUNDING)

    def test_clipping_bounds_the_direction(self) -> None:
        model = make_network()
        try:
            step = self._step(model, torch.optim.SGD(model.parameters(), lr=1.0), clip_norm=0.01)
        except ValueError:
            return  # the method needs momentum, which mixes in earlier directions
        before = flat_weights(model)
        step(*batch(0))
        assert_close((before - flat_weights(model)).norm().item(), 0.01, rtol=1e-5, atol=0.0)

    # -- helpers -----------------------------------------------------------------------------------------------------

    def _step(self, model: nn.Module, optimizer: torch.optim.Optimizer, **options: Any) -> TrainStep:
        method = Varied(self.method, options.pop("m", None), options.pop("rho", None))
        loss = options.pop("loss", nn.CrossEntropyLoss())
        step = TrainStep(model, loss, optimizer, method, batch_size=BATCH_SIZE, seed=3, **options)
        step.begin_epoch(0, 1, steps_per_epoch=4, examples=partial(examples, dtype=step.parameters[0].dtype))
        return step

    def _state_after_four_steps(self, **options: Any) -> tuple[Tensor, float]:
        model = make_network(torch.float32, batch_norm=True)
        step = self._step(model, make_optimizer(model), **options)
        for index in range(4):
            step(*batch(index, dtype=torch.float32))
        return _everything_of(model), step.passes

    def _skip(self, when: str) -> None:
        model = make_network(batch_norm=True)
        optimizer = make_optimizer(model)
        step = self._step(model, optimizer)

        def everything() -> Tensor:
            momenta = [optimizer.state[p]["momentum_buffer"].flatten() for p in step.parameters]
            return torch.cat([_everything_of(model), *momenta])

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
        assert torch.equal(everything(), before), f"a step that is not finite ({when}) left something behind"
        step(*batch(2))
        assert torch.isfinite(everything()).all()
        assert not torch.equal(everything(), before)
        assert step.epoch_metrics()["skipped_steps"] == 1


def _everything_of(model: nn.Module) -> Tensor:
    """Weights and floating-point buffers."""
    buffers = [buffer.flatten() for buffer in model.buffers() if buffer.is_floating_point()]
    return torch.cat([flat_weights(model), *buffers])
