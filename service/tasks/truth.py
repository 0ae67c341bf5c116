"""The right answer to an input, as a client that learns of it later sends it.

Knows no task: each says which of the fields it takes, and what of its answers is held against it.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from service.errors import InvalidInput
from service.settings import MAX_ITEMS
from service.tasks.inputs import Integer, Label, Shape, Text

Gist: TypeAlias = str | float
"""What of an answer is right or wrong: equal texts, or numbers that are near enough, are the same answer."""


class Truth(Shape):
    """The right answer: one of these, as the model's task has it."""

    label: Label | Annotated[list[Label], Field(max_length=MAX_ITEMS)] | None = Field(
        default=None, description="The right label; a list where any number of labels may hold."
    )
    answer: Text | Integer | None = Field(
        default=None,
        description="The right answer's text, null for none; of options and ranked texts the index of the right one.",
    )
    score: Annotated[float, Field(allow_inf_nan=False)] | None = Field(default=None, description="The right number.")

    def only(self, field: str, wanted: str) -> object:
        """Get the value of the one field that a task takes.

        Args:
            wanted: what the task takes, for the message.

        Raises:
            InvalidInput: another field is given, or none.
        """
        given = self.model_fields_set & set(Truth.model_fields)
        if given != {field}:
            other = min(given - {field}, default=field)
            raise InvalidInput(f"the right answer to this input is {wanted}, as `{field}`", field=other)
        return getattr(self, field)

    def place(self, wanted: str) -> int:
        """Get the index that a task takes as the answer. Raises InvalidInput, as `only` does."""
        place = self.only("answer", wanted)
        if not isinstance(place, int):
            raise InvalidInput(f"must be {wanted}", field="answer")
        return place
