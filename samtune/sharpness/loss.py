"""The mean loss over a data set as a function of the weights: its value, gradient and Hessian-vector products."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from samtune.errors import UsageError, one_line
from samtune.sam import tree
from samtune.sam.gradients import gradients_of
from samtune.sam.running_state import RunningState
from samtune.sam.weights import Weights

LossFn = Callable[[Any, Any], Tensor]
"""(outputs, targets) -> a scalar, the mean over the examples."""
Batches = Iterable[tuple[Any, Any]]
"""(inputs, targets): tensors, in dicts, lists and tuples, whose first dimension is the examples; can be gone through
again and again. A dict of inputs is passed as keyword arguments; of targets None, the loss gets the inputs instead."""

_Graph = tuple[int, tuple[Tensor, ...]]  # examples of a batch, and the gradient with its graph

FORWARD = 1 / 3  # of a pass: a backward costs about two forwards
CHECKED = 8  # examples on which second derivatives are tried first
KEPT_BYTES = 2**30
"""Graphs of first derivatives that are kept from one Hessian-vector product to the next, if all of them fit in this: a
product then costs two passes. Without, its batches' forwards and first backwards are recomputed: half as much again."""


class NotTwiceDifferentiableError(UsageError):
    """The loss has no second derivative that autograd could compute; the message says why."""


