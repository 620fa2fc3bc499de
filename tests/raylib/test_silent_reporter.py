"""What Tune logs of its own state, which samtune does not read."""

from __future__ import annotations

import logging

from ray.tune.execution.experiment_state import logger

from samtune.raylib.silent_reporter import silent_tune


class Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def test_errors_about_tune_s_state_are_not_shown_while_a_search_runs() -> None:
    heard = Heard()
    logger.addHandler(heard)
    try:
        with silent_tune():
            logger.error("Saving experiment state failed")
        logger.error("of another use of Tune")
    finally:
        logger.removeHandler(heard)
    assert heard.lines == ["of another use of Tune"]
