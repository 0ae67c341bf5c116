"""Which version of a model answers, which are tried beside it, and which can come back: `models/NAME/rollout.json`.

Owns the file's format, its reading and writing, and the steps from one plan to the next. Knows nothing of what runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from service.errors import BundleError, RolloutError
from service.repository import files, versions
from service.repository.versions import VERSION

PLAN = "rollout.json"
MAX_PLAN = 64 << 10
KEPT = 10
"""Most versions that are remembered for a rollback."""

Name = Annotated[str, StringConstraints(pattern=VERSION)]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Header = Annotated[str, StringConstraints(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}$")]
"""A field name, RFC 9110, section 5.1."""


@dataclass(frozen=True, slots=True, config={"extra": "forbid", "strict": True})
class Canary:
    """A version that answers a part of the requests.

    Attributes:
        percent: how many of those that do not ask for it.
        header: the header by which requests ask for it, with `true` or the version as its value.
        sticky: the header whose value's hash decides instead of chance: the same value gets the same version.
    """

    version: Name
    percent: Percent
    header: Header | None = None
    sticky: Header | None = None


@dataclass(frozen=True, slots=True, config={"extra": "forbid", "strict": True})
class Shadow:
    """A version that runs `percent` of the requests that stable answered, so that the answers can be compared."""

    version: Name
    percent: Percent


@dataclass(frozen=True, slots=True, config={"extra": "forbid", "strict": True})
class Rule:
    """When a shadow is promoted, else ended, without a person.

    Attributes:
        compared: requests that must have been compared before it decides.
        agreement: least share of them with the same answer, 0 to 1.
        p95_ratio: most that the 95th percentile of its latency may be, in stable's.
    """

    compared: Annotated[int, Field(ge=1)]
    agreement: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
    p95_ratio: Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True, config={"extra": "forbid", "strict": True})
class Plan:
    """The roles of a model's versions.

    Attributes:
        stable: the version that answers; None stands for the last in order.
        previous: those that were stable before, the latest first.
        warm: how many of `previous` stay loaded.
    """

    stable: Name | None = None
    previous: Annotated[tuple[Name, ...], Field(max_length=KEPT)] = ()
    warm: Annotated[int, Field(ge=0, le=KEPT)] = 0
    canary: Canary | None = None
    shadow: Shadow | None = None
    rule: Rule | None = None

    @model_validator(mode="after")
    def _one_role_each(self) -> Plan:
        for role, tried in (("canary", self.canary), ("shadow", self.shadow)):
            if tried is not None and tried.version == self.stable:
                raise ValueError(f"version {self.stable!r} cannot be both stable and {role}")
        return self

    @property
    def loaded(self) -> tuple[str, ...]:
        """The versions that are to be loaded, stable first."""
        stable = () if self.stable is None else (self.stable,)
        tried = (each.version for _, each in _tried(self))
        return tuple(dict.fromkeys((*stable, *tried, *self.previous[: self.warm])))

    def roles(self, version: str) -> tuple[str, ...]:
        """Get the roles of a version: `stable`, `canary`, `shadow`, `previous`."""
        tried = [role for role, each in _tried(self) if each.version == version]
        return (
            *(["stable"] if version == self.stable else []),
            *tried,
            *(["previous"] if version in self.previous else []),
        )


_ADAPTER = TypeAdapter(Plan)


# ---- steps ----------------------------------------------------------------------------------------------------------


def promote(plan: Plan, version: str | None = None) -> Plan:
    """Make a version stable: by default the canary's, else the shadow's. What it was as canary or shadow ends.

    Raises:
        RolloutError: it is stable already, or there is none to promote.
    """
    if version is None:
        tried = plan.canary or plan.shadow
        if tried is None:
            raise RolloutError("there is neither a canary nor a shadow to promote: say which version")
        version = tried.version
    if version == plan.stable:
        raise RolloutError(f"version {version!r} is stable already")
    before = [each for each in (plan.stable, *plan.previous) if each is not None and each != version]
    return replace(_without(plan, version), stable=version, previous=tuple(before[:KEPT]))


def rollback(plan: Plan) -> Plan:
    """Undo the last step: end the canary where there is one, else make the version stable that was so before. A shadow
    of the version that goes, or comes, ends with it.

    Raises:
        RolloutError: there is nothing to go back to.
    """
    if plan.canary is not None:
        return _without(plan, plan.canary.version)
    if not plan.previous:
        raise RolloutError("there is no version to go back to: no canary, and none was stable before")
    back, *before = plan.previous
    return replace(_without(plan, back), stable=back, previous=tuple(before))


def canary(plan: Plan, version: str, percent: float, *, header: str | None = None, sticky: str | None = None) -> Plan:
    """Let a version answer a part of the requests, in place of the canary that there was.

    Raises:
        RolloutError: it is stable, or a value is wrong.
    """
    _check_tried(plan, version, "canary")
    with _refused():
        return replace(plan, canary=Canary(version=version, percent=percent, header=header, sticky=sticky))


def shadow(plan: Plan, version: str, percent: float) -> Plan:
    """Run a part of the requests on a version too, in place of the shadow that there was.

    Raises:
        RolloutError: it is stable, or a value is wrong.
    """
    _check_tried(plan, version, "shadow")
    with _refused():
        return replace(plan, shadow=Shadow(version=version, percent=percent))


def end(plan: Plan) -> Plan:
    """End canary and shadow. Raises RolloutError where there is neither."""
    if plan.canary is None and plan.shadow is None:
        raise RolloutError("there is neither a canary nor a shadow to end")
    return replace(plan, canary=None, shadow=None)


def set_rule(plan: Plan, compared: int, agreement: float, p95_ratio: float) -> Plan:
    """Set the rule. Raises RolloutError where a value is wrong."""
    with _refused():
        return replace(plan, rule=Rule(compared=compared, agreement=agreement, p95_ratio=p95_ratio))


def forget(plan: Plan, version: str) -> Plan:
    """Take a version that is to be removed out of the plan.

    Raises:
        RolloutError: it is stable, canary or shadow.
    """
    for role in plan.roles(version):
        if role != "previous":
            raise RolloutError(
                f"version {version!r} is {role}: "
                + ("promote another one first" if role == "stable" else "end it first, or promote it")
            )
    return replace(plan, previous=tuple(each for each in plan.previous if each != version))


# ---- the file -------------------------------------------------------------------------------------------------------


def read(folder: Path) -> Plan:
    """Read the plan of the model in `folder`, with a stable version wherever it has versions.

    Raises:
        BundleError: it is broken, or names a version that is not there; one line says what to do.
    """
    there = [version.name for version in versions.list_versions(folder)]
    plan = _read(folder)
    try:
        plan = _settled(plan, there)
        _check_there(plan, there)
    except RolloutError as error:
        raise BundleError(f"model {folder.name!r}: {PLAN}: {error.detail}") from error
    return plan


@dataclasses.dataclass(slots=True)
class Edit:
    """A plan being changed: set `plan`."""

    plan: Plan


@contextlib.contextmanager
def edit(folder: Path) -> Iterator[Edit]:
    """Hold the lock on a model's folder, read the plan, and write what the block has made of it.

    A plan that says less than it means is written in full: one whose stable version was the last in order names it.
    When the block raises, nothing is written. Blocks up to `versions.LOCK_SECONDS`: call it off the event loop.

    Raises:
        RolloutError: a version in the plan is not there.
        BundleError: the file is broken or cannot be written, or the lock not be had.
    """
    with versions.lock(folder):
        written = _read(folder)
        edit = Edit(_settled(written, [version.name for version in versions.list_versions(folder)]))
        yield edit
        there = [version.name for version in versions.list_versions(folder)]
        edit.plan = _settled(edit.plan, there)
        _check_there(edit.plan, there)
        if edit.plan != written:
            _write(folder, edit.plan)


def _read(folder: Path) -> Plan:
    try:
        return _ADAPTER.validate_json(files.read(folder / PLAN, MAX_PLAN))
    except FileNotFoundError:
        return Plan()
    except ValidationError as error:
        raise BundleError(f"model {folder.name!r}: {PLAN}: {_line(error)}") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"model {folder.name!r}: {error}") from error


def _to_json(plan: Plan) -> str:
    values = {key: value for key, value in dataclasses.asdict(plan).items() if value is not None}
    for role in ("canary", "shadow"):
        if role in values:
            values[role] = {key: value for key, value in values[role].items() if value is not None}
    return json.dumps(values, indent=2) + "\n"


def _write(folder: Path, plan: Plan) -> None:
    """Put the plan in the file's place at once: who reads meanwhile reads the one or the other."""
    aside = folder / f".{PLAN}"
    with versions.told(f"model {folder.name!r}: {PLAN} cannot be written"):
        try:
            aside.write_text(_to_json(plan), encoding="utf-8")
            files.sync(aside)
            os.replace(aside, folder / PLAN)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        files.sync(folder)


