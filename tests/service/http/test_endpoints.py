"""The look-up of endpoints by path."""

import pytest
from starlette.responses import Response

from service.http.endpoints import Ask, Document, Endpoint, Endpoints


def read(ask: Ask) -> Response:
    return Response()


def endpoint(path: str, method: str = "POST", tag: str = "") -> Endpoint:
    return Endpoint(path, read, Document(tag), method)


ENDPOINTS = Endpoints()
ENDPOINTS.add(
    endpoint(path)
    for path in (
        "/a", "/models/{name}", "/models/{name}/a", "/v1/models/{name}:predict", "/v2/models/{name}/versions/{version}",
    )
)  # fmt: skip


@pytest.mark.parametrize(
    ("path", "template", "parts"),
    [
        ("/a", "/a", {}),
        ("/models/b", "/models/{name}", {"name": "b"}),
        ("/models/b:c", "/models/{name}", {"name": "b:c"}),
        ("/models/{name}", "/models/{name}", {"name": "{name}"}),
        ("/models/b/a", "/models/{name}/a", {"name": "b"}),
        ("/v1/models/b:c:predict", "/v1/models/{name}:predict", {"name": "b:c"}),
        ("/v2/models/b/versions/1.0", "/v2/models/{name}/versions/{version}", {"name": "b", "version": "1.0"}),
    ],
)
def test_a_path_is_found(path: str, template: str, parts: dict[str, str]) -> None:
    found = ENDPOINTS.find("POST", path)
    assert found
    assert (found[0].path, found[1]) == (template, parts)


@pytest.mark.parametrize(
    "path", ["/", "/a/", "/b", "/models/", "/models/b/c", "/models/b/a/", "/models/b/models/c", "/v1/models/b:explain"]
)  # fmt: skip
def test_another_is_not(path: str) -> None:
    assert ENDPOINTS.find("POST", path) is None


def test_a_method_is_part_of_it() -> None:
    assert ENDPOINTS.find("GET", "/a") is None


def test_the_last_at_a_path_is_served_in_the_place_of_the_first() -> None:
    endpoints = Endpoints()
    endpoints.add([endpoint("/a"), endpoint("/b"), endpoint("/a", tag="later")])
    assert [(each.path, each.document.tag) for each in endpoints] == [("/a", "later"), ("/b", "")]
