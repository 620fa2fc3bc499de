"""Before a study that somebody else made imports anything or writes anywhere, its user is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from samtune.errors import UsageError
from samtune.storage import parent
from samtune.study import Study
from samtune.tracking import is_configured
from samtune.user_source import UserFunction, named_functions


class UntrustedError(UsageError):
    """Something that this user did not make would run code, or send data away.

    Attributes:
        reasons: a line for each thing that it would do.
    """

    def __init__(self, what: str, reasons: list[str]) -> None:
        super().__init__(f"{what}, and it {'; it '.join(reasons)} (--trust, or trust=True, allows it)")
        self.what, self.reasons = what, reasons


def check_trust(study: Study, tree: Mapping[str, Any], *, trust: bool) -> None:
    """Makes sure that a study is this user's own, or does nothing that a stranger's must not do.

    Args:
        tree: the configurations that its trials are built from; those of the trials themselves are looked at too.
        trust: the user allows it.

    Raises:
        UntrustedError: it is somebody else's, and names functions that would be imported, or a tracking server that is
            not the one configured here.
    """
    if trust or study.is_own:
        return
    reasons = [f"imports {each}" for each in functions_of(study, tree)]
    if not is_configured(study.tracking_uri, parent(study.storage_path)):
        reasons.append(f"logs to {study.tracking_uri}, with the credentials of this environment")
    if reasons:
        raise UntrustedError(f"study {study.name} was not begun by this user on this machine", reasons)


def functions_of(study: Study, tree: Mapping[str, Any]) -> list[UserFunction]:
    """The functions that a study imports where it is resumed."""
    found = named_functions(tree) + [each for trial in study for each in named_functions(trial.config)]
    first: dict[str, UserFunction] = {}
    for each in found:
        first.setdefault(each.path, each)
    return list(first.values())
