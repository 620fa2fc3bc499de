"""A coordinator without Ray: what the tests have in common that drive one as workers, Trainables and the driver do."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from samtune.config.space import SearchSpace
from samtune.config.trial import TrialSpec

FAR = 1000
"""An epoch that no trial has: whoever asks for it waits for all."""


def spec_of(epochs: int) -> TrialSpec:
    """A trial on digits."""
    return SearchSpace.from_yaml("digits.yaml", [f"training.epochs={epochs}", "search={}", "initial=[]"]).trial({})


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Runs it to its end."""
    asyncio.run(scenario)
