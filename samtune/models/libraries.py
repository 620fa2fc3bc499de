"""Which networks the installed libraries have."""

from __future__ import annotations

from fnmatch import fnmatch

from samtune.config.yaml_source import did_you_mean
from samtune.errors import UsageError


def list_architectures(pattern: str) -> list[str]:
    """The networks of a library, as a space names them.

    Args:
        pattern: `timm:`, or with wildcards `timm:vit*`.

    Raises:
        UsageError: the library is not installed, or nothing matches.
    """
    library, _, wanted = pattern.partition(":")
    if library == "timm":
        from samtune.models.from_timm import timm_architectures as architectures
    else:
        from samtune.models.from_transformers import transformers_architectures as architectures
    # timm's tags say which weights a name stands for: a space names a file, so that they are seldom wanted.
    names = [name for name in architectures() if "." in wanted or "." not in name]
    found = [f"{library}:{name}" for name in names if fnmatch(name, wanted or "*")]
    if not found:
        near = did_you_mean(wanted, names, f"; `samtune models {library}:` lists them")
        raise UsageError(f"{pattern}: {library} has no such network{near}")
    return found
