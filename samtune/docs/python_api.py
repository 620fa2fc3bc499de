"""The page on the Python API, generated from the source: signatures and docstrings, without importing anything."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
MODULES = ("samtune", "samtune.lightning", "samtune.sam", "samtune.sharpness", "samtune.testing")
"""Whose `__all__` is public."""

_HEAD = """# Python API

Generated from the docstrings by `python -m samtune.docs`; do not edit. Every name is imported from the module in its
heading.
"""


def python_api() -> str:
    """The page as Markdown: every public name with its signature, its docstring and its public methods."""
    parts = [_HEAD]
    for module in MODULES:
        parts.append(f"## {module}\n")
        tree = _tree(module)
        sources = dict(_imported(tree))
        for name in sorted(_public(tree)):
            parts += _entry(name, _definition(_tree(sources[name][0]), sources[name][1]))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).strip() + "\n"


def _tree(module: str) -> ast.Module:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def _public(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    raise AssertionError("no __all__")


def _imported(tree: ast.Module) -> Iterator[tuple[str, tuple[str, str]]]:
    """Each imported name with its module and its name there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield alias.asname or alias.name, (node.module, alias.name)


def _definition(tree: ast.Module, name: str) -> tuple[ast.stmt, str]:
    """The statement that defines a name, and the documentation that follows it or stands in it."""
    for index, node in enumerate(tree.body):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node, ast.get_docstring(node) or ""
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if ast.unparse(target) == name:
                after = tree.body[index + 1] if index + 1 < len(tree.body) else None
                text = after.value if isinstance(after, ast.Expr) else None
                return node, str(text.value) if isinstance(text, ast.Constant) else ""
    raise AssertionError(f"no definition of {name}")


def _entry(name: str, found: tuple[ast.stmt, str]) -> Iterator[str]:
    node, docstring = found
    yield f"### {name}\n"
    if isinstance(node, ast.FunctionDef):
        yield _code(_signature(node))
    elif isinstance(node, ast.ClassDef):
        constructor = next((each for each in _functions(node) if each.name == "__init__"), None)
        bases = ", ".join(map(ast.unparse, node.bases))
        yield _code(_signature(constructor, name) if constructor else f"class {name}" + (f"({bases})" if bases else ""))
    else:
        yield _code(ast.unparse(node))
    yield _markdown(docstring)
    if isinstance(node, ast.ClassDef):
        for method in _functions(node):
            if not method.name.startswith("_"):
                yield _code(_signature(method, f"{name}.{method.name}"))
                yield _markdown(ast.get_docstring(method) or "")


def _functions(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [each for each in node.body if isinstance(each, ast.FunctionDef)]


def _signature(node: ast.FunctionDef, name: str | None = None) -> str:
    """`name(arguments) -> result`, an argument a line if it is long; a property without arguments."""
    decorators = {ast.unparse(each) for each in node.decorator_list}
    result = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    if decorators & {"property", "cached_property"}:
        return f"{name or node.name}{result.replace(' -> ', ': ')}"
    arguments = ast.unparse(node.args)
    if name:
        arguments = re.sub(r"^(self|cls)(, )?(/, )?", "", arguments)
    line = f"{name or node.name}({arguments}){result}"
    if len(line) <= 110:
        return line
    arguments = re.sub(r", (?=\*|\w+: |\w+=)", ",\n    ", arguments)
    return f"{name or node.name}(\n    {arguments},\n){result}"


def _code(text: str) -> str:
    return f"```text\n{text}\n```\n"


def _markdown(docstring: str) -> str:
    """A docstring whose `Args:` and other sections become lists."""
    lines: list[str] = []
    section = False
    for line in docstring.splitlines():
        heading = re.fullmatch(r"(Args|Returns|Raises|Yields|Attributes):", line)
        if heading:
            section = True
            lines.append(f"**{heading[1]}**\n")
        elif section and re.match(r"    [\w*.]+(, [\w*.]+)*: ", line):
            key, _, text = line.strip().partition(": ")
            lines.append(f"- `{key}`: {text}")
        elif section and line.startswith("    "):
            lines.append(f"  {line.strip()}" if line.startswith("     ") else line.strip())
        else:
            section = section and not line
            lines.append(line)
    return "\n".join(lines).strip() + "\n"
