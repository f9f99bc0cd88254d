"""Measures that are taken part by part: what a file holds already is not taken anew."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from .measures import Measure, report

Subject = TypeVar("Subject")
Part = Iterator[tuple[Measure, dict[str, Any]]]  # measures, each with details worth keeping


@dataclass(frozen=True)
class Evaluation(Generic[Subject]):
    """The parts of a command that measures."""

    command: str
    parts: Mapping[str, Callable[[Subject], Part]]
    conditions: Mapping[str, Any]  # what measures depend on, as JSON has it

    def known(self, file: Path | None) -> dict[str, tuple[list[Measure], dict[str, Any]]]:
        """What an earlier run has measured under the same conditions, by part."""
        if file is None or not file.is_file():
            return {}
        told = json.loads(file.read_text(encoding="utf-8"))
        settings, rows = told["settings"], {row["name"]: row for row in told["measures"]}
        if any(settings[name] != value for name, value in self.conditions.items()):
            return {}
        return {
            part: ([Measure.from_row(rows[name]) for name in names], settings["details"][part])
            for part, names in settings["parts"].items()
        }

    def run(self, subject: Callable[[], Subject], only: Sequence[str] | None, file: Path | None) -> None:
        """Measures the parts that `file` does not hold, or `only` these; reports after each."""
        known = self.known(file)
        made = subject()
        for part in only or [part for part in self.parts if part not in known]:
            measures, details = [], {}
            for measure, detail in self.parts[part](made):
                measures.append(measure)
                details |= detail
            known[part] = measures, details
            settings = {
                **self.conditions,
                "parts": {part: [measure.name for measure in known[part][0]] for part in known},
                "details": {part: known[part][1] for part in known},
            }
            measures = [measure for part in self.parts if part in known for measure in known[part][0]]
            report(self.command, settings, measures, file)
