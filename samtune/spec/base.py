"""The base of every validated configuration."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen, strict section of a search space: unknown keys and wrong types are errors, `3` is a valid float."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        serialize_by_alias=True,  # `lambda` cannot be a name in Python: the YAML's names are the aliases
        validate_by_name=True,
    )
