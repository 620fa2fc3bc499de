"""The base of every validated configuration."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from samtune.user_code import IMPORT_PATH, is_path

ImportPath = Annotated[str, Field(pattern=f"^{IMPORT_PATH}$")]
"""`package.module:function`."""


def _function_path(path: str) -> str:
    if not is_path(path):
        raise ValueError(f"must be folder/file.py:function or package.module:function (got {path!r})")
    return path


FunctionPath = Annotated[str, AfterValidator(_function_path)]
"""`package.module:function` or `folder/file.py:function`."""


class Config(BaseModel):
    """A frozen, strict section of a search space: unknown keys and wrong types are errors, `3` is a valid float.

    The docstring below a field says what the key is for, see `samtune.config.field_texts`.
    """

    model_config = ConfigDict(
        defer_build=True,  # a process that only passes configurations on needs no validators
        extra="forbid",
        frozen=True,
        strict=True,
        serialize_by_alias=True,  # `lambda` cannot be a name in Python: the YAML's names are the aliases
        validate_by_name=True,
    )


def own_or_builtin(value: Any) -> str:
    """Tells a section that names a part of the user's (`package.module:function`) from one of samtune's."""
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    return "own" if isinstance(name, str) and ":" in name else "builtin"
