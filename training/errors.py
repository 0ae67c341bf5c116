"""What a person can get wrong here, each as one readable message instead of a traceback."""

import difflib
from collections.abc import Iterable, Sequence

from pydantic import ValidationError

LISTED = 50
"""Most names that a message lists."""


def nearest(wrong: str, right: Sequence[str]) -> str:
    """The end of a message about a name that nobody knows: the nearest right one, if any is near."""
    near = difflib.get_close_matches(wrong, right, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def did_you_mean(wrong: str, right: Iterable[str]) -> str:
    """As `nearest`, with all of the right names where none is near."""
    names = list(right)
    listed = ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
    return nearest(wrong, names) or f"; there are {listed}"


def one_line(error: ValueError) -> str:
    """Return what an error says; of pydantic's, which take many lines, the first fault."""
    if not isinstance(error, ValidationError):
        return str(error)
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}".removeprefix(": ")


class TrainingError(Exception):
    """Base of the errors that the command line prints without a traceback."""


class RecipeError(TrainingError):
    """A recipe has an unknown key, a wrong type or a value out of range."""


class DataError(TrainingError):
    """A data file cannot be read, or holds bad records."""


class CheckpointError(TrainingError):
    """A checkpoint cannot be loaded, continued or served rightly."""


class GateError(TrainingError):
    """An exported graph does not answer as its checkpoint does. No bundle is written."""
