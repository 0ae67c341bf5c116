"""Which columns of a table are which fields of a model's input, and a row's values as the task's example."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from service.errors import InvalidInput
from service.inprocess.model import Model
from service.inprocess.pipeline import example_of
from service.scoring.errors import ScoringError
from service.tasks import AnyTask
from service.tasks.inputs import Input


@dataclass(frozen=True, slots=True)
class Fields:
    """The input of a model in a table.

    Attributes:
        task: what the model is asked to do.
        shape: of its input.
        columns: the column of each field that differs from row to row.
        options: the other fields, the same in every row.
    """

    task: AnyTask
    shape: type[Input]
    columns: dict[str, str]
    options: dict[str, Any]

    def example(self, row: Mapping[str, Any], *, most_characters: int) -> Any:
        """Make the task's example of a row's values by column. A list may be written as JSON.

        Raises:
            InvalidInput: names the field and what is wrong with it.
        """
        values = dict(self.options)
        for field, column in self.columns.items():
            value = row.get(column)
            if value is None:
                if not self.shape.model_fields[field].is_required():
                    continue
                raise InvalidInput("it is null" if column in row else f"it has no {column!r}", field=field)
            if isinstance(value, bytes):
                try:
                    value = value.decode()
                except UnicodeDecodeError:
                    raise InvalidInput("it is not UTF-8", field=field) from None
            values[field] = self._listed(field, value)
        example = example_of(self.shape, values, self.task.takes)
        if example.characters > most_characters:
            raise InvalidInput(f"it has {example.characters} characters; {most_characters} are possible")
        return example

    def _listed(self, field: str, value: Any) -> Any:
        """Read a list that stands in a cell as JSON."""
        if field in self.shape.limits and isinstance(value, str) and value.lstrip().startswith("["):
            try:
                found = json.loads(value)
            except ValueError:
                return value
            return found if isinstance(found, list) else value
        return value


def choose(model: Model, present: Iterable[str], mapping: Mapping[str, str], options: Mapping[str, Any]) -> Fields:
    """Choose the shape of a model's input that a table's columns can fill.

    Args:
        present: the table's columns.
        mapping: columns of fields, where their names differ.
        options: fields that are the same in every row.

    Raises:
        ScoringError: there is none; it says which columns are missing.
    """
    present = set(present)
    named = {each for task in model.tasks for shape in task.inputs for each in shape.model_fields}
    for field in (*mapping, *options):
        if field not in named:
            raise ScoringError(
                f"{field!r} is no field of model {model.bundle.name!r}; it has {', '.join(sorted(named))}"
            )
    for column in mapping.values():
        if column not in present:
            raise ScoringError(f"there is no column {column!r}; there are {', '.join(sorted(present)) or 'none'}")
    lacking = []
    for task, shape in [(each, shape) for each in model.tasks for shape in each.inputs]:
        wanted = [name for name, field in shape.model_fields.items() if field.is_required() and name not in options]
        columns = {name: mapping.get(name, name) for name in wanted} | dict(mapping)
        missing = [column for column in columns.values() if column not in present]
        unknown = (columns.keys() | options.keys()) - shape.model_fields.keys()
        if not unknown and _suits(task, shape, columns, options):
            if not missing:
                return Fields(task, shape, columns, dict(options))
            lacking.append(" and ".join(map(repr, missing)))
    takes = ", or ".join(task.takes for task in model.tasks)
    raise ScoringError(
        f"model {model.bundle.name!r} takes {takes}: the input lacks {', or '.join(lacking) or 'them'} and has "
        f"{', '.join(map(repr, sorted(present))) or 'no columns'} (--column FIELD=COLUMN names one)"
    )


def _suits(task: AnyTask, shape: type[Input], columns: Mapping[str, str], options: Mapping[str, Any]) -> bool:
    """Whether a task takes inputs of a shape with these fields.

    Raises:
        ScoringError: an option's value is wrong.
    """
    required = {name for name in columns if shape.model_fields[name].is_required()}
    values: dict[str, Any] = dict(options) | dict.fromkeys(required, "a")
    try:
        shape.model_validate(values)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_input=False):
            field = str(fault["loc"][0])
            if field in options:
                raise ScoringError(f"--option {field}: {fault['msg']}") from None
            values[field] = ["a", "b"]
    return bool(task.suits(example_of(shape, values, task.takes), named=True))
