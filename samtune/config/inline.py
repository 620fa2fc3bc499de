"""From the YAML as people write it to the one form that is validated: fixed sections, and what is searched by key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from samtune.config.distributions import kind_of
from samtune.config.method import OTHER_NAMES
from samtune.config.samplers import SamplerConfig
from samtune.config.search import SchedulerConfig
from samtune.config.tree import MISSING, Branches, Expr, first_value, flat_options, is_node, join, parse_node
from samtune.config.trial import SECTIONS, TrialSpec
from samtune.config.yaml_source import config_classes, fields_of, names_of, rule_of

NAMED = ("data", "model", "method", "sampler", "scheduler")
"""What may be given by its name alone."""


def spell_out(raw: Mapping[str, Any]) -> dict[str, Any]:
    """`method: sam` is short for `method: {name: sam}`, in a choice too; other names of keys become ours."""
    spelled = {key: _spell_out(value) if key in NAMED else value for key, value in raw.items()}
    spelled |= {section: _rename(spelled[section]) for section in SECTIONS if section in spelled}
    search, initial = spelled.get("search"), spelled.get("initial")
    if isinstance(search, Mapping):
        spelled["search"] = {rename_key(key): _rename(value) for key, value in spell_out(search).items()}
    if isinstance(initial, list):
        spelled["initial"] = [
            {rename_key(key): value for key, value in point.items()} if isinstance(point, Mapping) else point
            for point in initial
        ]
    return spelled


def _spell_out(value: Any) -> Any:
    if isinstance(value, str):
        return {"name": value}
    if kind_of(value) == "choice" and isinstance(value["choice"], list):
        return {**value, "choice": [_spell_out(option) for option in value["choice"]]}
    return value


def _rename(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {OTHER_NAMES.get(key, key): _rename(item) for key, item in value.items()}
    return [_rename(item) for item in value] if isinstance(value, list) else value


def rename_key(key: Any) -> Any:
    """A dotted key in our own words."""
    return ".".join(OTHER_NAMES.get(part, part) for part in key.split(".")) if isinstance(key, str) else key


def normalise(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Moves what is searched inline in the sections, which are spelt out, to `search`, by dotted key.

    A section that is searched as a whole (`method: {choice: [{name: sgd}, …]}`) is searched under its own name; its
    first choice stands in its place.

    Raises:
        ValueError: `section: problem`.
    """
    data = dict(raw)
    search = data.get("search")
    found: dict[str, Any] = {}
    for section in SECTIONS:
        if is_node(data.get(section)):
            found[section] = data[section]
            data[section] = _stand_in(section, found[section])
        elif isinstance(data.get(section), Mapping):
            data[section] = _take_out(data[section], section, found)
    if found or isinstance(search, Mapping):
        listed = dict(search) if isinstance(search, Mapping) else {}
        for key in found.keys() & listed.keys():
            raise ValueError(f"search.{key}: is searched in the section {key.partition('.')[0]} too; write it once")
        data["search"] = found | listed
    for section in SECTIONS:
        searched = data["search"] if isinstance(data.get("search"), Mapping) else {}
        if section in searched and section not in found:
            if section in data:
                raise ValueError(f"search.{section}: {section} is fixed too; write its keys in the choices")
            data[section] = _stand_in(section, searched[section])
        _add_name(data, section)
    _add_lists(data)
    if "sampler" not in data and _has_grid(data.get("search")):
        data["sampler"] = {"name": "grid"}
    scheduler = data.get("scheduler")
    if isinstance(scheduler, Mapping) and scheduler.get("name") in ("pbt", "pb2"):
        data.setdefault("sampler", {"name": "random"})
    return data


def _has_grid(value: Any) -> bool:
    if isinstance(value, Mapping):
        return kind_of(value) == "grid" or any(_has_grid(item) for item in value.values())
    return isinstance(value, list) and any(_has_grid(item) for item in value)


def _take_out(value: Any, key: str, found: dict[str, Any]) -> Any:
    """A part of a section without what is searched in it, which is put in `found`."""
    if isinstance(value, Mapping):
        fixed = {name: item for name, item in value.items() if not is_node(item)}
        found |= {join(key, str(name)): item for name, item in value.items() if is_node(item)}
        return {name: _take_out(item, join(key, str(name)), found) for name, item in fixed.items()}
    if isinstance(value, list) and any(is_node(item) for item in value):
        found |= {join(key, str(index)): item for index, item in enumerate(value) if is_node(item)}
        items: list[Any] = []
        for item in value:
            items.append(_first(item, items[-1] if items else None) if is_node(item) else item)
        return items
    return value


def _first(written: Any, previous: Any) -> Any:
    """What stands for a searched item of a list; for an expression, one more than the item before: lists may rise."""
    try:
        node = parse_node(written)
        return previous + 1 if isinstance(node, Expr) and isinstance(previous, int | float) else first_value(node)
    except (ValueError, ValidationError):
        return None  # reported where the search is parsed


