"""`python -m samtune.docs` writes the generated page, `python-api.md`, into the package's folder."""

from __future__ import annotations

from pathlib import Path

from samtune.docs.python_api import python_api

if __name__ == "__main__":
    Path(__file__).with_name("python-api.md").write_text(python_api(), encoding="utf-8")
