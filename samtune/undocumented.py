"""What samtune uses of a library although the library does not document it, as data.

Each room lists its names in one module: `samtune.raylib.names`, `samtune.tune.optuna_names`,
`samtune.tracking.mlflow_names`. A test resolves every name in the installed library and binds the call that is made, so
that a new release of the library shows as a list of failures with a reason each.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Undocumented:
    """One name.

    Attributes:
        path: `package.module:name.attribute`. The last part may be an attribute that a class sets on its instances.
        why: what samtune needs it for.
        instead: what would replace it.
        call: the arguments of the call that is made, or that the library makes where the name is overridden, e.g.
            `(self, trial, by=1)`; None: nothing is called.
        override: `module:name.attribute` of samtune's that takes its place, and so takes the same call.
    """

    path: str
    why: str
    instead: str
    call: str | None = None
    override: str | None = None


@dataclass(frozen=True)
class Variable:
    """One environment variable that samtune sets or reads.

    Attributes:
        name: of the variable.
        module: of the library, that reads it.
        why: what samtune needs it for.
        value: what samtune sets where the user has not set it; None: samtune only reads it.
    """

    name: str
    module: str
    why: str
    value: str | None = None
