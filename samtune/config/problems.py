"""Pydantic's reports as problems at the places of the values that they are about."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from samtune.config.base import Config
from samtune.config.located import Located, Place, Problem
from samtune.config.sections import config_class, fields_of, item_annotation, keys_of
from samtune.config.trial import SECTIONS
from samtune.config.yaml_source import did_you_mean

_UNION_TAGS = ("union_tag_invalid", "union_tag_not_found")


def problems_of(error: ValidationError, config: type[Config], root: Located) -> list[Problem]:
    """All problems that pydantic found, each in our words and at its place.

    Args:
        config: the class that was validated.
        root: what was validated, located.
    """
    groups: dict[tuple[Place, str], list[tuple[ErrorDetails, _Found]]] = {}
    for report in error.errors(include_url=False):
        found = _find(report["loc"], config, root)
        groups.setdefault((found.place, found.place.key), []).append((report, found))
    problems = [_problem(group, root) for group in groups.values()]
    # A part of a union that is no mapping reports too, above the key that is wrong in the mapping.
    inner = {problem.place.key for problem in problems}
    return [
        p for p in problems if p.kind != "value" or not any(key.startswith(f"{p.place.key}.") for key in inner)
    ] or problems


class _Found:
    """What a path in pydantic's report leads to: the value, its place, and the keys that are valid beside it."""

    def __init__(self, config: type[Config], root: Located) -> None:
        self.annotation: Any = config
        self.root = root
        self.node: Located | None = root
        self.place = root.place
        self.options = list(fields_of(config))
        self.last: str | int = ""

    def step(self, part: str | int) -> None:
        """Follows one part of the path; the tag of a union, which nobody wrote, leads nowhere."""
        node = self.node
        name = node.child("name") if node is not None else None
        owner = config_class(self.annotation, name.value if name is not None else None)
        fields = fields_of(owner) if owner else {}
        child = node.child(part) if node is not None else None
        if isinstance(part, str) and (part in fields or (child is not None and isinstance(node.value, dict))):  # type: ignore[union-attr]
            self.options = list(fields)
            self.annotation = fields[part].annotation if part in fields else None
        elif child is not None:
            self.annotation = item_annotation(self.annotation)
        else:
            return
        self.node, self.last = child, part
        self.place = child.place if child is not None else self.place.inside(part)


def _find(loc: Iterable[int | str], config: type[Config], root: Located) -> _Found:
    found = _Found(config, root)
    for part in loc:
        found.step(part)
    return found


def _problem(group: list[tuple[ErrorDetails, _Found]], root: Located) -> Problem:
    """One problem of the reports about one place: the members of a union of values each report theirs."""
    reports = [report for report, _ in group]
    details, found = group[0]
    kind, context = details["type"], details.get("ctx", {})
    value = found.node.plain() if found.node is not None else None
    if kind == "space_rule":
        key = str(context.get("key", ""))
        return Problem(root.place_of(key.split(".")) if key else found.place, rule_of(details))
    if len(reports) > 1:
        rules = " or ".join(dict.fromkeys(map(rule_of, reports)))
        return Problem(found.place, rules.replace(" or must be", ", or"), repr(value))
    if kind == "extra_forbidden":
        return Problem(found.place, f"unknown key{_nearest_key(found)}", kind="key")
    if kind == "missing":
        return Problem(found.place, "is required", kind="missing")
    if kind in _UNION_TAGS:
        return _wrong_name(kind, context, found)
    if kind == "literal_error":
        options = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        hint = did_you_mean(str(value), options) if options else ""
        return Problem(found.place, rule_of(details), f"{value!r}{hint}")
    return Problem(
        found.place, rule_of(details), None if kind == "value_error" else f"{value!r}{_what_to_write(value)}"
    )


def _nearest_key(found: _Found) -> str:
    """The valid key that was meant; of a key at the top, one of a section too: `training.lr` for `lr`."""
    word = str(found.last)
    hint = did_you_mean(word, found.options)
    if "did you mean" in hint:
        return hint
    section, _, _ = found.place.key.rpartition(".")
    if "options" in found.options:
        return f"{hint}; what the function or class takes itself goes into {section}.options.{word}"
    if section:
        return hint
    if found.root.child("train") is not None:
        return f"{hint}; what your training function reads goes into config.{word}"
    inner = did_you_mean(word, [f"{s}.{key}" for s in SECTIONS for key in keys_of(s)], "")
    return inner if "did you mean" in inner else hint


def _what_to_write(value: Any) -> str:
    """For a value that is a number in another tool's syntax: how it is written here."""
    if not isinstance(value, str):
        return ""
    if reference := re.fullmatch(r"\$\{([\w.]+)\}", value):
        return f"; did you mean {{expr: {reference[1]}}}?"
    try:
        float(value)
    except ValueError:
        return ""
    return "; write numbers without quotes"


def _wrong_name(kind: str, context: dict[str, Any], found: _Found) -> Problem:
    name = found.node.child("name") if found.node is not None else None
    if name is None:
        return Problem(found.place, "needs a name, e.g. {name: …}", kind="missing")
    place = name.place
    if place.key == f"{found.place.key}.name" and place.branches == found.place.branches:
        keys = (*place.option_keys, found.place.key) if place.option else ()
        place = replace(place, key=found.place.key, option_keys=keys)
    if kind == "union_tag_not_found":
        return Problem(place, "needs a name, e.g. {name: …}", repr(name.plain()), "key")
    tags = re.findall(r"'([^']*)'", str(context.get("expected_tags", "")))
    tag = str(context.get("tag"))
    if tag.lower() == "adam" and "adamw" in tags:
        hint = "; Adam is adamw with training.weight_decay: 0"
        return Problem(place, f"unknown name {tag!r}{hint}", kind="key")
    return Problem(place, f"unknown name {tag!r}{did_you_mean(tag, tags)}", kind="key")


def rule_of(details: ErrorDetails) -> str:
    """The broken rule in our words: `must be greater than 0`."""
    if details["type"] in ("model_type", "model_attributes_type"):
        return "must be a mapping of keys to values"
    message = details["msg"].removeprefix("Value error, ")
    return (message[:1].lower() + message[1:]).replace("input should", "must")


def problem_of(error: ValueError, place: Place) -> Problem:
    """The problem of a value that was refused as a whole: a distribution or an expression."""
    if not isinstance(error, ValidationError):
        return Problem(place, str(error))
    details = error.errors(include_url=False)[0]
    return Problem(place, rule_of(details), None if details["type"] == "value_error" else repr(details["input"]))
