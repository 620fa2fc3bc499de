"""Distributions as other tools write them, and what each is here.

Nobody remembers which tool has which spelling. Each that is recognized is answered with the line to write, instead of
being taken for a wrong value.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NONE = "there is no such distribution here; write uniform, log_uniform, int, log_int or choice"


@dataclass(frozen=True)
class Foreign:
    """What another tool's spelling means.

    Attributes:
        tool: whose it is.
        native: the same as a space has it; None where there is no such distribution.
    """

    tool: str
    native: dict[str, Any] | None

    def advice(self, key: str) -> str:
        """What to write in place of it, as the line of a key."""
        if self.native is None:
            return f"is {self.tool} way to write a distribution; {_NONE}"
        return f"is {self.tool} way to write a distribution; write `{key}: {flow(self.native)}`"


def flow(value: Any) -> str:
    """A value on one line, as YAML has it: `{log_uniform: [0.01, 0.5]}`."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return re.sub(r"e([+-])0(\d)$", r"e\1\2", str(value))  # 1e-05 is 1e-5


def recognize(value: Any) -> Foreign | None:
    """What a plain value means where it is a distribution in another tool's spelling; else None."""
    if isinstance(value, str):
        return _call(value)
    if type(value).__module__.startswith(("ray.tune.", "optuna.distributions")):
        return _object(value)
    if not isinstance(value, Mapping):
        return None
    for known in (_nni, _wandb, _ax, _optuna, _range, _one_key):
        if (found := known(value)) is not None:
            return found
    return None


# -- mappings --------------------------------------------------------------------------------------------------------


def _nni(value: Mapping[str, Any]) -> Foreign | None:
    """`{_type: loguniform, _value: [low, high]}`."""
    if set(value) != {"_type", "_value"} or not isinstance(value["_value"], list):
        return None
    return Foreign("NNI's", _named(str(value["_type"]), value["_value"]))


def _wandb(value: Mapping[str, Any]) -> Foreign | None:
    """`{distribution: log_uniform_values, min: low, max: high}`, `{values: [a, b]}`, `{value: a}`."""
    keys = set(value)
    if keys <= {"values", "probabilities", "distribution"} and isinstance(value.get("values"), list):
        return Foreign("W&B's", {"choice": value["values"]})
    if keys == {"value"}:
        return Foreign("W&B's", {"choice": [value["value"]]})
    if "distribution" not in keys or not keys <= {"distribution", "min", "max", "q", "mu", "sigma", "value"}:
        return None
    name = str(value["distribution"])
    low, high = value.get("min"), value.get("max")
    if low is None or high is None or not (_is_number(low) and _is_number(high)):
        return Foreign("W&B's", None)
    if "log_uniform" in name and not name.endswith("_values"):  # its bounds are exponents
        low, high = _significant(math.exp(low)), _significant(math.exp(high))
    return Foreign("W&B's", _interval(low, high, log="log_uniform" in name, step=value.get("q"), whole="int" in name))


def _ax(value: Mapping[str, Any]) -> Foreign | None:
    """`{type: range, bounds: [low, high], log_scale: true}`, `{type: choice, values: [a, b]}`."""
    if value.get("type") == "choice" and isinstance(value.get("values"), list):
        return Foreign("Ax's", {"choice": value["values"]})
    bounds = value.get("bounds")
    if value.get("type") != "range" or not isinstance(bounds, list) or len(bounds) != 2:
        return None
    whole = value.get("value_type", value.get("parameter_type")) == "int" or _are_whole(bounds)
    return Foreign("Ax's", _interval(*bounds, log=bool(value.get("log_scale")), whole=whole))


def _optuna(value: Mapping[str, Any]) -> Foreign | None:
    """`{type: float, low: a, high: b, log: true}`, `{type: categorical, choices: [a, b]}`."""
    if isinstance(value.get("choices"), list) and set(value) <= {"type", "name", "choices"}:
        return Foreign("Optuna's", {"choice": value["choices"]})
    if not {"low", "high"} <= set(value) <= {"type", "name", "low", "high", "log", "step", "q"}:
        return None
    low, high, kind = value["low"], value["high"], str(value.get("type", ""))
    whole = kind.startswith("int") or (not kind and _are_whole([low, high]))
    return Foreign("Optuna's", _interval(low, high, log=bool(value.get("log")), step=value.get("step"), whole=whole))


def _range(value: Mapping[str, Any]) -> Foreign | None:
    """`{min: low, max: high, log: true}`."""
    if not {"min", "max"} <= set(value) <= {"min", "max", "log", "step", "type", "q"}:
        return None
    low, high, kind = value["min"], value["max"], str(value.get("type", ""))
    whole = kind.startswith("int") or (not kind and _are_whole([low, high]))
    step = value.get("step", value.get("q"))
    return Foreign("W&B's", _interval(low, high, log=bool(value.get("log")), step=step, whole=whole))


def _one_key(value: Mapping[str, Any]) -> Foreign | None:
    """`{loguniform: [low, high]}`, `{grid_search: [a, b]}`."""
    if len(value) != 1:
        return None
    ((name, inner),) = value.items()
    known = str(name).rpartition(".")[2]
    if known not in _RAY or not isinstance(inner, list) or known in ("uniform", "choice"):
        return None
    return Foreign("Ray Tune's", _named(known, [inner] if known == "grid_search" else inner))


