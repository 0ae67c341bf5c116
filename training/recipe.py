"""How a recipe is read: a TOML file and overrides to a frozen pydantic dataclass, wholly checked before anything loads.

Owns the manners that all recipes have: their errors are one line that names the key. The keys are
`training.finetune.recipe`'s and `training.pretrain.recipe`'s. Knows nothing of torch.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticKnownError

from training.errors import RecipeError, did_you_mean, nearest

CONFIG = ConfigDict(extra="forbid", strict=True)


def one_of(names: Sequence[str]) -> AfterValidator:
    """Return what refuses a text that is none of `names`, as pydantic does for a `Literal`."""

    def check(value: str) -> str:
        if value not in names:
            raise PydanticKnownError("literal_error", {"expected": ", ".join(map(repr, names))})
        return value

    return AfterValidator(check)


def _expanded(text: str) -> str:
    expanded = os.path.expandvars(text)
    if unset := re.search(r"\$\{?(\w+)", expanded):
        raise ValueError(f"the environment has no {unset[1]} for {text!r}")
    return expanded


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


Place = Annotated[str, AfterValidator(_expanded)]
"""A file or folder: `$NAME` is replaced by the environment's NAME."""
Places = Annotated[tuple[Place, ...], BeforeValidator(_listed)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Count = Annotated[int, Field(gt=0)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
BelowOne = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
UpToHalf = Annotated[float, Field(gt=0, le=0.5, allow_inf_nan=False)]


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
        return make(kind, values)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def make(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    """Make a recipe of plain values. Raises `RecipeError` as `load_as` does."""
    return kind(**values)


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


TYPES = {"tuple": "list of strings", "dict": "table", "mapping": "table", "dataclass": "table", "string": "str"}
"""What pydantic calls a type, in a recipe's terms."""
BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def _message(kind: type[Any], error: ValidationError) -> str:
    """Return one line on a recipe's first fault: keys that are unknown, then those that are missing, then values."""
    faults = error.errors()
    hints = typing.get_type_hints(kind, include_extras=True)
    for fault in faults:
        if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            inner = dataclasses.fields(hints[str(fault["loc"][0])]) if len(fault["loc"]) > 1 else ()
            return f"unknown key {_key(fault)!r}{did_you_mean(str(fault['loc'][-1]), [f.name for f in inner] or hints)}"
    if missing := [_key(fault) for fault in faults if fault["type"] == "missing"]:
        return f"missing: {', '.join(missing)}"
    fault = faults[0]
    key, value = _key(fault), fault["input"]
    wanted, _, form = fault["type"].partition("_")
    if fault["type"] == "literal_error":
        known = re.findall("'([^']*)'", fault["ctx"]["expected"])
        return f"{key} is one of {', '.join(map(repr, known))}, not {value!r}{nearest(str(value), known)}"
    if fault["type"] == "value_error":
        return f"{key}: {fault['ctx']['error']}"
    if form in ("type", "from_float"):
        return f"{key} is a {TYPES.get(wanted, wanted)}, not the {type(value).__name__} {value!r}"
    return f"{key} must {_bounds(hints[str(fault['loc'][0])], fault)}, not {value}"


def _key(fault: ErrorDetails) -> str:
    """Return where a fault is, as in `table.text` or `train[1]`."""
    first, *rest = fault["loc"]
    return str(first) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest)


def _bounds(hint: Any, fault: ErrorDetails) -> str:
    """Return the bounds of a key's values in words."""
    limits = _limits(hint) or {name: bound for name, bound in fault["ctx"].items() if name in BOUNDS}
    if limits.keys() == {"ge"}:
        return f"not be below {limits['ge']}"
    return "be " + " and ".join(f"{BOUNDS[name]} {bound}" for name, bound in limits.items())


def _limits(hint: Any) -> dict[str, Any]:
    """Return the bounds of an annotated type by their names in pydantic."""
    found: dict[str, Any] = {}
    for part in typing.get_args(hint):
        for limit in part.metadata if isinstance(part, FieldInfo) else ():
            found |= {name: getattr(limit, name) for name in BOUNDS if hasattr(limit, name)}
        found |= _limits(part)
    return found
