"""Arithmetic over a trial's keys, in expressions and constraints: `5e-4 * lr / 0.1`, `m <= batch_size // 2`.

Nothing is handed to Python's `eval`: the text is parsed, and only the nodes listed here are computed.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

from samtune.config.yaml_source import did_you_mean

Lookup = Callable[[str], Any]
"""Value of a name in an expression; raises Absent where the trial has no such key."""

_MOST_DIGITS = 308  # of a double; rounding to 10**9 digits could take for ever


def _round(value: Any, digits: Any = None) -> Any:
    if digits is not None and not -_MOST_DIGITS <= digits <= _MOST_DIGITS:
        raise ValueError(f"round takes at most {_MOST_DIGITS} digits (got {digits})")
    return round(value, digits)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "round": _round,
    **{name: getattr(math, name) for name in ("log", "log2", "log10", "exp", "sqrt", "floor", "ceil")},
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_LAMBDA = "_lambda_"  # stands for the key `lambda`, which Python's grammar takes for something else
_LONGEST = 1000
_DEEPEST = 50


class Absent(LookupError):  # noqa: N818 - a fact about a trial, not a mistake
    """A trial does not have the key that an expression names."""


class Expression:
    """A parsed expression.

    Raises:
        ValueError: the text is not an expression, or uses more than arithmetic, comparisons and FUNCTIONS.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > _LONGEST:
            raise ValueError(f"an expression has at most {_LONGEST} characters (got {len(text)})")
        try:
            self._body = ast.parse(re.sub(r"\blambda\b", _LAMBDA, text.strip()), mode="eval").body
        except (SyntaxError, ValueError) as error:
            reason = getattr(error, "msg", None) or str(error)
            raise ValueError(f"is not an expression: {reason} (got {text!r})") from None
        except (RecursionError, MemoryError):
            raise ValueError(f"is nested too deeply (got {text[:40]!r} …)") from None
        if _depth(self._body) > _DEEPEST:
            raise ValueError(f"is nested more than {_DEEPEST} deep (got {text[:40]!r} …)")
        self.names: tuple[str, ...] = tuple(dict.fromkeys(self._check(self._body)))
        """The names of keys in it, as written."""

    def _check(self, node: ast.expr) -> Iterable[str]:
        match node:
            case ast.Name() | ast.Attribute():
                yield self._name(node)
            case ast.Constant(value=bool() | int() | float() | str()):
                pass
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC or isinstance(op, ast.Pow):
                yield from self._check(left)
                yield from self._check(right)
            case ast.UnaryOp(operand=operand, op=ast.USub() | ast.UAdd() | ast.Not()):
                yield from self._check(operand)
            case ast.BoolOp(values=values):
                for value in values:
                    yield from self._check(value)
            case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARISONS for op in ops):
                for value in (left, *others):
                    yield from self._check(value)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                for value in (test, body, orelse):
                    yield from self._check(value)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
                for value in args:
                    yield from self._check(value)
            case ast.Call(func=ast.Name(id=name)):
                raise ValueError(f"unknown function {name!r}{did_you_mean(name, FUNCTIONS)} (got {self.text!r})")
            case _:
                raise ValueError(
                    f"may use keys, numbers, + - * / // % **, comparisons, and, or, not and {', '.join(FUNCTIONS)} "
                    f"(got {self.text!r})"
                )

    def _name(self, node: ast.expr) -> str:
        match node:
            case ast.Name(id=name):
                return name.replace(_LAMBDA, "lambda")
            case ast.Attribute(value=value, attr=name):
                return f"{self._name(value)}.{name.replace(_LAMBDA, 'lambda')}"
        raise ValueError(f"a key is written section.key (got {self.text!r})")

    def evaluate(self, lookup: Lookup) -> Any:
        """The value.

        Raises:
            ValueError: it has none: a division by zero, text where a number is needed.
            Absent: a key is not there.
        """
        try:
            value = self._value(self._body, lookup)
        except (ArithmeticError, TypeError, ValueError) as error:
            values = ", ".join(f"{name} = {lookup(name)!r}" for name in self.names)
            raise ValueError(f"{self.text!r} has no value for {values or 'these numbers'}: {error}") from None
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{self.text!r} is {value}")
        return value

    def _value(self, node: ast.expr, lookup: Lookup) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name() | ast.Attribute():
                return lookup(self._name(node))
            case ast.BinOp(left=left, op=op, right=right):
                return _arithmetic(op, self._value(left, lookup), self._value(right, lookup))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self._value(operand, lookup)
            case ast.UnaryOp(op=op, operand=operand):
                value = _number(self._value(operand, lookup))
                return -value if isinstance(op, ast.USub) else value
            case ast.BoolOp(op=ast.And(), values=values):
                return all(self._value(value, lookup) for value in values)
            case ast.BoolOp(values=values):
                return any(self._value(value, lookup) for value in values)
            case ast.Compare():
                return all(_COMPARISONS[type(op)](a, b) for op, a, b in self._comparisons(node, lookup))
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self._value(body if self._value(test, lookup) else orelse, lookup)
            case ast.Call(func=ast.Name(id=name), args=args):
                return FUNCTIONS[name](*(_number(self._value(value, lookup)) for value in args))
        raise AssertionError(ast.dump(node))

    def _comparisons(self, node: ast.Compare, lookup: Lookup) -> list[tuple[ast.cmpop, Any, Any]]:
        values = [self._value(value, lookup) for value in (node.left, *node.comparators)]
        return list(zip(node.ops, values, values[1:], strict=False))

    # -- as a constraint ---------------------------------------------------------------------------------------------

    @cached_property
    def is_condition(self) -> bool:
        """Whether the value is true or false."""
        return isinstance(self._body, ast.Compare | ast.BoolOp) or (
            isinstance(self._body, ast.UnaryOp) and isinstance(self._body.op, ast.Not)
        )

    def violation(self, lookup: Lookup) -> float:
        """By how much the condition is missed; 0 where it holds, or where the trial lacks one of its keys."""
        try:
            return 0.0 if self.evaluate(lookup) else max(self._gap(self._body, lookup), 1e-12)
        except Absent:
            return 0.0

    def _gap(self, node: ast.expr, lookup: Lookup) -> float:
        """How far a condition is from holding; 1 where that is no number."""
        match node:
            case ast.BoolOp(op=ast.And(), values=values):
                return sum(self._gap(value, lookup) for value in values)
            case ast.BoolOp(values=values):
                return min(self._gap(value, lookup) for value in values)
            case ast.Compare():
                gaps = [
                    abs(a - b) if all(isinstance(x, float | int) for x in (a, b)) else 1.0
                    for op, a, b in self._comparisons(node, lookup)
                    if not _COMPARISONS[type(op)](a, b)
                ]
                return float(sum(gaps))
        return 0.0 if self._value(node, lookup) else 1.0


