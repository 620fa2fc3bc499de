"""Numbers, names and configurations as text: the same in the terminal, in MLflow and in reports."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping

from samtune.study import CANDIDATE, REPLICA, Scalar, Study, Trial

# Controls but for line break and tab, those of the direction of writing, line separators, and lone surrogates.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def format_number(value: float, digits: int = 3) -> str:
    """A number with `digits` significant digits and no padding: 0.0512, 1.2e-03, 5e-04, 200."""
    if isinstance(value, int) or not math.isfinite(value):
        return str(value)
    if value == 0 or 1e-2 <= abs(value) < 1e5:
        rounded = f"{value:.{digits}g}"
        return rounded if "e" not in rounded else f"{float(rounded):.0f}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{exponent}"


def format_metric(value: float | None) -> str:
    """A metric with four decimals (0.9778), or in scientific form where they would say nothing."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.3e}"


def format_value(value: Scalar) -> str:
    """A configuration's value, for a reader."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "none"
    return format_number(value) if isinstance(value, int | float) else value


def format_seconds(seconds: float) -> str:
    """A duration: 3.2s, 0:48, 1:02:03."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    return format_clock(seconds)


def format_clock(seconds: float) -> str:
    """A duration in whole seconds: 0:03, 0:48, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def format_bytes(count: float) -> str:
    """A size on disk: 0 bytes, 12 kB, 3.4 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def counted(count: int, noun: str) -> str:
    """`1 trial`, `3 trials`: a count with its noun, whose plural ends in s."""
    return f"{count} {noun}{'s' * (count != 1)}"


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The last part of each dotted key, with as many parts before it as it takes to be the only one of its name.

    `method.name` is `method`.
    """
    parts = {key: key.removesuffix(".name").split(".") for key in keys}
    names: dict[str, str] = {}
    for key, own in parts.items():
        for count in range(1, len(own) + 1):
            names[key] = ".".join(own[-count:])
            if sum(other[-count:] == own[-count:] for other in parts.values()) == 1:
                break
    return names


def searched_keys(trials: Iterable[Trial]) -> list[str]:
    """The keys that any trial's configuration has, in their order."""
    return list(dict.fromkeys(key for trial in trials for key in trial.config))


def format_config(config: Mapping[str, Scalar], names: Mapping[str, str] | None = None) -> str:
    """`rho=0.0512 lr=1.2e-03`, for a reader."""
    names = names or short_names(config)
    return " ".join(f"{names.get(key, key)}={format_value(value)}" for key, value in config.items())


def configuration_name(method: Scalar, config: Mapping[str, Scalar]) -> str:
    """`sam rho=0.084 lr=0.053`: what tells a configuration apart among MLflow's runs and in a confirmation.

    Args:
        method: its name; None where there is none.
    """
    parts = [] if method is None else [format_value(method)]
    return " ".join([*parts, *([format_config(config)] if config else [])])


def set_arguments(config: Mapping[str, Scalar]) -> str:
    """`--set method.rho=0.05123 --set training.lr=0.1`: to paste into a shell; every number round-trips."""
    return " ".join(f"--set {shlex.quote(f'{key}={_yaml(value)}')}" for key, value in config.items())


def _yaml(value: Scalar) -> str:
    """The value as YAML that reads as the same type."""
    if isinstance(value, str):
        import yaml

        try:
            plain = isinstance(yaml.safe_load(value), str) and "#" not in value and ": " not in value
        except yaml.YAMLError:
            plain = False
        return value if plain and not _is_number(value) else json.dumps(value)
    if isinstance(value, float):
        text = repr(float(value))
        mantissa, e, exponent = text.partition("e")
        # YAML 1.1 takes 1e-05 for a string; with a dot it is a number in every version.
        return f"{mantissa}.0{e}{exponent}" if e and "." not in mantissa else text
    return json.dumps(value)  # true, false, null, whole numbers


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def printable(text: str) -> str:
    """A text with what a terminal or a browser would obey written as its escape: `\\x1b`, `\\u202e`.

    Names, values and errors may be a stranger's. Line breaks and tabs stay.
    """
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def markdown_cell(text: str) -> str:
    """A text as it is, in a cell of a Markdown table."""
    return re.sub(r"([\\`*\[\]<|&])", r"\\\1", " ".join(printable(text).split()))


def spreadsheet_cell(text: str) -> str:
    """A text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def first_line(text: str | None) -> str:
    """The first line that is not blank."""
    return next((line.strip() for line in (text or "").splitlines() if line.strip()), "")


def trial_name(study: Study, trial: Trial) -> str:
    """`trial 003`, as many digits as sort well in this study; of a confirmation, what is repeated and the replica."""
    if CANDIDATE in trial.config:
        replica = f", replica {trial.config[REPLICA]}" if study.num_trials > 1 else ""
        return f"{trial.config[CANDIDATE]}{replica}"
    width = max(3, len(str(max(study.num_trials - 1, 0))))
    return f"trial {trial.number:0{width}d}"
