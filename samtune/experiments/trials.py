"""What a `Runner` needs to know of the trials of a study, whether a search, a confirmation or a training has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from samtune.config.search import CheckpointConfig
from samtune.config.trial import TrialSpec
from samtune.experiments.plan import Layout, Summary
from samtune.study import Study
from samtune.tune.trial_source import Definition, TrialSource


class StudyDefinition(Definition, Layout, Protocol):
    """What a study trains, and how its trials run: a `SearchSpace` or a `CandidateList`."""

    @property
    def checkpoint(self) -> CheckpointConfig: ...
    @property
    def max_failures(self) -> int: ...
    @property
    def timeout(self) -> float | None: ...
    @property
    def keep_weights(self) -> int: ...

    def to_yaml(self) -> str: ...


class Trials(Protocol):
    """The trials of a study, before it runs: what they are, and who proposes them.

    Attributes:
        definition: is written to the study's journal.
    """

    @property
    def definition(self) -> StudyDefinition: ...

    def variants(self) -> Iterable[TrialSpec]:
        """Trials at the ends of everything that decides about the shape or the cost of one."""

    def layouts(self) -> Sequence[TrialSpec] | None:
        """A trial for each way in which a batch may be split; None where these cannot be listed."""

    def summary(self) -> Summary:
        """How the trials are found, for the plan."""

    def prepare(self, storage: str, tracking_uri: str) -> None:
        """Of a new study, before any trial starts: loads what it names. Raises UsageError where that is not there.

        Args:
            storage: the folder or URI of all studies.
        """

    def source(self, study: Study, folder: Path, parallel: bool) -> tuple[TrialSource, list[str]]:
        """Proposes the study's trials; and lines worth telling the user.

        Args:
            folder: where this process writes the study's own files.
            parallel: whether several trials run at once.
        """
