"""`samtune schema`."""

from __future__ import annotations

import json


def schema() -> None:
    """Print the JSON Schema of search spaces, from which editors complete and check a YAML file.

    In VS Code (extension YAML): `samtune schema > samtune.json`, and as the file's first line
    `# yaml-language-server: $schema=samtune.json`.
    """
    from samtune.config.schema import space_schema

    print(json.dumps(space_schema(), indent=2))
