import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import Settings

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


def test_a_server_of_its_own_for_probes_and_other_origins_are_off_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (Settings().ops_port, Settings().cors_origins) == (None, ())
    monkeypatch.setenv("BERTIE_OPS_PORT", "8081")
    monkeypatch.setenv("BERTIE_CORS_ORIGINS", "https://a.example, https://b.example")
    assert (Settings().ops_port, Settings().cors_origins) == (8081, ("https://a.example", "https://b.example"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"), ("PORT", "65536"), ("DEVICE", "tpu"), ("WORKERS", "-1"), ("MAX_BATCH_TOKENS", "-1"),
        ("TIMEOUT_SECONDS", "0"), ("TIMEOUT_SECONDS", "nan"), ("TIMEOUT_SECONDS", "inf"), ("DRAIN_SECONDS", "inf"),
        ("LOG_FORMAT", "xml"), ("API_KEYS", ","), ("MODELS", " , "), ("MAX_BODY_BYTES", "2MB"),
        ("OPS_PORT", "-1"), ("MAX_REQUESTS", "0"), ("MAX_HEAD_BYTES", "100"), ("MAX_HEAD_LINES", "0"),
        ("HEAD_SECONDS", "0"), ("HEAD_SECONDS", "inf"), ("CORS_ORIGINS", ","), ("PROTOCOLS", ","),
        ("VERTEX_PREDICT_ROUTE", "predict"),
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


def test_protocols_are_all_some_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "huggingface" in Settings().protocols
    monkeypatch.setenv("BERTIE_PROTOCOLS", "oip, tei")
    assert Settings().protocols == ("oip", "tei")
    monkeypatch.setenv("BERTIE_PROTOCOLS", "none")
    assert Settings().protocols == ()
    monkeypatch.setenv("BERTIE_PROTOCOLS", "oip,v3")
    with pytest.raises(ValidationError, match="'huggingface'"):
        Settings()