def _stand_in(section: str, written: Any) -> Any:
    """The first branch of a searched section: what it fixes, and a value for what it must have."""
    try:
        node = parse_node(written)
    except ValidationError as error:
        raise ValueError(f"{section}: {rule_of(error.errors(include_url=False)[0])}") from error
    except ValueError as error:
        raise ValueError(f"{section}: {error}") from error
    if not isinstance(node, Branches) or not isinstance(node.options[0].fixed, dict):
        raise ValueError(f"{section}: as a whole it is a choice between mappings (got {written!r})")
    option = node.options[0]
    fixed = dict(option.fixed)
    for cls in classes_of(section, fixed.get("name")):
        for key, field in fields_of(cls).items():
            if field.is_required() and key in option.nodes:
                fixed[key] = first_value(option.nodes[key])
    return fixed


def _add_name(data: dict[str, Any], section: str) -> None:
    """Where a section's name is searched, the section need not repeat it: the first that has all its keys stands."""
    searched = data["search"].get(f"{section}.name") if isinstance(data.get("search"), Mapping) else None
    options = searched.get("choice", searched.get("grid")) if isinstance(searched, Mapping) else None
    fixed = data.get(section, {})
    if not isinstance(options, list) or not options or not isinstance(fixed, Mapping) or "name" in fixed:
        return
    fitting = [n for n in options if set(fixed) <= {key for cls in classes_of(section, n) for key in fields_of(cls)}]
    data[section] = {"name": (fitting or options)[0], **fixed}


def _add_lists(data: dict[str, Any]) -> None:
    """Where a list is searched, the first choice stands for it: `schedule: multi_step` must have milestones."""
    searched = data.get("search")
    for key, written in searched.items() if isinstance(searched, Mapping) else ():
        section, _, field = str(key).partition(".")
        options = written.get("choice", written.get("grid")) if isinstance(written, Mapping) else None
        fixed = data.get(section, {})
        if section not in SECTIONS or not isinstance(fixed, Mapping) or not isinstance(options, list) or not options:
            continue
        if isinstance(options[0], list) and field and "." not in field and field not in fixed:
            data[section] = {**fixed, field: options[0]}


def classes_of(section: str, name: Any = None) -> list[Any]:
    """The config classes of a section, the sampler or the scheduler: all, or those of a name."""
    others = {"sampler": SamplerConfig, "scheduler": SchedulerConfig}
    classes = list(config_classes(others.get(section) or TrialSpec.model_fields[section].annotation))
    if name is None or len(classes) == 1:
        return classes
    return [cls for cls in classes if name in names_of(cls)] or [
        cls for cls in classes if not names_of(cls) and ":" in str(name)
    ]


def relocate(raw: Mapping[str, Any]) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    """From a path in the normalised form to where the author wrote it."""
    search = raw.get("search")
    written = set(search) if isinstance(search, Mapping) else set()

    def author_path(path: tuple[str, ...]) -> tuple[str, ...]:
        if path[:1] == ("search",) and len(path) > 1:
            keys = (".".join(path[1:end]) for end in range(2, len(path) + 1))
            return path if any(key in written for key in keys) or path[1] not in SECTIONS else path[1:]
        if path[:1] and is_node(raw.get(path[0])) and path[0] in SECTIONS and "choice" not in path:
            return (path[0], "choice", str(_first_with(path[1:2], raw[path[0]]["choice"])), *path[1:])
        return path

    return author_path


def _first_with(keys: tuple[str, ...], options: Any) -> int:
    """The first option of a choice that has the keys; the first of all where none has."""
    having = (i for i, option in enumerate(options) if isinstance(option, Mapping) and option.keys() >= set(keys))
    return next(having, 0)


# -- setting keys over what the file says ----------------------------------------------------------------------------


def set_in_branches(written: Any, parts: list[str], value: Any, fields: Callable[[Any], Iterable[str]]) -> Any:
    """A searched section with a key set in every branch that has it; setting its name takes the branch of that name.

    Args:
        fields: name -> the keys of the section's class of that name.

    Returns:
        The section, or MISSING where no branch has the key.
    """
    options = written.get("choice")
    if not isinstance(options, list) or not all(isinstance(option, Mapping) for option in options):
        return MISSING
    options = flat_options(options)
    if parts == ["name"]:
        return next((option for option in options if option.get("name") == value), {"name": value})
    having = [i for i, option in enumerate(options) if not is_node(option) and parts[0] in fields(option.get("name"))]
    if not having:
        return MISSING
    changed = [_set(option, parts, value) if i in having else option for i, option in enumerate(options)]
    return {"choice": changed}


def stop_inline(raw: dict[str, Any], key: str) -> None:
    """Takes away what the sections search under a key that is now searched otherwise."""
    *parts, last = key.split(".")
    node: Any = raw
    for part in parts:
        node = node.get(part) if isinstance(node, dict) else None
    if isinstance(node, dict) and is_node(node.get(last)):
        del node[last]
    elif isinstance(node, list) and last.isdecimal() and int(last) < len(node) and is_node(node[int(last)]):
        node[int(last)] = _first(node[int(last)], node[int(last) - 1] if int(last) else None)


def _set(tree: Any, parts: list[str], value: Any) -> dict[str, Any]:
    inner = tree if isinstance(tree, Mapping) else {}
    return {**inner, parts[0]: value if len(parts) == 1 else _set(inner.get(parts[0]), parts[1:], value)}
