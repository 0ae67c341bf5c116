"""rollout.json: what may stand in it, the steps, and that nobody's step is lost."""

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BundleError, RolloutError
from service.repository import files, plan, versions
from service.repository.files import MANIFEST
from service.repository.plan import KEPT, MAX_PLAN, PLAN, Canary, Plan, Rule, Shadow
from tests.folders import Nobody

FULL: dict[str, Any] = {
    "stable": "3",
    "previous": ["2", "1"],
    "warm": 1,
    "canary": {"version": "4", "percent": 5.0, "header": "X-Canary", "sticky": "X-User-Id"},
    "shadow": {"version": "4", "percent": 10.0},
    "rule": {"compared": 2000, "agreement": 0.98, "p95_ratio": 1.2},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The model `qa`, with versions 1 to 4."""
    for name in "1234":
        (tmp_path / "qa" / name).mkdir(parents=True)
        (tmp_path / "qa" / name / MANIFEST).write_text("{}")
    return tmp_path / "qa"


def write(folder: Path, values: Any) -> None:
    (folder / PLAN).write_text(json.dumps(values))


# ---- reading --------------------------------------------------------------------------------------------------------


def test_without_a_file_the_last_version_is_stable(folder: Path) -> None:
    assert plan.read(folder) == Plan(stable="4")


def test_without_versions_none_is(tmp_path: Path) -> None:
    assert plan.read(tmp_path / "absent") == Plan()


def test_a_full_plan_is_read(folder: Path) -> None:
    write(folder, FULL)
    assert plan.read(folder) == Plan(
        stable="3",
        previous=("2", "1"),
        warm=1,
        canary=Canary("4", 5.0, "X-Canary", "X-User-Id"),
        shadow=Shadow("4", 10.0),
        rule=Rule(2000, 0.98, 1.2),
    )


def test_previous_versions_that_are_gone_are_forgotten(folder: Path) -> None:
    write(folder, {"stable": "4", "previous": ["3", "0", "1"]})
    assert plan.read(folder).previous == ("3", "1")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"colour": "green"}, "colour: Unexpected"),
        ({"canary": {"version": "4", "percent": 5, "colour": "green"}}, "canary.colour: Unexpected"),
        ({"canary": {"version": "4", "percent": 101}}, "canary.percent: Input should be less than or equal to 100"),
        ({"shadow": {"version": "4", "percent": -1}}, "shadow.percent: .* greater than or equal to 0"),
        ({"shadow": {"version": "4", "percent": float("nan")}}, "shadow.percent: .* finite"),
        ({"shadow": {"version": "4", "percent": "5"}}, "shadow.percent: .* valid number"),
        ({"shadow": {"version": "4", "percent": True}}, "shadow.percent: .* valid number"),
        ({"canary": {"version": "4"}}, "canary.percent: Field required"),
        ({"canary": {"version": "4", "percent": 5, "header": "X Canary"}}, "canary.header: "),
        ({"canary": {"version": "4", "percent": 5, "header": "X-Canary\n"}}, "canary.header: "),
        ({"canary": {"version": "4", "percent": 5, "sticky": "Ünï"}}, "canary.sticky: "),
        ({"canary": {"version": "4", "percent": 5, "sticky": ""}}, "canary.sticky: "),
        ({"stable": "../3"}, "stable: "),
        ({"stable": "3\n"}, "stable: "),
        ({"stable": 3}, "stable: .* valid string"),
        ({"stable": ""}, "stable: "),
        ({"previous": "21"}, "previous: "),
        ({"previous": [str(n) for n in range(KEPT + 1)]}, "previous: .* at most 10 items"),
        ({"warm": -1}, "warm: "),
        ({"warm": 11}, "warm: "),
        ({"rule": {"compared": 0, "agreement": 0.98, "p95_ratio": 1.2}}, "rule.compared: "),
        ({"rule": {"compared": 2000, "agreement": 98, "p95_ratio": 1.2}}, "rule.agreement: "),
        ({"rule": {"compared": 2000, "agreement": 0.98, "p95_ratio": 0}}, "rule.p95_ratio: "),
        ({"stable": "4"}, "'4' cannot be both stable and canary"),
        ({"stable": "4", "canary": None}, "'4' cannot be both stable and shadow"),
        ({"stable": None}, "'4' cannot be both stable and canary"),  # the last in order
        ({"stable": "7"}, "there is no version '7' to be stable; there are 1, 2, 3, 4"),
        ({"shadow": {"version": "7", "percent": 5}}, "there is no version '7' to be shadow"),
    ],
)
def test_what_a_plan_may_not_say(folder: Path, changes: dict[str, Any], match: str) -> None:
    write(folder, FULL | changes)
    with pytest.raises(BundleError, match=rf"^model 'qa': rollout\.json: .*{match}") as error:
        plan.read(folder)
    assert "\n" not in error.value.detail


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"3"', b"\xff{}", b"[" * 10_000])
def test_a_file_that_is_no_plan_is_told(folder: Path, content: bytes) -> None:
    (folder / PLAN).write_bytes(content)
    with pytest.raises(BundleError, match=r"^model 'qa': rollout\.json: ."):
        plan.read(folder)
    with pytest.raises(BundleError, match=r"^model 'qa': rollout\.json: ."), plan.edit(folder):
        pytest.fail("it was read")
    assert (folder / PLAN).read_bytes() == content


def test_a_file_that_is_none_is_told(folder: Path) -> None:
    (folder / PLAN).write_bytes(b" " * (MAX_PLAN + 1))
    with pytest.raises(BundleError, match=r"^model 'qa': rollout\.json has 65537 bytes; the most is 65536"):
        plan.read(folder)
    (folder / PLAN).unlink()
    os.mkfifo(folder / PLAN)  # it would be waited for for ever
    with pytest.raises(BundleError, match=r"rollout\.json is no regular file"):
        plan.read(folder)


# ---- steps ----------------------------------------------------------------------------------------------------------


BASE = Plan(stable="3", previous=("2", "1"))
CANARY, SHADOW = Canary("4", 5.0), Shadow("4", 10.0)


@pytest.mark.parametrize(
    ("before", "version", "after"),
    [
        (BASE, "4", Plan("4", ("3", "2", "1"))),
        (BASE, "1", Plan("1", ("3", "2"))),
        (Plan(), "4", Plan("4")),
        (replace(BASE, canary=CANARY), None, Plan("4", ("3", "2", "1"))),
        (replace(BASE, shadow=SHADOW), None, Plan("4", ("3", "2", "1"))),
        (replace(BASE, canary=CANARY, shadow=SHADOW), None, Plan("4", ("3", "2", "1"))),
        (replace(BASE, canary=CANARY, shadow=Shadow("5", 1)), None, Plan("4", ("3", "2", "1"), shadow=Shadow("5", 1))),
        (replace(BASE, canary=CANARY), "5", Plan("5", ("3", "2", "1"), canary=CANARY)),
        (replace(BASE, warm=3, rule=Rule(1, 1, 1)), "4", Plan("4", ("3", "2", "1"), warm=3, rule=Rule(1, 1, 1))),
    ],
)
def test_promote(before: Plan, version: str | None, after: Plan) -> None:
    assert plan.promote(before, version) == after


def test_so_many_are_remembered(folder: Path) -> None:
    now = BASE
    for n in range(20):
        now = plan.promote(now, f"v{n}")
    assert now.previous == tuple(f"v{n}" for n in range(18, 18 - KEPT, -1))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (BASE, Plan("2", ("1",))),
        (replace(BASE, canary=CANARY), BASE),
        (replace(BASE, canary=CANARY, shadow=SHADOW), BASE),  # else the rule would promote what was taken back
        (replace(BASE, canary=CANARY, shadow=Shadow("5", 1)), replace(BASE, shadow=Shadow("5", 1))),
        (replace(BASE, shadow=Shadow("2", 1)), Plan("2", ("1",))),
        (replace(BASE, shadow=SHADOW), Plan("2", ("1",), shadow=SHADOW)),
    ],
)
def test_rollback(before: Plan, after: Plan) -> None:
    assert plan.rollback(before) == after


def test_canary_and_shadow_take_the_place_of_the_last() -> None:
    first = plan.shadow(plan.canary(BASE, "4", 5, header="X-Canary", sticky="X-User"), "4", 10)
    assert first == replace(BASE, canary=Canary("4", 5, "X-Canary", "X-User"), shadow=SHADOW)
    assert plan.canary(first, "5", 20) == replace(first, canary=Canary("5", 20))
    assert plan.shadow(first, "5", 20) == replace(first, shadow=Shadow("5", 20))
    assert plan.end(first) == BASE
    assert plan.end(replace(BASE, canary=CANARY)) == plan.end(replace(BASE, shadow=SHADOW)) == BASE


def test_the_rule_is_set() -> None:
    assert plan.set_rule(BASE, 2000, 0.98, 1.2) == replace(BASE, rule=Rule(2000, 0.98, 1.2))


def test_a_version_that_is_removed_is_forgotten() -> None:
    assert plan.forget(BASE, "2") == replace(BASE, previous=("1",))
    assert plan.forget(BASE, "4") == BASE


def test_roles() -> None:
    tried = replace(BASE, canary=CANARY, shadow=SHADOW)
    roles = {version: tried.roles(version) for version in "12345"}
    assert roles == {"1": ("previous",), "2": ("previous",), "3": ("stable",), "4": ("canary", "shadow"), "5": ()}


@pytest.mark.parametrize(
    ("step", "match"),
    [
        (lambda: plan.promote(BASE, "3"), "version '3' is stable already"),
        (lambda: plan.promote(BASE), "neither a canary nor a shadow to promote: say which version"),
        (lambda: plan.rollback(Plan("3")), "no version to go back to"),
        (lambda: plan.canary(BASE, "3", 5), "version '3' is stable: it cannot be canary too; promote another one"),
        (lambda: plan.shadow(BASE, "3", 5), "version '3' is stable: it cannot be shadow too; promote another one"),
        (lambda: plan.canary(BASE, "4", 100.1), "percent: Input should be less than or equal to 100"),
        (lambda: plan.canary(BASE, "4", float("nan")), "percent: .*finite"),
        (lambda: plan.canary(BASE, "../4", 5), "version: "),
        (lambda: plan.canary(BASE, "4", 5, header="X Y"), "header: "),
        (lambda: plan.shadow(BASE, "4", -1), "percent: "),
        (lambda: plan.end(BASE), "neither a canary nor a shadow to end"),
        (lambda: plan.set_rule(BASE, 0, 0.98, 1.2), "compared: "),
        (lambda: plan.set_rule(BASE, 1, 98, 1.2), "agreement: "),
        (lambda: plan.forget(BASE, "3"), "version '3' is stable: promote another one first"),
        (lambda: plan.forget(replace(BASE, canary=CANARY), "4"), "version '4' is canary: end it first"),
        (lambda: plan.forget(replace(BASE, shadow=SHADOW), "4"), "version '4' is shadow: end it first"),
    ],
)
def test_steps_that_make_no_sense_are_refused(step: Callable[[], Plan], match: str) -> None:
    with pytest.raises(RolloutError, match=match) as error:
        step()
    assert "\n" not in error.value.detail


VERSIONS = st.sampled_from([f"v{n}" for n in range(14)])
STEPS = st.one_of(
    st.tuples(st.just(plan.promote), st.one_of(st.none(), VERSIONS)),
    st.tuples(st.just(plan.rollback)),
    st.tuples(st.just(plan.canary), VERSIONS, st.floats(0, 100)),
    st.tuples(st.just(plan.shadow), VERSIONS, st.floats(0, 100)),
    st.tuples(st.just(plan.end)),
    st.tuples(st.just(plan.forget), VERSIONS),
)


@given(st.lists(STEPS, max_size=40))
def test_whatever_the_steps_a_plan_is_one_that_can_be_read(steps: list[tuple[Any, ...]]) -> None:
    now = Plan(stable="v0")
    for step, *arguments in steps:
        before = now
        try:
            now = step(now, *arguments)
        except RolloutError:
            continue
        assert now != before or step in (plan.forget, plan.canary, plan.shadow)
        assert now.stable is not None
        assert now.stable not in now.previous
        assert len(set(now.previous)) == len(now.previous) <= KEPT
        assert plan._ADAPTER.validate_json(plan._to_json(now)) == now


# ---- the file -------------------------------------------------------------------------------------------------------


def test_what_is_written_is_what_is_read_and_nothing_else_is_left(folder: Path) -> None:
    write(folder, FULL)
    full = plan.read(folder)
    (folder / PLAN).unlink()
    with plan.edit(folder) as edit:
        edit.plan = full
    assert plan.read(folder) == full
    assert json.loads((folder / PLAN).read_text()) == FULL
    assert sorted(os.listdir(folder)) == [versions.LOCK, "1", "2", "3", "4", PLAN]


def test_an_edit_writes_down_who_is_stable(folder: Path) -> None:
    """So that a version that is added beside does not answer at once."""
    with plan.edit(folder) as edit:
        assert edit.plan == Plan(stable="4")
    assert json.loads((folder / PLAN).read_text()) == {"stable": "4", "previous": [], "warm": 0}


def test_an_edit_that_changes_nothing_writes_nothing(folder: Path, tmp_path: Path) -> None:
    write(folder, FULL)
    before = (folder / PLAN).stat()
    with plan.edit(folder):
        pass
    assert (folder / PLAN).stat() == before
    (tmp_path / "empty").mkdir()
    with plan.edit(tmp_path / "empty"):
        pass
    assert not (tmp_path / "empty" / PLAN).exists()


def test_an_edit_that_fails_writes_nothing(folder: Path) -> None:
    write(folder, FULL)
    before = (folder / PLAN).read_text()
    with pytest.raises(RolloutError, match="stable already"), plan.edit(folder) as edit:
        edit.plan = plan.promote(plan.end(edit.plan), "3")
    with pytest.raises(RolloutError, match="no version '9' to be stable; there are 1, 2, 3, 4"), plan.edit(folder) as e:
        e.plan = plan.promote(e.plan, "9")
    assert (folder / PLAN).read_text() == before


def test_a_plan_whose_stable_version_is_gone_can_be_mended(folder: Path) -> None:
    write(folder, {"stable": "7", "previous": ["2"]})
    with plan.edit(folder) as edit:
        edit.plan = plan.promote(edit.plan, "4")
    assert plan.read(folder) == Plan("4", ("2",))


def test_a_disk_that_is_full_leaves_the_plan_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, FULL)
    before = plan.read(folder)

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "sync", full)
    with (
        pytest.raises(BundleError, match=r"^model 'qa': rollout\.json cannot be written: No space left on device$"),
        plan.edit(folder) as edit,
    ):
        edit.plan = plan.end(edit.plan)
    assert plan.read(folder) == before
    assert sorted(os.listdir(folder)) == [versions.LOCK, "1", "2", "3", "4", PLAN]


def test_a_folder_that_may_not_be_written_can_be_read(nobody: Nobody) -> None:
    folder = nobody.folder / "qa"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / MANIFEST).write_text("{}")
    os.chmod(folder, 0o555)
    with nobody:
        assert plan.read(folder) == Plan("1")
        with pytest.raises(BundleError, match="cannot be changed: Permission denied"), plan.edit(folder):
            pytest.fail("it was locked")


# ---- two at once ----------------------------------------------------------------------------------------------------


COUNT = """
import sys
from pathlib import Path
from service.repository import plan

for _ in range(40):
    with plan.edit(Path(sys.argv[1])) as edit:
        edit.plan = plan.set_rule(edit.plan, edit.plan.rule.compared + 1, 1.0, 1.0)
"""


def test_two_processes_that_edit_one_plan_lose_nothing(folder: Path) -> None:
    """And who reads meanwhile always reads a whole plan."""
    write(folder, {"stable": "4", "rule": {"compared": 1, "agreement": 1.0, "p95_ratio": 1.0}})
    arguments = [sys.executable, "-c", COUNT, str(folder)]
    processes = [subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    seen = []
    while any(process.poll() is None for process in processes):
        rule = plan.read(folder).rule
        assert rule is not None
        seen.append(rule.compared)
    assert [process.communicate()[1] for process in processes] == ["", ""]
    rule = plan.read(folder).rule
    assert rule is not None
    assert rule.compared == 81
    assert seen == sorted(seen)


KILLED = """
import os, signal, sys
from pathlib import Path
from service.repository import files, plan

files.sync = lambda path: os.kill(os.getpid(), signal.SIGKILL)
with plan.edit(Path(sys.argv[1])) as edit:
    edit.plan = plan.promote(edit.plan, "1")
"""


def test_an_edit_that_is_killed_leaves_the_plan_as_it_was(folder: Path) -> None:
    write(folder, {"stable": "4"})
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)], capture_output=True, timeout=60)
    assert done.returncode == -9, done.stderr
    assert plan.read(folder) == Plan("4")
    with plan.edit(folder) as edit:
        edit.plan = plan.promote(edit.plan, "2")
    assert plan.read(folder) == Plan("2", ("4",))
    assert [name for name in os.listdir(folder) if re.match(r"\.(?!lock)", name)] == []
