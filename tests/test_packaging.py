"""What a newcomer installs: the locks, the package's metadata, the version."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import service

ROOT = Path(__file__).parent.parent
LOCKS = ["cpu.lock", "gpu.lock", "extras.lock"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# `name==version`, then whatever follows: a marker, hashes.
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)(.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)


def pins(name: str) -> dict[str, set[str]]:
    """Each package of a file in requirements/ and its versions: one for every range of Python it is pinned for."""
    found: dict[str, set[str]] = {}
    for package, version, _ in PIN.findall((ROOT / "requirements" / name).read_text()):
        found.setdefault(package, set()).add(version)
    return found


@pytest.mark.parametrize("name", [*LOCKS, "constraints.txt"])
def test_locks_name_no_index_and_no_path(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    assert not re.search(r"://|--(extra-)?index|--find-links|(^|\s)/\w", text)


@pytest.mark.parametrize("name", LOCKS)
def test_every_pin_is_hashed(name: str) -> None:
    found = PIN.findall((ROOT / "requirements" / name).read_text())
    assert found
    assert [package for package, _, rest in found if "--hash=sha256:" not in rest] == []


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("cpu.lock", "cpu"),
        ("gpu.lock", "gpu"),
        ("extras.lock", "otel"),
        ("extras.lock", "grpc"),
        ("extras.lock", "remote"),
    ],
)
def test_locks_hold_what_the_service_asks_for(name: str, extra: str) -> None:
    asked = PROJECT["dependencies"] + PROJECT["optional-dependencies"][extra]
    assert {re.split(r"[\[<>=]", requirement)[0] for requirement in asked} <= pins(name).keys()


def test_cpu_lock_has_neither_torch_nor_the_tools() -> None:
    assert (
        pins("cpu.lock").keys().isdisjoint({"torch", "transformers", "datasets", "pytest", "mypy", "onnxruntime-gpu"})
    )


def test_one_environment_holds_service_and_training() -> None:
    constraints = pins("constraints.txt")
    for lock in ("cpu.lock", "extras.lock"):
        assert {p: (v, constraints[p]) for p, v in pins(lock).items() if constraints[p] != v} == {}


def test_an_image_takes_the_locks_of_service_and_extras_together() -> None:
    extras = pins("extras.lock")
    for lock in ("cpu.lock", "gpu.lock"):
        both = {p: (v, extras[p]) for p, v in pins(lock).items() if p in extras}
        assert {p for p, (one, other) in both.items() if one != other} == set(), lock
    assert pins("cpu.lock").keys().isdisjoint({"opentelemetry-sdk", "grpcio"})


def test_torch_is_bounded_and_not_pinned() -> None:
    assert "torch" not in pins("constraints.txt")  # a pin would force one build, CPU or CUDA, on every machine
    assert "torch>=2.11,<2.14" in PROJECT["optional-dependencies"]["train"]


def test_version_is_told_once() -> None:
    assert PROJECT["version"] == service.__version__


@pytest.mark.parametrize("script", sorted(PROJECT["scripts"]))
def test_scripts_name_a_function(script: str) -> None:
    module, function = PROJECT["scripts"][script].split(":")
    source = ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text()
    assert re.search(rf"^def {function}\(", source, re.MULTILINE)