def _depth(body: ast.expr) -> int:
    """How deep an expression is nested."""
    depth, nodes = 0, [body]
    while nodes:
        depth += 1
        nodes = [child for node in nodes for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
    return depth


def _number(value: Any) -> Any:
    if not isinstance(value, float | int):
        raise TypeError(f"{value!r} is not a number")
    return value


def _arithmetic(op: ast.operator, left: Any, right: Any) -> Any:
    left, right = _number(left), _number(right)
    if not isinstance(op, ast.Pow):
        return _ARITHMETIC[type(op)](left, right)
    if isinstance(left, int) and isinstance(right, int) and right >= 0 and left.bit_length() * right <= 64:
        return left**right
    return math.pow(left, right)  # a whole power of any size could take for ever


def resolve_name(name: str, keys: Iterable[str]) -> str:
    """The dotted key that a name in an expression means: the key itself, or its last part where that is unambiguous.

    Raises:
        ValueError: no key is called so, or several are.
    """
    keys = list(keys)
    if name in keys:
        return name
    found = [key for key in keys if key.endswith(f".{name}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{name!r} is ambiguous: write one of {', '.join(found)}")
    near = did_you_mean(name, keys if "." in name else dict.fromkeys(key.rpartition(".")[2] for key in keys))
    raise ValueError(f"unknown key {name!r}{near if 'did you mean' in near else ''}")
