"""From what was written to the template: the rules of which keys may be searched, and where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from samtune.config.expressions import Expression, resolve_name
from samtune.config.located import Located, Place, Problem, join, leaves
from samtune.config.searched import MISSING, Branches, Expr, Parser, is_searched, says, searched_in
from samtune.config.sections import classes_of, config_classes, fields_of, keys_of
from samtune.config.template import Template
from samtune.config.trial import OPEN_SECTION, SECTIONS
from samtune.config.yaml_source import did_you_mean


def parse_template(root: Located) -> tuple[Template | None, list[Problem]]:
    """Parses the sections and the search of a configuration that is spelled out.

    Returns:
        The template, and what is wrong with what was written; None where that is no tree to look at further.
    """
    parser = Parser()
    sections = {s: parser.tree(node) for s in SECTIONS if (node := root.child(s)) is not None}
    listed, problems = _listed(root, parser)
    problems += parser.problems
    if root.child("train") is not None:
        for section, name in (("data", "no_data"), ("model", "no_model")):
            sections.setdefault(section, Located({"name": Located(name, root.place)}, root.place))
    problems += _missing(root, sections, listed)
    for section in SECTIONS:
        whole = sections.get(section) or listed.get(section)
        if whole is not None and whole.value is not MISSING and not _is_section(whole):
            written = root.child(section) or root.at(("search", section))
            got = repr(written.plain()) if written is not None else None
            problems.append(Problem(whole.place, "as a whole it is a choice between mappings", got))
        if section in sections and section in listed:
            problems.append(Problem(listed[section].place, f"{section} is fixed too; write its keys in the choices"))
    for section, node in sections.items():
        for key, _ in searched_in(node, section):
            if key in listed and key not in SECTIONS:
                problem = f"is searched in the section {section} too; write it once"
                problems.append(Problem(listed[key].place, problem))
    if problems:
        return None, problems
    template = Template(sections, listed, root.place.source)
    return template, [*_keys(template), *_once(template)]


def _listed(root: Located, parser: Parser) -> tuple[dict[str, Located], list[Problem]]:
    """What is listed under `search`."""
    search = root.child("search")
    if search is None:
        return {}, []
    if not isinstance(search.value, dict):
        rule = "must be a mapping of dotted keys to distributions"
        return {}, [Problem(search.place, rule, repr(search.plain()))]
    listed: dict[str, Located] = {}
    problems: list[Problem] = []
    for key, node in search.value.items():
        place = replace(node.place, key=join(search.place.key, key), branches=())
        if key in SECTIONS and isinstance(node.value, dict) and node.value and not is_searched(node):
            inner = next(iter(node.value))
            problems.append(Problem(place, f"keys of the search are dotted: write {key}.{inner}", kind="key"))
        else:
            listed[key] = parser.searched(node, place)
    return listed, problems


def _missing(root: Located, sections: Mapping[str, Located], listed: Mapping[str, Located]) -> Iterator[Problem]:
    for section in ("data", "model", "method"):
        if section not in sections and section not in listed and f"{section}.name" not in listed:
            yield Problem(root.place_of((section,)), "is required", kind="missing")


def _is_section(node: Located) -> bool:
    """Whether a section is a mapping, or a choice between mappings; other values are refused with their type."""
    if isinstance(node.value, Branches):
        return all(option.has_keys for option in node.value.options)
    return not any(key == "" for key, _ in searched_in(node))


def _keys(template: Template) -> Iterator[Problem]:
    """What is searched must be a key of a section, and so must what stands beside a searched name."""
    for key, node in template.located.items():
        section, _, path = key.partition(".")
        if section == OPEN_SECTION:
            continue
        if section not in SECTIONS or (not path and not isinstance(node.value, Branches)):
            shown = _sections(template)
            valid = [f"{s}.{field}" for s in shown for field in template.fields(s)]
            rule = f"unknown key; a searched key is in {', '.join(shown)}{did_you_mean(key, valid)}"
            yield Problem(node.place, rule, kind="key")
        elif path and (fields := template.fields(section)) and path.partition(".")[0] not in fields:
            yield Problem(node.place, f"unknown key{did_you_mean(path, fields)}", kind="key")
        elif path and isinstance(node.value, Branches) and node.value.has_keys and not _has_keys(section, path):
            option = next(option for option in node.value.options if option.has_keys)
            rule = f"takes no keys of its own; list its values, or branches of {section}"
            yield Problem(option.body.place, rule, repr(option.body.value and option.label))
    for section in SECTIONS:
        node = template.sections[section]
        if f"{section}.name" in template.nodes and isinstance(node.value, dict):
            fields = [key for name in template.names(section) for key in keys_of(section, name)]
            for key, item in node.value.items():
                if fields and key not in fields and f"{section}.{key}" not in template.nodes:
                    yield Problem(item.place, f"unknown key{did_you_mean(key, dict.fromkeys(fields))}", kind="key")


def _sections(template: Template) -> list[str]:
    """Those that a space has, with a training function or without."""
    own = template.sections["model"].child("name")
    hidden = ("data", "model") if own is not None and own.value == "no_model" else (OPEN_SECTION,)
    return [section for section in SECTIONS if section not in hidden]


def _has_keys(section: str, path: str) -> bool:
    """Whether a field of a section has keys itself, like `training.diagnostics`; what lies deeper is not looked at."""
    field, _, deeper = path.partition(".")
    found = [fields_of(cls)[field].annotation for cls in classes_of(section) if field in fields_of(cls)]
    return bool(deeper) or any(True for annotation in found for _ in config_classes(annotation)) or _is_open(found)


def _is_open(annotations: Iterable[Any]) -> bool:
    """Whether a field takes any mapping, like the options of the user's own model."""
    return any("dict" in str(annotation) or annotation is Any for annotation in annotations)


