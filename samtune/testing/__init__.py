"""Tests for methods of one's own: what every method promises, whatever its mathematics.

    from samtune.sam import Method
    from samtune.testing import MethodContract

    class TestMyRule(MethodContract):
        method = Method(MyRule, rho=0.1, alpha=0.3)
        passes_per_step = 2.0

pytest runs it like any other class of tests. samtune's own methods go through it too.
"""

from __future__ import annotations

from samtune.testing.contract import MethodContract

__all__ = ["MethodContract"]
