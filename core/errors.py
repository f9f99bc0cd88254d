"""What a user is told: one sentence that says what was found, what was expected and what to do."""

import sys
from collections.abc import Callable

import torch


class UserError(ValueError):
    """Input that can't be used as it is. Its message is shown to the user as it stands."""


class UnreadableError(UserError):
    """Weights that can't be read, of a model that may run all the same."""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: a GPU's, or the machine's, of which torch tells in words alone."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)


def exit_code(work: Callable[[], object]) -> int:
    """Does a program's work: 0, or 1 after the sentence of a UserError was written to stderr."""
    try:
        work()
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0
