"""Schemathesis: the service keeps to its OpenAPI document, for data that fits it and for data that does not."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    positive_data_acceptance,
    unsupported_method,
)

from service.app import create_app
from service.settings import Settings
from tests.bundles import make_bundle
from tests.serving import running

schema = schemathesis.openapi.from_dict(create_app(Settings()).openapi())
# What else Unicode has is for the other tests: whether a private-use character is a token depends on the vocabulary.
schema.config.generation.update(codec="latin-1")
# A list that is longer than the document allows is refused with 413: the limits of the settings are told first.
schema.config.checks.negative_data_rejection.expected_statuses.append("413")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service in a process of its own, with a bundle of each kind."""
    models = tmp_path_factory.mktemp("models")
    for kind in ("choice", "nli", "qa", "rerank", "sentiment"):
        make_bundle(models, kind)
    with running(models) as service:
        yield service.url
        assert [record for record in service.log if record["level"] == "error"] == []


# Paths that another's handler serves.
schema = schema.exclude(path_regex=r"^/v[12]/rerank$|/models/{name}/(predict|tokenize|rerank|health|info)$|/versions/")


@schema.parametrize()
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_service_keeps_to_its_document(case: schemathesis.Case, url: str) -> None:
    excluded = []
    parameters = case.body.get("parameters") if isinstance(case.body, dict) else None
    windows = isinstance(parameters, dict) and any(parameters.get(name) for name in ("max_seq_len", "doc_stride"))
    if case.path.endswith("/infer") or windows:
        # No schema says that a tensor's shape and data agree, or that a window leaves room beside the question.
        excluded.append(positive_data_acceptance)
    if case.path == "/":  # where the playground is too, which is no part of the document
        excluded += [unsupported_method, allow_header_conformance]
    case.call_and_validate(base_url=url, excluded_checks=excluded)