def _once(template: Template) -> Iterator[Problem]:
    """What a branch searches or fixes is not searched by its dotted key too: one of the two would be lost."""
    for top, node in template.nodes.items():
        if not isinstance(node, Branches):
            continue
        inner_keys = {leaf.key for leaf in Template({}, {top: template.located[top]}).leaves()}
        for key in template.nodes:
            if key != top and key in inner_keys:
                yield Problem(template.located[key].place, f"is searched with {top} too; write it once")
            elif node.has_keys and key.startswith(f"{top}."):
                inner = key[len(top) + 1 :]
                if inner == "name" or any(says(option.body, inner) for option in node.options):
                    message = f"is also set in a branch of {top}; define it in one place"
                    yield Problem(template.located[key].place, message)


# -- expressions -----------------------------------------------------------------------------------------------------


def parse_constraints(root: Located) -> tuple[dict[Place, Expression], list[Problem]]:
    """The constraints by place, and what is wrong with them; what is no list of texts is refused with its type."""
    node = root.child("constraints")
    constraints: dict[Place, Expression] = {}
    problems: list[Problem] = []
    for item in node.value if node is not None and isinstance(node.value, list) else ():
        if not isinstance(item.value, str):
            continue
        try:
            constraint = constraints[item.place] = Expression(item.value)
        except ValueError as error:
            problems.append(Problem(item.place, str(error)))
            continue
        if not constraint.is_condition:
            problems.append(Problem(item.place, "must be a condition, e.g. a <= b", repr(item.value)))
    return constraints, problems


def resolve_names(
    template: Template, constraints: Mapping[Place, Expression], workers: Located | None
) -> tuple[dict[str, str], list[Problem]]:
    """The dotted key that every name in an expression or constraint means, and the names that mean none.

    Args:
        workers: resources.num_workers as written. No expression can use `auto`: what it is depends on the cluster.
    """
    keys = [f"{section}.{field}" for section in SECTIONS for field in template.fields(section)]
    keys += ["resources.num_workers", "seed"]
    keys += [".".join(map(str, path)) for path, _ in leaves(template.sections[OPEN_SECTION], (OPEN_SECTION,))]
    keys += [key for key in template.listed if key.startswith(f"{OPEN_SECTION}.") and key not in keys]
    keys += [leaf.key for leaf in template.leaves() if leaf.key not in keys and leaf.key.count(".") > 1]
    found = [(leaf.place, leaf.node.expression) for leaf in template.leaves() if isinstance(leaf.node, Expr)]
    names: dict[str, str] = {}
    problems: list[Problem] = []
    for place, expression in [*found, *constraints.items()]:
        for name in expression.names:
            try:
                names[name] = resolve_name(name, keys)
            except ValueError as error:
                problems.append(Problem(place, str(error)))
                continue
            if names[name] == "resources.num_workers" and workers is not None and workers.value == "auto":
                problem = "needs resources.num_workers as a number (it is auto, which depends on the cluster)"
                problems.append(Problem(place, f"{expression.text}: {problem}"))
    return names, problems
