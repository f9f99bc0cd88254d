"""Measures of one command: against their targets, as a table and as JSON."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student

from ..core import storage
from ..core.conceptor.shares import Share

TARGETS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "targets.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Measure:
    """One figure of `n` values, and the interval that goes with it; None when it can't be taken (`reason`)."""

    name: str
    value: float | None
    unit: str
    n: int
    interval: tuple[float, float] | None
    reason: str | None = None

    @classmethod
    def of(cls, name: str, values: Sequence[float], unit: str) -> Measure:
        """The median, between the least and the largest value."""
        return cls(name, statistics.median(values), unit, len(values), (min(values), max(values)))

    @classmethod
    def mean(cls, name: str, values: Sequence[float], unit: str = "%") -> Measure:
        """The mean, with Student's 95 % interval."""
        if not values:
            return cls(name, None, unit, 0, None, "nothing to take it from")
        middle = statistics.mean(values)
        spread = 0.0
        if len(values) > 1:
            spread = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
        return cls(name, middle, unit, len(values), (middle - spread, middle + spread))

    @classmethod
    def share(cls, name: str, hits: Sequence[bool]) -> Measure:
        """The share of hits in per cent, with Wilson's 95 % interval."""
        if not hits:
            return cls(name, None, "%", 0, None, "nothing to take it from")
        share = Share(sum(hits), len(hits))
        low, high = share.interval
        return cls(name, 100 * share.value, "%", len(hits), (100 * low, 100 * high))

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Measure:
        """The measure of which `row` told."""
        interval = tuple(row["interval"]) if row["interval"] else None
        return cls(row["name"], row["value"], row["unit"], row["n"], interval, row["reason"])

    def row(self) -> dict[str, Any]:
        """The measure with its target and whether it is reached (None without a value or a target)."""
        target = TARGETS.get(self.name, {"target": None, "better": None})
        ok = None
        if self.value is not None and target["target"] is not None:
            higher = target["better"] == "higher"
            ok = self.value >= target["target"] if higher else self.value <= target["target"]
        return {**asdict(self), **target, "ok": ok}


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_extra_megabytes(work: Callable[[], object]) -> float | None:
    """How far the process grows beyond its size before `work` (Linux only, which can reset its high-water mark)."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not clear.exists():
        return None

    def kilobytes(field: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field))

    clear.write_text("5")
    before = kilobytes("VmRSS")
    work()
    return (kilobytes("VmHWM") - before) / 1024


def machine() -> str:
    kind = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f"{kind}, {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def report(command: str, settings: Mapping[str, Any], measures: Sequence[Measure], file: Path | None) -> None:
    """Prints the table, and writes the same as JSON when `file` is given."""
    rows = [measure.row() for measure in measures]
    print(f"{command} ({machine()})")
    for row in rows:
        value = row["reason"] if row["value"] is None else f"{row['value']:.4g} {row['unit']}"
        sign = {"higher": ">=", "lower": "<=", None: ""}[row["better"]]
        verdict = {True: "ok", False: "not reached", None: ""}[row["ok"]]
        target = "" if row["target"] is None else f"target {sign} {row['target']}: {verdict}"
        print(f"  {row['name']:<75} {value:<16} {target}".rstrip())
    if file:
        result = {"command": command, "date": date.today().isoformat(), "settings": dict(settings)}
        result |= {"machine": machine(), "measures": rows}
        storage.write_bytes(file, (json.dumps(result, indent=1) + "\n").encode())
