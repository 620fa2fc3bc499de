"""One m-group of a step: its loss as a function of the weights, and its share of the update direction."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from samtune.sam import tree, vectors
from samtune.sam.gradients import gradients_of
from samtune.sam.randomness import make_generator
from samtune.sam.running_state import SavedState
from samtune.sam.shards import local

if TYPE_CHECKING:
    from samtune.sam.train_step import TrainStep


FORWARD = 1 / 3
"""Of a pass: a backward costs about two forwards."""


class MGroup:
    """What a rule works with. Every forward runs on the same examples with the same random numbers.

    Args:
        step: the step this is a part of.
        inputs, targets: this worker's examples of the group; see `TrainStep`.
        index: of the group's forward among those of this worker's step, accumulated batches included.
        rho: radius at this step.
    """

    def __init__(self, step: TrainStep, inputs: Any, targets: Any, *, index: int, rho: float) -> None:
        self.rho = rho
        self.losses: list[Tensor] = []
        """Losses of the forwards so far, detached scalars. The first is the one that updates running statistics."""
        self.gradient_norm: Tensor | None = None
        """‖g‖₂ of the ascent gradient, set by the rule."""
        self.outputs: list[Tensor] = []
        """Of the first and the last of these forwards, detached; empty where there is neither a tensor nor logits."""
        self.has_share = False
        """Whether the group has added to the update direction."""
        self.targets = tree.for_loss(inputs, targets)
        self._perturbation: Sequence[Tensor] | None = None
        self._scale: Tensor | float | None = None  # that the perturbation is yet to be multiplied by
        self._last_outputs: Any
        self._step = step
        self._inputs = inputs
        self._index = index
        self._state: SavedState | None = None

    # -- losses and gradients ----------------------------------------------------------------------------------------

    def gradient(self, *, shared: bool = True, only: Sequence[int] | None = None) -> list[Tensor]:
        """∇L_S at the present weights, one new tensor per parameter (zeros for a parameter that the loss ignores).

        Through the bare module: DistributedDataParallel's hooks never see it, so nothing is averaged by accident. It
        communicates only where the group spans several workers (m > b).

        Args:
            shared: False leaves out that average: the gradient of this worker's examples of the group.
            only: positions of the parameters whose gradient is computed; the others' is 0. None: all.
        """
        gradients = self._local_gradient(self._loss(self._step.model), only)
        self._unscale_(gradients)
        return self._shared(gradients) if shared else gradients

    def hessian_vector_product(self, vector: list[Tensor]) -> list[Tensor]:
        """H·v, H the Hessian of L_S at the present weights, averaged over the workers that share the group."""
        step = self._step
        loss = step.scaled(self._loss(step.model, record=False))
        gradients = gradients_of(loss, step.parameters, create_graph=True)
        # The gradient need not depend on the weights: a parameter unused, a loss linear in it.
        pairs = [(g, v) for g, v in zip(gradients, vector, strict=True) if g is not None and g.requires_grad]
        product = [torch.zeros_like(parameter) for parameter in step.parameters]
        if pairs:
            outputs, directions = zip(*pairs, strict=True)
            product = vectors.dense(
                torch.autograd.grad(outputs, step.parameters, directions, allow_unused=True, materialize_grads=True)
            )
        step.count_pass(2.0)
        self._unscale_(product)
        return self._shared(product)

    @torch.no_grad()
    def forward(self) -> Any:
        """What the model returns at the present weights, of a forward alone, which counts as a third of a pass."""
        self._loss(self._step.model)
        self._step.count_pass(FORWARD)
        return self._last_outputs

    @torch.no_grad()
    def forward_at(self, weights: Sequence[Tensor]) -> Tensor:
        """As `forward` at other weights; leaves the weights at w, and metrics and running statistics as they were."""
        step = self._step
        own = step.state.save()
        step.weights.perturb(vectors.difference(weights, step.parts))
        self._loss(step.model, record=False)
        own.restore()
        self.restore()
        step.count_pass(FORWARD)
        return tree.output_tensor(self._last_outputs)

    def example_losses(self) -> Tensor:
        """The loss of each of this worker's examples [b], by the outputs of the last forward."""
        step = self._step
        outputs = tree.map_tensors(_detached, self._last_outputs)
        try:
            tree.num_examples(outputs)
        except ValueError as error:
            problem = "this method weighs examples, and needs a model that returns tensors [examples, ...]"
            raise ValueError(f"{problem}: {error}") from error

        def one(output: Any, target: Any) -> Tensor:
            return step.loss_fn(*tree.map_tensors(lambda tensor: tensor[None], (output, target)))

        losses: Tensor = torch.func.vmap(one)(outputs, self.targets)
        return losses

    def mean_over_workers(self, value: Tensor) -> Tensor:
        """A number of this worker's examples, averaged over the workers that share the group."""
        workers = self._step.layout.workers_per_group
        if workers == 1:
            return value
        value = value.clone()
        dist.all_reduce(value, group=ascent_group(workers))
        return value / workers

    # -- where the share goes ----------------------------------------------------------------------------------------

    def descend(
        self,
        scale: float | Tensor | Callable[[Tensor], Tensor] = 1.0,
        *,
        penalty: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Adds scale · ∇L_S at the present weights to the update direction: the last forward and backward.

        Args:
            scale: a number, or a function that gives it from the loss.
            penalty: a function that gives from the outputs what is added to the loss before the backward.
        """
        step = self._step
        self.has_share = True
        loss = self._loss(step.outer_module(self._index), ascent=False)
        loss = loss if penalty is None else loss + penalty(tree.output_tensor(self._last_outputs))
        factor = scale(loss.detach()) if callable(scale) else scale
        if isinstance(factor, Tensor) or factor != step.num_forwards:
            loss = loss * factor / step.num_forwards
        step.scaled(loss).backward()  # type: ignore[no-untyped-call]
        step.count_pass()

    def descend_on_largest(self, values: Tensor, share: float) -> None:
        """`descend` with those of the group's examples alone whose values are largest, with equal weights.

        Args:
            values: of this worker's examples of the group, [b].
            share: of the group's examples, rounded to at least one.
        """
        step = self._step
        self.has_share = True
        workers, size = step.layout.workers_per_group, len(values)
        place = step.layout.rank % workers
        if workers > 1:
            every = [torch.empty_like(values) for _ in range(workers)]
            dist.all_gather(every, values.contiguous(), group=ascent_group(workers))
            values = torch.cat(every)
        count = max(1, round(share * len(values)))
        rows = values.topk(count).indices.sort().values - place * size
        if workers > 1:
            rows = rows[(rows >= 0) & (rows < size)]
        weight = len(rows) * workers / count
        rows = rows if len(rows) else torch.zeros(1, dtype=rows.dtype, device=rows.device)  # DDP needs a backward
        loss = self._loss(step.outer_module(self._index), ascent=False, rows=rows)
        step.scaled(loss * weight / step.num_forwards).backward()  # type: ignore[no-untyped-call]
        step.count_pass(count / len(values))

    def contribute(self, direction: Sequence[Tensor], scale: float | Tensor = 1.0) -> None:
        """Adds scale · direction to the update direction, without a backward."""
        step = self._step
        self.has_share = True
        if step.guard is not None:
            step.guard.check_vector("contribute", direction)
        # Not a 32-bit scalar for 64-bit weights: it would round the scale.
        wide = torch.promote_types(torch.float32, direction[0].dtype) if direction else torch.float32
        factor = step.scaled(torch.ones((), dtype=wide, device=step.device)) * scale / step.num_forwards
        step.add_to_gradients(vectors.scaled(direction, factor))

    # -- perturbations -----------------------------------------------------------------------------------------------

    def perturb(self, perturbation: Sequence[Tensor], scale: Tensor | float | None = None) -> None:
        """Moves the weights to w + F·ε̂, F the diagonal of the parameter groups' `rho_factor` (1 where they have none).

        The rule's ε̂ is left as it is: its norms, and the projections of further ascent steps, are those before F.

        Args:
            perturbation: ε̂; with a scale, a vector that the rule is done with.
            scale: times the perturbation is ε̂: it saves a pass over the memory.
        """
        if self._step.guard is not None:
            self._step.guard.check_vector("perturb", perturbation)
        self._perturbation, self._scale = perturbation, scale
        if (factors := self._step.rho_factors) is not None:
            self._perturbation = [part * factor for part, factor in zip(perturbation, factors, strict=True)]
        if self._step.device.type != "cpu":
            self._multiply_out()
        self._move(self._perturbation, self._scale, is_spent=scale is not None)

    @property
    def perturbation(self) -> Sequence[Tensor] | None:
        """The last ε̂; None after `perturb` with a scale, but for a step in which metrics need it."""
        self._multiply_out()
        return self._perturbation

    @torch.no_grad()
    def _multiply_out(self) -> None:
        if self._perturbation is not None and self._scale is not None:
            vectors.scale_(self._perturbation, self._scale)
            self._scale = None

    def restore(self) -> None:
        """Moves the weights back to w."""
        self._step.weights.restore()

    def settle(self) -> None:
        """Puts running state back to what the group's first forward left: the examples count once.

        Other forwards normalise with the batch's statistics too, but what they update is undone; and so is what a
        backward updates that recomputes a checkpointed forward.
        """
        if self._state is not None:
            self._state.restore()

    def generator(self, purpose: str) -> torch.Generator:
        """Random numbers for this group of this step: the same for all workers that share it, and for any P."""
        step = self._step
        layout = step.layout
        forwards_per_batch = layout.num_micro_groups
        call, within = divmod(self._index, forwards_per_batch)
        group = call * layout.num_groups + layout.first_group + within
        return make_generator(step.device, purpose, step.seed, step.num_steps, group)

    def host_generator(self, purpose: str) -> torch.Generator:
        """Random numbers on the host for this step: the same for all of its groups and workers."""
        return make_generator(torch.device("cpu"), purpose, self._step.seed, self._step.num_steps)

    def momentum(self) -> list[Tensor]:
        """A copy of the base optimizer's mean of past gradients; zeros where it has none yet."""
        state = self._step.optimizer.state
        found = [
            next((v for k, v in state[p].items() if k in ("momentum_buffer", "exp_avg") and v is not None), None)
            for p in self._step.parameters
        ]
        return [
            torch.zeros_like(part) if value is None else local([value])[0].clone()
            for value, part in zip(found, self._step.parts, strict=True)
        ]

    @property
    def progress(self) -> float:
        """Share of the training that is done, in [0, 1]."""
        return self._step.progress

    @property
    def num_steps(self) -> int:
        """Steps of the optimizer before this one."""
        return self._step.num_steps

    @property
    def num_method_steps(self) -> int:
        """Steps of the method before this one; the base optimizer's in between are not among them."""
        return self._step.num_method_steps

    @property
    def num_forwards(self) -> int:
        """Groups of this worker that are averaged into one update."""
        return self._step.num_forwards

    def observe(self, name: str, value: Tensor) -> None:
        """Adds a number to a mean over the epoch."""
        self._step.diagnostics.add(name, value)

    # -- internals ---------------------------------------------------------------------------------------------------

    def _loss(
        self, module: nn.Module, *, ascent: bool = True, record: bool = True, rows: Tensor | None = None
    ) -> Tensor:
        """The mean loss at the present weights, of some rows of the group's examples or of all."""
        step = self._step
        step.noise.use_true_gradient(ascent)
        first = record and not self.losses
        statistics = step.statistics.update(self._index, step.num_forwards) if first else nullcontext()
        layout = step.layout
        call, within = divmod(self._index, layout.num_micro_groups)
        forward = call * layout.num_workers * layout.num_micro_groups + layout.first_forward + within
        step.noise.seed("forward", step.seed, step.num_steps, forward)
        inputs, targets = self._inputs, self.targets
        if rows is not None:
            inputs, targets = tree.take((inputs, targets), rows)
        with statistics, step.autocast():
            outputs = tree.call(module, inputs)
            loss: Tensor = step.loss_fn(outputs, targets)
        self._last_outputs = outputs
        main = tree.main_output(outputs)
        if first:
            self._state = step.state.save()
        if record:
            self._note_forward(loss, main, whole=rows is None)
        return loss

    def _note_forward(self, loss: Tensor, outputs: Any, *, whole: bool = True) -> None:
        """A forward's loss, and the main output; `whole`: for all of the group's examples."""
        if not self.losses:
            self._step.diagnostics.add_forward(outputs, self.targets, loss)
        self.losses.append(loss.detach())
        if whole:
            self.outputs = [*self.outputs[:1], outputs.detach()] if isinstance(outputs, Tensor) else []

    def _move(self, perturbation: Sequence[Tensor], scale: Tensor | float | None, *, is_spent: bool) -> None:
        self._step.weights.perturb(perturbation, scale)
        if is_spent and not self._step.looks_at_perturbations:
            self._perturbation = self._scale = None  # the next backward may have its memory

    def _local_gradient(self, loss: Tensor, only: Sequence[int] | None) -> list[Tensor]:
        step = self._step
        gradients = step.gradients_of(step.scaled(loss), only)
        step.count_pass()
        step.note_used(gradients)
        return [
            torch.zeros_like(part) if gradient is None else gradient
            for gradient, part in zip(gradients, step.parts, strict=True)
        ]

    def _unscale_(self, gradients: list[Tensor]) -> None:
        inverse = self._step.inverse_scale()
        if inverse is not None:
            vectors.scale_(gradients, inverse)

    def _shared(self, gradients: list[Tensor]) -> list[Tensor]:
        workers = self._step.layout.workers_per_group
        if workers > 1 and self._step.shards is None:
            vectors.average_(gradients, workers, ascent_group(workers))
        return gradients


def _detached(tensor: Tensor) -> Tensor:
    """Without a graph, with at least 32 bits."""
    tensor = tensor.detach()
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


# -- process sub-groups ------------------------------------------------------------------------------------------------

# A worker process trains one trial after another in one process group; a sub-group costs a rendezvous and, with NCCL,
# device memory, so it is made once and kept as long as the process group itself.
_made: dict[int, dist.ProcessGroup] = {}
_made_in: weakref.ref[dist.ProcessGroup] | None = None


def ascent_group(num_workers: int) -> dist.ProcessGroup:
    """This rank's block of `num_workers` neighbouring ranks. The first call for a number is a collective."""
    global _made_in
    world = dist.group.WORLD
    assert world is not None, "torch.distributed is not initialised"
    if _made_in is None or _made_in() is not world:
        _made.clear()
        _made_in = weakref.ref(world)
    if num_workers not in _made:
        _made[num_workers] = world if num_workers == dist.get_world_size() else dist.new_subgroups(num_workers)[0]
    return _made[num_workers]