def _object(value: Any) -> Foreign | None:
    """An object of Ray Tune's or Optuna's, in a space that is written in Python."""
    if type(value).__module__.startswith("optuna."):
        return Foreign(
            "Optuna's", _suggested(type(value).__name__.removesuffix("Distribution").lower(), [], vars(value))
        )
    if (categories := getattr(value, "categories", None)) is not None:
        return Foreign("Ray Tune's", {"choice": list(categories)})
    low, high, whole = getattr(value, "lower", None), getattr(value, "upper", None), "Integer" in type(value).__name__
    sampler = value.get_sampler() if hasattr(value, "get_sampler") else None
    step = getattr(sampler, "q", None)
    log = "Log" in type(getattr(sampler, "sampler", sampler)).__name__
    if whole and step is None and _are_whole([high]):
        high = (high or 0) - 1  # theirs is not included
    return Foreign("Ray Tune's", _interval(low, high, log=log, step=step, whole=whole))


# -- calls -----------------------------------------------------------------------------------------------------------

_RAY = (
    "uniform",
    "loguniform",
    "quniform",
    "qloguniform",
    "randint",
    "lograndint",
    "qrandint",
    "choice",
    "grid_search",
)
_OTHERS = ("randn", "normal", "qnormal", "lognormal", "qlognormal", "sample_from", "qrandn")
_HYDRA = ("interval", "range", "tag")


def _call(text: str) -> Foreign | None:
    """`tune.loguniform(low, high)`, `trial.suggest_float("lr", low, high)`, `tag(log, interval(low, high))`."""
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if not isinstance(call, ast.Call):
        return None
    *owner, name = ast.unparse(call.func).split(".")
    options = {each.arg: _constant(each.value) for each in call.keywords if each.arg}
    arguments = [_constant(each) for each in call.args]
    if name.startswith("suggest_"):
        return Foreign("Optuna's", _suggested(name.removeprefix("suggest_"), arguments[1:], options))
    if name.endswith("Distribution"):
        return Foreign("Optuna's", _suggested(name.removesuffix("Distribution").lower(), arguments, options))
    if owner[-1:] == ["hp"]:  # of hyperopt: a label first, and logarithms as bounds
        bounds = arguments[1:]
        if name == "loguniform":
            bounds = [_significant(math.exp(end)) if _is_number(end) else end for end in bounds]
        return Foreign("hyperopt's", _named(name, bounds))
    if name in _HYDRA and not owner:
        return Foreign("Hydra's", _swept(call))
    if name in (*_RAY, *_OTHERS) and owner in ([], ["tune"], ["ray", "tune"]):
        return Foreign("Ray Tune's", _named(name, arguments))
    return None


def _constant(node: ast.expr) -> Any:
    """The value of a literal, or the text of anything else."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return ast.unparse(node)


def _suggested(kind: str, arguments: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any] | None:
    options = {name.lstrip("_"): option for name, option in options.items()}
    if kind == "categorical":
        choices = options.get("choices", arguments[0] if arguments else None)
        return {"choice": list(choices)} if isinstance(choices, list | tuple) else None
    low, high = [*arguments, options.get("low"), options.get("high")][:2] if arguments else [*_ends(options)]
    log = bool(options.get("log")) or kind == "loguniform"
    return _interval(low, high, log=log, step=options.get("step"), whole=kind.startswith("int"))


def _ends(options: Mapping[str, Any]) -> tuple[Any, Any]:
    return options.get("low"), options.get("high")


def _swept(call: ast.Call) -> dict[str, Any] | None:
    """Hydra's: `interval(a, b)`, `range(a, b)`, `tag(log, interval(a, b))`, `tag(log, int(interval(a, b)))`."""
    text = ast.unparse(call)
    inner = next(
        (n for n in ast.walk(call) if isinstance(n, ast.Call) and ast.unparse(n.func) in ("interval", "range")), None
    )
    if inner is None or len(inner.args) < 2:
        return None
    low, high, *step = [_constant(each) for each in inner.args]
    if ast.unparse(inner.func) == "range":
        return _interval(low, high - 1 if _are_whole([high]) else high, step=step[0] if step else None, whole=True)
    return _interval(low, high, log=text.startswith("tag(log,"), whole="int(" in text)


def _named(name: str, arguments: Sequence[Any]) -> dict[str, Any] | None:
    """A distribution by the name that Ray Tune, NNI and hyperopt have for it, with its arguments in order."""
    if name in ("choice", "grid_search"):
        values = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], list | tuple) else arguments
        return {"grid" if name == "grid_search" else "choice": list(values)}
    if len(arguments) < 2 or name not in _RAY:
        return None
    low, high, *more = arguments
    if name in ("randint", "lograndint") and _are_whole([low, high]):
        high -= 1  # theirs is not included
    step = more[0] if more and name.startswith("q") else None
    return _interval(low, high, log="log" in name, step=step, whole="int" in name)


# -- values ----------------------------------------------------------------------------------------------------------


def _interval(
    low: Any, high: Any, *, log: bool = False, step: Any = None, whole: bool = False
) -> dict[str, Any] | None:
    """The interval as a space has it; None where its ends are no numbers. One in logarithms has no step."""
    if not (_is_number(low) and _is_number(high)):
        return None
    kind = ("log_int" if log else "int") if whole else ("log_uniform" if log else "uniform")
    return {kind: [low, high]} | (
        {"step": step} if _is_number(step) and not log and step != (1 if whole else 0) else {}
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_whole(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def _significant(value: float) -> float:
    """What is left of an exponent's rounding: 0.001, not 0.0010000000000000002."""
    return float(f"{value:.6g}")
