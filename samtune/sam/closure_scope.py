"""What a closure works with: an optimizer knows parameters, and finds the modules and loss scalers by the closure."""

from __future__ import annotations

import functools
import gc
import types
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from samtune.sam.local_gradients import several_workers

_MAX_DEPTH = 5  # from a closure to the model: a bound method, its object, a dictionary, a list are four
_MAX_OBJECTS = 5000
_OPAQUE = (str, bytes, int, float, bool, type(None), type, Tensor, torch.optim.Optimizer, torch.device, torch.dtype)
_WANTED = (nn.Module, torch.amp.GradScaler)


class ClosureScope:
    """The modules and loss scalers that a closure can reach through its variables, arguments and attributes.

    Global forward hooks would see the modules too, but torch recompiles compiled code for every new hook.

    Args:
        closure: of `step`.
        parameters: of the optimizer. Modules that own one of them are found even if the closure hides them, and so is
            the DistributedDataParallel around a module, which Lightning's closure reaches only through its trainer.
    """

    def __init__(self, closure: Callable[[], Any], parameters: Sequence[Tensor]) -> None:
        roots: list[nn.Module] = []
        self.scalers: list[torch.amp.GradScaler] = []
        for found in _reachable(closure):
            if isinstance(found, nn.Module):
                roots.append(found)
            else:
                self.scalers.append(found)
        known = {id(parameter) for root in roots for parameter in root.parameters()}
        hidden = [parameter for parameter in parameters if id(parameter) not in known]
        if hidden:
            roots += _owners(hidden)
        roots += _wrappers({id(module) for root in roots for module in root.modules()})
        self.modules = list({id(module): module for root in roots for module in root.modules()}.values())
        self.names = {id(parameter): name for root in roots for name, parameter in root.named_parameters()}
        """Of parameters, by id, as their model calls them."""


def key_of(closure: Callable[[], Any]) -> tuple[int, ...]:
    """Changes with the code of a closure and the modules it names, not with the batch it is made for."""
    function: Any = closure
    key: list[int] = []
    while not isinstance(function, types.FunctionType):
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, types.MethodType):
            key.append(id(function.__self__))
            function = function.__func__
        else:
            return (*key, id(function))
    watched = [value for value in _variables(function) if issubclass(type(value), _WANTED)]
    return (*key, id(function.__code__), *map(id, watched))


def _reachable(closure: Callable[[], Any]) -> Iterator[Any]:
    waiting: deque[tuple[Any, int]] = deque([(closure, 0)])
    seen: set[int] = set()
    while waiting and len(seen) < _MAX_OBJECTS:
        value, depth = waiting.popleft()
        if id(value) in seen or issubclass(type(value), _OPAQUE):
            continue
        seen.add(id(value))
        if issubclass(type(value), _WANTED):
            yield value
        elif depth < _MAX_DEPTH:
            waiting.extend((child, depth + 1) for child in _children(value))


def _children(value: Any) -> Iterator[Any]:
    """What a value holds, as far as it may lead to a module."""
    if isinstance(value, types.FunctionType):
        yield from _variables(value)
    elif isinstance(value, types.MethodType):
        yield value.__self__
        yield value.__func__
    elif isinstance(value, functools.partial):
        yield value.func
        yield from value.args
        yield from value.keywords.values()
    elif isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value
    elif not isinstance(value, types.ModuleType) and not type(value).__module__.startswith("torch"):
        yield from getattr(value, "__dict__", {}).values()
        call = getattr(type(value), "__call__", None)  # noqa: B004  an object that is called: its function's variables
        if isinstance(call, types.FunctionType):
            yield call


def _variables(function: Any) -> Iterator[Any]:
    """The values of a function's free variables, defaults and those globals that its code names."""
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    yield from getattr(function, "__defaults__", None) or ()
    yield from (getattr(function, "__kwdefaults__", None) or {}).values()
    code, names = getattr(function, "__code__", None), getattr(function, "__globals__", {})
    for name in _names(code) if code is not None else ():
        value = names.get(name)
        if isinstance(value, types.ModuleType):  # package.model: what the code may take from it
            inside = vars(value)
            yield from (inside[other] for other in _names(code) if isinstance(inside.get(other), nn.Module))
        elif value is not None:
            yield value


@functools.lru_cache(maxsize=256)
def _names(code: types.CodeType) -> tuple[str, ...]:
    """The names in a function's code, with those of the functions inside it."""
    inner = [name for part in code.co_consts if isinstance(part, types.CodeType) for name in _names(part)]
    return tuple(dict.fromkeys((*code.co_names, *inner)))


def _wrappers(known: set[int]) -> list[nn.Module]:
    """Every living DistributedDataParallel around one of these modules that is not among them."""
    if not several_workers():
        return []
    living = [value for value in gc.get_objects() if issubclass(type(value), DistributedDataParallel)]
    return [wrapper for wrapper in living if id(wrapper) not in known and id(wrapper.module) in known]


def _owners(parameters: Sequence[Tensor]) -> list[nn.Module]:
    """The outermost living modules that hold parameters, among all modules of the process."""
    wanted = {id(parameter) for parameter in parameters}
    living = [value for value in gc.get_objects() if issubclass(type(value), nn.Module)]
    parents: dict[int, list[nn.Module]] = {}
    for module in living:
        for child in vars(module).get("_modules", {}).values():
            parents.setdefault(id(child), []).append(module)
    outermost: dict[int, nn.Module] = {}
    waiting = [m for m in living if any(id(p) in wanted for p in vars(m).get("_parameters", {}).values())]
    seen: set[int] = set()
    while waiting:
        module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        above = parents.get(id(module), [])
        waiting += above
        if not above:
            outermost[id(module)] = module
    return list(outermost.values())