class MeanLoss:
    """L(w), the mean loss of a model over all examples of all ranks, w being its trainable weights as one vector.

    Call its methods inside `with mean_loss.fixed():`. Vectors are flat: [d], in the order of `model.parameters()`.

    Args:
        model: whose parameters that require a gradient are w. All must be on one device and of one dtype.
        loss_fn: mean over the examples of a batch.
        batches: this rank's share of the examples; a rank's share may be empty.
        group: process group of the ranks that share the data; None: this process has it all.

    Attributes:
        passes: what the calls so far have cost, see `Estimate.passes`.

    Raises:
        UsageError: `batches` can be gone through only once, or there is nothing to differentiate by.
    """

    def __init__(
        self, model: nn.Module, loss_fn: LossFn, batches: Batches, *, group: dist.ProcessGroup | None = None
    ) -> None:
        if isinstance(batches, Iterator):
            raise UsageError(
                f"batches must be re-iterable, such as a list or a DataLoader (got a {type(batches).__name__}, which "
                "can be gone through once)"
            )
        self.model, self.loss_fn, self.batches, self.group = model, loss_fn, batches, group
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        kinds = {(parameter.dtype, parameter.device) for parameter in self.parameters}
        if len(kinds) != 1:
            what = ", ".join(f"{dtype} on {device}" for dtype, device in kinds) or "none"
            raise UsageError(f"the model's trainable parameters must be of one dtype on one device (they are: {what})")
        ((self.dtype, self.device),) = kinds
        self.sizes = [parameter.numel() for parameter in self.parameters]
        self.num_weights = sum(self.sizes)
        self.passes = 0.0
        try:
            self.weights = Weights(self.parameters)
        except ValueError as error:  # sharded or complex
            raise UsageError(str(error)) from error
        self._autocast: AbstractContextManager[Any] = nullcontext()
        self._num_examples: int | None = None
        self._checked = False
        self._bytes_per_example = 0.0  # of a graph; known once second derivatives were tried
        self._kept: list[_Graph] | None = None

    @contextmanager
    def fixed(self) -> Iterator[None]:
        """The model is in eval mode and computes eagerly; afterwards modes, weights and buffers are as they were.

        In a region of `torch.autocast` the model and the loss alone run in its precision.
        """
        modes = [(module, module.training) for module in self.model.modules()]
        state = RunningState(self.model.modules()).save()  # InstanceNorm without statistics, a layer of a user's
        with ExitStack() as stack:
            # Neither the fused attention kernels nor compiled code can be differentiated twice.
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if any(getattr(module, "_compiled_call_impl", None) for module, _ in modes):
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(self.weights.held())
            stack.enter_context(self._autocast_left_to_the_model())
            stack.enter_context(torch.enable_grad())
            self.model.eval()
            try:
                yield
            finally:
                self._kept = None
                state.restore()
                for module, training in modes:
                    module.training = training

    @contextmanager
    def _autocast_left_to_the_model(self) -> Iterator[None]:
        kind = self.device.type
        if not torch.is_autocast_enabled(kind):
            yield
            return
        dtype = torch.get_autocast_dtype(kind)
        with torch.autocast(kind, enabled=False):
            # Without its cache: it would keep weights from before a perturbation, and such without a gradient.
            self._autocast = torch.autocast(kind, dtype=dtype, cache_enabled=False)
            try:
                yield
            finally:
                self._autocast = nullcontext()
                torch.clear_autocast_cache()

    def over(self, batches: Batches) -> Self:
        """The same loss over other examples, of this process alone. Inside this one's `fixed`, it is fixed too."""
        other = copy.copy(self)
        other.batches, other.group, other.passes = batches, None, 0.0
        other._num_examples, other._kept = None, None
        return other

    @property
    def num_examples(self) -> int:
        """Over all ranks. Counted once."""
        if self._num_examples is None:
            sizes = [tree.num_examples(batch) for batch in self.batches]
            self._num_own_examples, self._num_own_batches = sum(sizes), len(sizes)
            self._num_examples = int(self.sum_over_ranks(torch.tensor(sum(sizes), device=self.device)))
            if self._num_examples == 0:
                raise UsageError("batches: holds no example")
        return self._num_examples

    def sum_over_ranks(self, value: Tensor) -> Tensor:
        """Sums a tensor, in place, over the ranks."""
        if self.group is not None:
            dist.all_reduce(value, group=self.group)
        return value

    def flatten(self, tensors: Iterable[Tensor]) -> Tensor:
        """Tensors of the parameters' shapes as one vector."""
        return torch.cat([tensor.reshape(-1) for tensor in tensors])

    def unflatten(self, vector: Tensor) -> list[Tensor]:
        """A vector as views of the parameters' shapes."""
        parts = torch.split(vector, self.sizes)
        return [part.view(parameter.shape) for part, parameter in zip(parts, self.parameters, strict=True)]

    def batch_loss(self, inputs: Any, targets: Any) -> Tensor:
        """The mean loss of one batch."""
        with self._autocast:
            inputs, targets = tree.map_tensors(lambda t: t.to(self.device, non_blocking=True), (inputs, targets))
            return self.loss_fn(tree.call(self.model, inputs), tree.for_loss(inputs, targets))

    @torch.no_grad()
    def value(self) -> float:
        """L(w). Costs a forward."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for inputs, targets in self.batches:
            total += tree.num_examples((inputs, targets)) * self.batch_loss(inputs, targets).double()
        self.passes += FORWARD
        return float(self.sum_over_ranks(total)) / self.num_examples

    def value_and_gradient(self) -> tuple[float, Tensor]:
        """L(w) and ∇L(w), [d]. Costs a pass."""
        value = torch.zeros((), dtype=torch.float64, device=self.device)
        gradient = torch.zeros(self.num_weights, dtype=self.dtype, device=self.device)
        for inputs, targets in self.batches:
            loss = self.batch_loss(inputs, targets)
            size = tree.num_examples((inputs, targets))
            gradient += size * self.flatten(self._gradient(loss))
            value += size * loss.detach().double()
        self.passes += 1
        self.sum_over_ranks(value)
        return float(value) / self.num_examples, self.sum_over_ranks(gradient) / self.num_examples

    def hessian_products(self, vectors: Tensor) -> Tensor:
        """H·v for several vectors at once, [k, d] -> [k, d]. Counted as 1 + 2k passes.

        The vectors share forward and first backward of each batch; where the graphs of all batches fit in KEPT_BYTES,
        or there is one batch, so do all calls inside one `fixed`, which saves the 1. Memory beyond that and k·d: one
        batch's graph.

        Before the first product, second derivatives are tried on a few examples: they must exist and be symmetric.
        What cannot be found out: a loss with kinks (ReLU, max pooling, L1), whose Hessian is taken to be that of its
        smooth pieces; a straight-through estimator, whose Hessian is that of the function that its backward belongs
        to; and a loss function, not a layer, whose backward is cut off from the graph by hand.

        Raises:
            NotTwiceDifferentiableError: autograd cannot differentiate the loss twice.
        """
        if not self._checked:
            self._check_twice_differentiable()
        num_examples = self.num_examples
        total = torch.zeros_like(vectors)
        if self._kept is None and self._fits():
            self._kept = list(self._graphs())
        for size, gradient in self._kept or self._graphs():
            total += size * self._products(gradient, vectors, keep=self._kept is not None)
        self.passes += 1 + 2 * len(vectors)  # the same for any number of ranks, so without what is saved
        return self.sum_over_ranks(total) / num_examples

    def _graphs(self) -> Iterator[_Graph]:
        for inputs, targets in self.batches:
            yield tree.num_examples((inputs, targets)), self._gradient(self.batch_loss(inputs, targets), twice=True)

    def _fits(self) -> bool:
        """Whether the graphs of all batches of this rank may stay in memory."""
        gradients = self._num_own_batches * self.num_weights * self.dtype.itemsize
        graphs = self._num_own_examples * self._bytes_per_example
        return self._num_own_batches == 1 or gradients + graphs <= KEPT_BYTES

    def _gradient(self, loss: Tensor, twice: bool = False) -> tuple[Tensor, ...]:
        try:
            gradients = gradients_of(loss, self.parameters, create_graph=twice)
        except ValueError as error:  # a checkpoint that cannot do this
            raise UsageError(str(error)) from error
        return tuple(torch.zeros_like(p) if g is None else g for g, p in zip(gradients, self.parameters, strict=True))

    def _products(self, gradient: tuple[Tensor, ...], vectors: Tensor, *, keep: bool) -> Tensor:
        depends = [g.requires_grad for g in gradient]
        outputs = [g for g in gradient if g.requires_grad]
        products = []
        for index, vector in enumerate(vectors):
            product = torch.autograd.grad(
                outputs,
                self.parameters,
                [part for part, use in zip(self.unflatten(vector), depends, strict=True) if use],
                retain_graph=keep or index < len(vectors) - 1,
                allow_unused=True,
                materialize_grads=True,
            )
            products.append(self.flatten(product))
        return torch.stack(products)

    def _check_twice_differentiable(self) -> None:
        """Tries it on a few examples; where one rank must refuse, all do."""
        problem = ""
        for inputs, targets in self.batches:
            problem = self._problem(*tree.take((inputs, targets), slice(CHECKED)))
            break
        failed = torch.tensor(float(bool(problem)), device=self.device)
        if self.sum_over_ranks(failed):
            raise NotTwiceDifferentiableError(
                f"the loss cannot be differentiated twice: {problem or 'so it was found on another rank'}"
            )
        self._checked = True

    def _problem(self, inputs: Any, targets: Any) -> str:
        with _counting_saved_bytes(self.parameters) as saved:
            gradient = self._gradient(self.batch_loss(inputs, targets), twice=True)
        self._bytes_per_example = sum(saved.values()) / tree.num_examples((inputs, targets))
        if not any(part.requires_grad for part in gradient):
            return (
                "its gradient does not depend on the weights (it is linear in them, or part of the model computes its "
                "own gradient without a graph)"
            )
        if has_error_node(gradient):
            return "part of it has a backward that is marked as once_differentiable"
        generator = torch.Generator(self.device).manual_seed(0)
        shape = (2, self.num_weights)
        probes = torch.randn(shape, dtype=self.dtype, device=self.device, generator=generator)
        try:
            images = self._products(gradient, probes, keep=False)
        except RuntimeError as error:  # NotImplementedError is one too
            if isinstance(error, torch.OutOfMemoryError):
                raise
            return one_line(error)
        difference = abs(float(probes[0] @ images[1] - probes[1] @ images[0]))
        if difference > 50 * torch.finfo(self.dtype).eps ** 0.5 * float(images.norm()):
            return (
                "the derivative of its gradient is not symmetric, so the backward of some part is cut off from the "
                "graph"
            )
        return ""


@contextmanager
def _counting_saved_bytes(parameters: Iterable[Tensor]) -> Iterator[dict[int, int]]:
    """What the graphs that are made inside keep in memory: bytes by storage, without the parameters' own."""
    own = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


def has_error_node(tensors: Iterable[Tensor]) -> bool:
    """Whether the graph behind tensors has a node that only raises; autograd passes it by without a word if, as
    behind `once_differentiable`, no weights lie beyond it."""
    waiting = [tensor.grad_fn for tensor in tensors]
    seen = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().endswith(("Error", "NotImplemented")):
            return True
        waiting += [following for following, _ in node.next_functions]
    return False