def _settled(plan: Plan, there: Sequence[str]) -> Plan:
    """Say which version is stable where that is left to the order, and forget previous ones that are gone."""
    stable = plan.stable or (there[-1] if there else None)
    with _refused():
        return replace(plan, stable=stable, previous=tuple(each for each in plan.previous if each in there))


def _check_there(plan: Plan, there: Sequence[str]) -> None:
    stable = [] if plan.stable is None else [("stable", plan.stable)]
    for role, version in (*stable, *((role, each.version) for role, each in _tried(plan))):
        if version not in there:
            raise RolloutError(f"there is no version {version!r} to be {role}; there are {', '.join(there) or 'none'}")


def _check_tried(plan: Plan, version: str, role: str) -> None:
    if version == plan.stable:
        raise RolloutError(f"version {version!r} is stable: it cannot be {role} too; promote another one first")


def _tried(plan: Plan) -> list[tuple[str, Canary | Shadow]]:
    return [(role, each) for role, each in (("canary", plan.canary), ("shadow", plan.shadow)) if each is not None]


def _without(plan: Plan, version: str) -> Plan:
    """End what a version is beside stable."""
    canary = None if plan.canary is not None and plan.canary.version == version else plan.canary
    shadow = None if plan.shadow is not None and plan.shadow.version == version else plan.shadow
    return replace(plan, canary=canary, shadow=shadow)


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise RolloutError(_line(error)) from None


def _line(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"])).encode("unicode_escape").decode()
    return f"{place}: {first['msg']}"[:300] if place else first["msg"][:300]
