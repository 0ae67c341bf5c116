"""How a recipe is read: a TOML file and overrides to a frozen pydantic dataclass, wholly checked before anything loads.

Owns the manners that all recipes have: their errors are one line that names the key. The keys are
`training.finetune.recipe`'s and `training.pretrain.recipe`'s. Knows nothing of torch.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import tomllib
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)  # fmt: skip
from pydantic.dataclasses import dataclass

from training.errors import RecipeError, did_you_mean, nearest

CONFIG = ConfigDict(extra="forbid", strict=True)


def _when(holds: Callable[[Any], bool], words: str) -> AfterValidator:
    """Return what refuses other values: its message goes on where the key ends."""

    def check(value: Any) -> Any:
        if not holds(value):
            raise ValueError(f" {words}, and is {value!r}")
        return value

    return AfterValidator(check)


def _expanded(text: str) -> str:
    expanded = os.path.expandvars(text)
    if unset := re.search(r"\$\{?(\w+)", expanded):
        raise ValueError(f": the environment has no {unset[1]} for {text!r}")
    return expanded


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


Place = Annotated[str, AfterValidator(_expanded)]
"""A file or folder: `$NAME` is replaced by the environment's NAME."""
Places = Annotated[tuple[Place, ...], BeforeValidator(_listed)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_listed)]
ABOVE_0 = _when(lambda value: 0 < value < math.inf, "must be above 0")
NOT_BELOW_0 = _when(lambda value: 0 <= value < math.inf, "must not be below 0")
Count = Annotated[int, ABOVE_0]
Whole = Annotated[int, NOT_BELOW_0]
Positive = Annotated[float, ABOVE_0]
NotNegative = Annotated[float, NOT_BELOW_0]
Share = Annotated[float, _when(lambda value: 0 <= value <= 1, "must be 0 to 1")]
BelowOne = Annotated[float, _when(lambda value: 0 <= value < 1, "must be at least 0 and below 1")]
UpToHalf = Annotated[float, _when(lambda value: 0 < value <= 0.5, "must be above 0 and at most 0.5")]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Keys:
    """The base of recipes. Making one raises `RecipeError`, which names the key and what it should be."""

    @model_validator(mode="wrap")
    @classmethod
    def _said(cls, values: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        try:
            return handler(values)
        except ValidationError as error:
            raise RecipeError(_message(cls, error)) from error


Kind = TypeVar("Kind", bound=Keys)


def load_as(kind: type[Kind], path: Path, overrides: Sequence[str] = ()) -> Kind:
    """Read a recipe and apply `key=value` overrides, whose values are TOML or bare strings.

    A key may have a table's name before it: `table.text=review`.

    Raises:
        RecipeError: names the key that is unknown (and the nearest right one), mistyped, missing or out of range.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path}: {error}") from error
    for key, value in parsed(overrides).items():
        table, dot, name = key.partition(".")
        if dot:
            inner = values.get(table)
            values[table] = {**(inner if isinstance(inner, dict) else {}), name: value}
        else:
            values[key] = value
    try:
        return kind(**values)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def parsed(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the values of `key=value` texts. Raises `RecipeError` for one without an equals sign."""
    values = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise RecipeError(f"--set takes key=value, not {override!r}")
        values[key.strip()] = _toml_value(text.strip())
    return values


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


TYPES = {"tuple": "list of strings", "dict": "table", "dataclass": "table", "string": "str"}
"""What pydantic calls a type, in a recipe's terms."""


def _message(kind: type[Any], error: ValidationError) -> str:
    """Return one line on a recipe's first fault: keys that are unknown, then those that are missing, then values."""
    known = typing.get_type_hints(kind)
    faults = {_key(fault["loc"]): fault for fault in reversed(error.errors())}
    unknown = [key for key, fault in faults.items() if fault["type"] == "unexpected_keyword_argument"]
    for key in unknown:
        table, dot, name = key.rpartition(".")
        names = [field.name for field in dataclasses.fields(known[table])] if dot else known
        return f"unknown key {key!r}{did_you_mean(name, names)}"
    if missing := [key for key in known if key in faults and faults[key]["type"] == "missing"]:
        return f"missing: {', '.join(missing)}"
    key, fault = faults.popitem()
    value, wanted = fault["input"], fault["type"].partition("_")[0]
    if wanted == "value":
        return f"{key}{fault['ctx']['error']}"
    if wanted == "literal":
        names = re.findall("'([^']*)'", fault["ctx"]["expected"])
        return f"{key} is one of {', '.join(map(repr, names))}, not {value!r}{nearest(str(value), names)}"
    return f"{key} is a {TYPES.get(wanted, wanted)}, not the {type(value).__name__} {value!r}"


def _key(place: tuple[int | str, ...]) -> str:
    """Return where a fault is, as in `table.text` or `train[1]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")
