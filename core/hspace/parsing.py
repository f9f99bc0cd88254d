"""Numbers and texts as users write them between commas."""

from __future__ import annotations

from ..errors import UserError


def counted(text: str) -> list[int]:
    """Counting numbers between commas or spaces. Raises UserError for anything else."""
    try:
        found = [int(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise UserError(f'"{text}" is not a list of numbers; write numbers with commas between them: 0, 2') from error
    if any(number < 0 for number in found):
        raise UserError(f'"{text}" has a number below 0; count from 0.')
    return found


def percents(text: str) -> list[float] | None:
    """Parts of the sampling between commas, or None for "all". Raises UserError for anything else."""
    if text.strip().casefold() == "all":
        return None
    try:
        found = [float(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise UserError(
            f'"{text}" is not a list of numbers; write all, or numbers separated by commas: 0.2, 0.5'
        ) from error
    if not found or not all(0 <= percent <= 1 for percent in found):
        raise UserError(f'"{text}" must hold numbers from 0 to 1, or be: all')
    return found


def two_texts(text: str) -> list[str]:
    """Two texts between a comma; none for an empty text. Raises UserError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if parts == [""]:
        return []
    if len(parts) != 2 or not all(parts):
        raise UserError(f'"{text}" must be two texts with a comma between them: a man, a woman')
    return parts
