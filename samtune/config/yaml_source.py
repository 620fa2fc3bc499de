"""Reading YAML as a located tree. Untrusted text is read within limits, so that a mistake costs no more than a line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

import yaml
from yaml.reader import ReaderError

from samtune.config.located import Located, Place
from samtune.errors import SpaceError, one_line

MAX_BYTES = 200_000
"""Of a file. PyYAML reads about 300 kB a second."""
MAX_DEPTH = 40
MAX_VALUES = 5_000
"""Keys and values of a file, those that aliases repeat included."""

_INT = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"
_MERGE = "tag:yaml.org,2002:merge"
_TEXT = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:value")
_REPLACED = (_INT, _FLOAT, "tag:yaml.org,2002:timestamp")
_BASES = {"0x": 16, "0o": 8, "0b": 2}


class _Loader(yaml.SafeLoader):
    """Composes nodes with the numbers of YAML 1.2: 1e-4 is one, 010 is ten, and 1:30 and 2024-01-01 are text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own attribute
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._num_nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._num_nodes += 1
        self._depth += 1
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        _check_limits(self._depth, self._num_nodes, mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


_Loader.add_implicit_resolver(
    _INT, re.compile(r"^[-+]?(0x[0-9a-fA-F_]+|0o[0-7_]+|0b[01_]+|[0-9][0-9_]*)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"^([-+]?(\.[0-9][0-9_]*|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)


def _check_limits(depth: int, num_values: int, mark: yaml.Mark) -> None:
    if depth > MAX_DEPTH:
        raise _invalid(f"values are nested more than {MAX_DEPTH} deep", mark)
    if num_values > MAX_VALUES:
        raise _invalid(f"there are more than {MAX_VALUES:,} keys and values, aliases expanded", mark)


def _invalid(problem: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def parse_yaml(text: str, name: str) -> Located:
    """Reads YAML text.

    Args:
        name: what messages call it: its file.

    Raises:
        SpaceError: the text is not valid YAML, or too large; names line and column.
    """
    if len(text) > MAX_BYTES:
        raise SpaceError(f"{name}: must have at most {MAX_BYTES:,} bytes (got {len(text):,})")
    try:
        return _read(text, name)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = error.character if isinstance(error.character, int) else ord(error.character)
        raise SpaceError(f"{name}:{line}: not valid YAML: the character U+{character:04X} is not allowed") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise SpaceError(f"{where}: not valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise SpaceError(f"{name}: not valid YAML: {one_line(error)}") from error


def parse_value(text: str) -> Any:
    """Reads the right-hand side of `--set key=value` as YAML, e.g. `1e-3`, `true`, `[0.1, 0.2]`.

    Raises:
        yaml.YAMLError: it is not valid YAML.
    """
    if len(text) > MAX_BYTES:
        raise yaml.YAMLError(f"it must have at most {MAX_BYTES:,} bytes (got {len(text):,})")
    return _read(text, "value").plain()


def _read(text: str, name: str) -> Located:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
    finally:
        loader.dispose()
    return Located(None, Place(name)) if node is None else _Tree().located(node, Place(name), 1)


class _Tree:
    """From PyYAML's nodes to located values. An alias is the values it stands for, at the lines they were written."""

    def __init__(self) -> None:
        self._num_values = 0

    def located(self, node: yaml.Node, place: Place, depth: int) -> Located:
        self._num_values += 1
        _check_limits(depth, self._num_values, node.start_mark)
        if isinstance(node, yaml.MappingNode):
            items = self._items(node, place, depth)
            return Located({key: self.located(value, where, depth + 1) for key, value, where in items}, place)
        if isinstance(node, yaml.SequenceNode):
            values = [
                self.located(item, place.inside(index, item.start_mark.line + 1), depth + 1)
                for index, item in enumerate(node.value)
            ]
            return Located(values, place)
        return Located(_scalar(node), place)

    def _items(self, node: yaml.MappingNode, place: Place, depth: int) -> list[tuple[str, yaml.Node, Place]]:
        """Keys, values and places of a mapping: its own, then those it merges (`<<: *base`) and does not override.

        A key is the text that was written, whatever YAML 1.1 takes it for (`on` for true).
        """
        own: dict[str, tuple[yaml.Node, int]] = {}
        merged: list[yaml.Node] = []
        for key, value in node.value:
            if key.tag == _MERGE:
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
            elif not isinstance(key, yaml.ScalarNode):
                raise _invalid("a key must be plain text", key.start_mark)
            elif key.value in own:
                raise _invalid(f"the key {key.value!r} stands twice", key.start_mark)
            else:
                own[key.value] = (value, key.start_mark.line + 1)
        for base in merged:
            self._num_values += 1
            _check_limits(depth, self._num_values, base.start_mark)
            if not isinstance(base, yaml.MappingNode):
                raise _invalid("<< merges mappings only", base.start_mark)
            for key, value, where in self._items(base, place, depth + 1):
                own.setdefault(key, (value, where.line or base.start_mark.line + 1))
        return [(key, value, place.inside(key, line)) for key, (value, line) in own.items()]


def _scalar(node: yaml.Node) -> Any:
    kind, text = node.tag.removeprefix("tag:yaml.org,2002:"), str(node.value)
    if node.tag in _TEXT:
        return text
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() in ("yes", "true", "on")
    try:
        if kind == "int":
            sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.lstrip("+"))
            return sign * int(digits.replace("_", ""), _BASES.get(digits[:2], 10) if len(digits) > 2 else 10)
        if kind == "float":
            return float(re.sub(r"\.(?=inf|nan)", "", text.replace("_", "").lower()))
    except ValueError as error:
        raise _invalid(str(error), node.start_mark) from error
    raise _invalid(f"could not determine a constructor for the tag {node.tag!r}", node.start_mark)


SYNONYMS = {
    "learning_rate": "lr",
    "wd": "weight_decay",
    "l2": "weight_decay",
    "num_epochs": "epochs",
    "n_epochs": "epochs",
    "max_epochs": "epochs",
    "max_steps": "steps",
    "num_steps": "steps",
    "eval_steps": "evaluate_every",
    "bs": "batch_size",
    "train_batch_size": "batch_size",
    "n_trials": "num_trials",
    "num_samples": "num_trials",
    "max_trials": "num_trials",
    "workers": "num_workers",
    "radius": "rho",
    "label_smoothing_factor": "label_smoothing",
    "max_grad_norm": "clip_norm",
    "clip_grad_norm": "clip_norm",
    "lr_scheduler": "schedule",
    "dataset": "data",
    "network": "model",
    "optimiser": "optimizer",
    "metric": "objective",
}
"""What other tools call a key, and what it is here."""


def _by_another_name(word: str, options: Iterable[str]) -> str | None:
    """The option whose last part is the word's, or what that is called here; one of the word's own section first."""
    section, _, last = word.rpartition(".")
    wanted = (last, SYNONYMS.get(last, last))
    found = [each for each in options if each != word and each.rpartition(".")[2] in wanted]
    return min(found, key=lambda each: each.rpartition(".")[0] != section, default=None)


def did_you_mean(word: str, options: Iterable[str], otherwise: str | None = None) -> str:
    """`; did you mean 'x'?`, or when none is near, the list of options or what is given for it."""
    options = list(options)
    if (known := _by_another_name(word, options)) is not None:
        return f"; did you mean {known!r}?"
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    if otherwise is not None:
        return f"; {otherwise}"
    return f"; valid are {', '.join(options)}" if options else ""
