"""The sections of a space as its YAML has them: what is searched stands in `search` alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from samtune.config.located import Located
from samtune.config.searched import searched_in
from samtune.config.template import Template
from samtune.config.trial import SECTIONS


def drop_searched(sections: dict[str, Any], searched: Iterable[str]) -> None:
    """Removes from plain sections the values of keys that are searched: no trial has them.

    Args:
        sections: by name, changed in place; items of lists stay, which cannot be left out.
        searched: dotted keys.
    """
    for key in searched:
        *path, last = key.split(".")
        holder: Any = sections
        for part in path:
            if isinstance(holder, list):
                holder = holder[int(part)] if part.isdecimal() and int(part) < len(holder) else None
            else:
                holder = holder.get(part) if isinstance(holder, dict) else None
        if path and isinstance(holder, dict):
            holder.pop(last, None)


def only_written(sections: dict[str, Any], template: Template) -> None:
    """Leaves out the defaults of sections whose name is searched: each class has its own, asam another rho than sam.

    Args:
        sections: by name, as one trial has them; changed in place. What is written and only another class has is added.
    """
    for section in SECTIONS:
        if f"{section}.name" in template.nodes and isinstance(dumped := sections.get(section), dict):
            written: dict[str, Located] = template.sections[section].value
            fixed = {key: node for key, node in written.items() if key in dumped or not any(searched_in(node))}
            sections[section] = {key: dumped[key] if key in dumped else node.plain() for key, node in fixed.items()}
