"""The experiments of the papers: what is published, the space that makes it, its cost, and what was measured here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from samtune.config.builtin_spaces import PAPERS, builtin_spaces, summary
from samtune.errors import SamtuneError
from samtune.experiments.candidates import CandidateList, stored_candidates
from samtune.experiments.confirmation import confirmation_of, format_estimate
from samtune.experiments.statistics import Estimate
from samtune.storage import join
from samtune.store.study_folder import DEFAULT_STORAGE, absolute_storage, study_folder, study_names
from samtune.study import Study

_PLACE = re.compile(r"(table|figure|section|appendix) (\w*?\.?)(\d+)(?:\.(\d+))?")


@cache
def published() -> dict[str, Any]:
    """`published.yaml`: by space and place the published `figures`, and what is `stated` where there are none."""
    found: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
    return found


@dataclass(frozen=True)
class Experiment:
    """One table, figure, section or appendix of a paper, as far as one space makes it.

    Attributes:
        paper: folder of the built-in spaces (a key of `PAPERS`); `place`: `table 1`, `appendix C.5`.
        space: name of the built-in space; `title` its first line, `cost` what its head says of its cost.
        measure, columns, rows: the published figures as printed, by the row's label; empty where there are none.
        stated: what the paper's text says where it prints no figure.
    """

    paper: str
    place: str
    space: str
    title: str
    cost: str
    measure: str = ""
    columns: tuple[str, ...] = ()
    rows: Mapping[str, Sequence[str]] | None = None
    stated: str = ""


@dataclass(frozen=True)
class Measured:
    """What a study in the storage path measured with a space.

    Attributes:
        kind: confirmation and training were tested on the test set, a search on its validation set.
        results: by candidate, or for a search its best trial: the metric's mean and interval.
    """

    study: str
    kind: str
    metric: str
    results: Mapping[str, Estimate]

    def __str__(self) -> str:
        cells = (f"{label} {format_estimate(value)}" for label, value in self.results.items())
        return f"{self.study} ({self.kind}), {self.metric}: {' | '.join(cells)}"

    def to_dict(self) -> dict[str, Any]:
        """JSON types only."""
        results = {label: asdict(value) for label, value in self.results.items()}
        return {"study": self.study, "kind": self.kind, "metric": self.metric, "results": results}


def list_experiments(text: str = "") -> list[Experiment]:
    """The experiments of both papers, by paper and place.

    Args:
        text: only those with this in their place or their space's name; `table 1` is not `table 10`.
    """
    wanted = re.compile(rf"(?<!\w){re.escape(text)}(?!\w)", re.IGNORECASE)
    found = [each for each in _all_experiments() if not text or wanted.search(each.place) or text in each.space]
    return sorted(found, key=lambda each: (list(PAPERS).index(each.paper), _order(each.place)))


def measured_in(storage_path: str | Path | None) -> tuple[dict[str, list[Measured]], list[str]]:
    """What the studies of a storage path measured, by the built-in space, and one line for each that is not readable.

    A study belongs to a space by the name that the space's file gives, or a command in its head.

    Raises:
        UsageError: the path will not do.
    """
    storage = absolute_storage(storage_path or DEFAULT_STORAGE)
    spaces = {name: space for space in _spaces() for name in _names(space)}
    found: dict[str, list[Measured]] = {}
    problems = []
    for name in study_names(storage):
        try:
            study = study_folder(storage, name).read()
            document = yaml.safe_load(study.space_yaml)
            space = spaces.get(str(document.get("name"))) if isinstance(document, dict) else None
            if space is not None and (measured := _measured(study)) is not None:
                found.setdefault(space, []).append(measured)
        except (SamtuneError, ValueError, yaml.YAMLError) as error:
            problems.append(f"{join(storage, name)}: cannot be read: {error}")
    return found, problems


def _spaces() -> list[str]:
    return list(dict.fromkeys([*published()["figures"], *published()["stated"]]))


def _all_experiments() -> Iterator[Experiment]:
    for space in _spaces():
        path = builtin_spaces()[space]
        common: dict[str, Any] = {
            "paper": space.partition("/")[0],
            "space": space,
            "title": summary(path),
            "cost": _cost(path),
        }
        for place, block in published()["figures"].get(space, {}).items():
            columns = tuple(block["columns"])
            yield Experiment(**common, place=place, measure=block["measure"], columns=columns, rows=block["rows"])
        for place, statement in published()["stated"].get(space, {}).items():
            yield Experiment(**common, place=place, stated=statement)


def _order(place: str) -> tuple[int, str, int, int]:
    """Tables, then figures, sections and appendices, by number: table 9 before table 10, appendix C.5 before C.6."""
    found = _PLACE.fullmatch(place)
    assert found is not None
    kind, letter, number, part = found.groups()
    return ("table", "figure", "section", "appendix").index(kind), letter, int(number), int(part or 0)


def _head(path: Path) -> str:
    text, _, _ = path.read_text(encoding="utf-8").partition("\n\n")
    return text


def _cost(path: Path) -> str:
    found = re.search(r"^# Cost: ([^;\n]+)", _head(path), re.MULTILINE)
    return found[1].rstrip(". ") if found else ""


def _names(space: str) -> set[str]:
    """The names of the studies' spaces: the file's own, and those that the commands in its head set."""
    path = builtin_spaces()[space]
    own = re.search(r"^name: *(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {*re.findall(r"--set name=(\S+)", _head(path)), *([own[1]] if own else [])}


def _measured(study: Study) -> Measured | None:
    """None where no trial was completed."""
    if study.kind == "search":
        best = study.best
        value = study.objective.value(best) if best else None
        if best is None or value is None:
            return None
        return Measured(study.name, study.kind, str(study.objective), {f"trial {best.number}": Estimate(value, None)})
    candidates: CandidateList = stored_candidates(study)
    rows = confirmation_of(study, candidates).rows
    results = {row.label: row.estimate for row in rows if row.estimate is not None}
    return Measured(study.name, study.kind, study.objective.metric, results) if results else None


def format_published(experiment: Experiment) -> list[str]:
    """The published figures, or what is stated instead, in lines."""
    if experiment.rows is None:
        return [f"stated: {experiment.stated}"]
    lines = [f"published, {experiment.measure}: {' | '.join(experiment.columns)}"]
    return lines + [f"  {label}: {' | '.join(figures)}" for label, figures in experiment.rows.items()]
