"""Where the time of long work goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Clock:
    """Seconds by what they were spent on; what is measured inside of something else counts there only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inside = 0.0  # of the measured part that runs, what its own measured parts took

    @contextmanager
    def measure(self, what: str) -> Iterator[None]:
        """Adds the seconds that the context takes to those of `what`, a part's name in the report."""
        start, outer, self._inside = time.perf_counter(), self._inside, 0.0
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[what] = self.seconds.get(what, 0.0) + spent - self._inside
            self._inside = outer + spent

    def measured(self, what: str, work: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        """The same work, of which each call is measured as `what`."""

        def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            with self.measure(what):
                return work(*args, **kwargs)

        return run

    def report(self) -> str:
        """Each part with its seconds and its share."""
        total = sum(self.seconds.values()) or 1.0
        return ", ".join(f"{what} {spent:.1f} s ({spent / total:.0%})" for what, spent in self.seconds.items())
