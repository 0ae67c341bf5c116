import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from service import settings as module
from service.settings import Settings, cpu_quota

README = Path(__file__).parents[2] / "README.md"


def test_every_setting_has_a_bound_or_a_choice_a_default_and_a_description() -> None:
    Settings()
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert not field.is_required(), name


def test_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTIE_PORT", "9000")
    monkeypatch.setenv("BERTIE_MODELS", "qa, nli,")
    monkeypatch.setenv("BERTIE_API_KEYS", "a,b c")
    monkeypatch.setenv("BERTIE_LOG_LEVEL", "")  # as compose passes on what is unset
    settings = Settings()
    assert (settings.port, settings.models, settings.log_level) == (9000, ("qa", "nli"), "info")
    assert [key.get_secret_value() for key in settings.api_keys] == ["a", "b c"]
    assert "b c" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"), ("PORT", "65536"), ("DEVICE", "tpu"), ("WORKERS", "-1"), ("MAX_BATCH_TOKENS", "-1"),
        ("TIMEOUT_SECONDS", "0"), ("TIMEOUT_SECONDS", "nan"), ("TIMEOUT_SECONDS", "inf"), ("DRAIN_SECONDS", "inf"),
        ("LOG_FORMAT", "xml"), ("API_KEYS", ","), ("MODELS", " , "), ("MAX_BODY_BYTES", "2MB"),
    ],
)  # fmt: skip
def test_a_wrong_one_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"BERTIE_{name}", value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert [error["loc"] for error in caught.value.errors()] == [(name.lower(),)]


def test_the_readme_has_each_setting_and_no_other() -> None:
    documented = set(re.findall(r"`(BERTIE_[A-Z_]+)`", README.read_text(encoding="utf-8")))
    assert documented == {f"BERTIE_{name.upper()}" for name in Settings.model_fields}


@pytest.mark.parametrize(
    ("quota", "cores", "expected"),
    [("max 100000", 8, 8), ("200000 100000", 8, 2), ("150000 100000", 8, 2), ("10000 100000", 8, 1),
     ("1600000 100000", 8, 8), ("rubbish", 8, 8)],
)  # fmt: skip
def test_threads_follow_the_containers_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int, expected: int
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(module, "CGROUP_V2", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    assert cpu_quota() == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("300000", 3)])
def test_or_the_older_kind_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int) -> None:
    (tmp_path / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    monkeypatch.setattr(module, "CGROUP_V2", tmp_path / "none")
    monkeypatch.setattr(module, "CGROUP_V1", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert cpu_quota() == expected


def test_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CGROUP_V2", tmp_path / "none")
    monkeypatch.setattr(module, "CGROUP_V1", tmp_path / "none")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(5)))
    assert cpu_quota() == 5
