"""What a user is told: one sentence that says what was found, what was expected and what to do."""

import torch


class UserError(ValueError):
    """Input that can't be used as it is. Its message is shown to the user as it stands."""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: a GPU's, or the machine's, of which torch tells in words alone."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)
