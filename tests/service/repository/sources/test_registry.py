"""Bundles of OCI registries: images, artifacts, indexes; who is let in, and what a digest pins."""

import base64
import json
import logging
import platform
from pathlib import Path

import pytest

from service.errors import BundleError
from service.repository.manifest import MANIFEST, TOKENIZER
from service.repository.sources import fetch
from service.repository.sources import registry as registries
from service.repository.sources.transfer import MAX_MANIFEST
from tests.bundles import make_bundle
from tests.remote import INDEX, LAYER, Registry, Web, basic, files_of, serving, tar_of

GRAPH = "model.fp32.onnx"
THIS = {"os": "linux", "architecture": registries.ARCHITECTURES.get(platform.machine(), platform.machine())}


def configure(home: Path, config: object) -> None:
    """Write Docker's configuration."""
    (home / ".docker").mkdir(parents=True)
    (home / ".docker" / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.mark.parametrize("packed", [True, False])
def test_an_image(packed: bool, registry: Registry, elsewhere: Path, cache: Path) -> None:
    """As KServe has them: a bundle in /models, above what the image runs."""
    registry.image(tar_of({"bin/sh": b"#" * 999}), tar_of(files_of(elsewhere, "models/"), packed=packed), tag="v1")
    found = fetch(f"{registry.name}:v1", cache)
    assert files_of(found) == files_of(elsewhere)
    assert found.name == "sentiment"
    assert len([path for path in registry.web.paths() if "/blobs/" in path]) == 1


def test_a_bundle_over_several_layers(registry: Registry, elsewhere: Path, cache: Path) -> None:
    files = files_of(elsewhere, "models/")
    layers = [tar_of({path: content}) for path, content in files.items()]
    registry.image(*layers, tar_of({"models/later": b""}))
    assert files_of(fetch(registry.name, cache)) == files_of(elsewhere)


@pytest.mark.parametrize("prefix", ["", "sentiment/"])
def test_an_artifact(prefix: str, registry: Registry, elsewhere: Path, cache: Path) -> None:
    registry.artifact({**files_of(elsewhere, prefix), "readme": b"#"}, tag="v1")
    assert files_of(fetch(f"{registry.name}:v1", cache)) == files_of(elsewhere)
    assert len(registry.web.asked) == 1 + len(files_of(elsewhere))


def test_an_artifact_of_a_packed_folder(registry: Registry, elsewhere: Path, cache: Path) -> None:
    """As oras pushes a folder."""
    layer = tar_of(files_of(elsewhere, "sentiment/"), packed=True)
    notes = {"org.opencontainers.image.title": "sentiment", "io.deis.oras.content.unpack": "true"}
    described = {"mediaType": f"{LAYER}+gzip", "digest": registry.blob(layer), "annotations": notes}
    registry.manifest({"layers": [described]})
    assert files_of(fetch(registry.name, cache)) == files_of(elsewhere)


def test_an_index(registry: Registry, elsewhere: Path, cache: Path) -> None:
    here = registry.image(tar_of(files_of(elsewhere, "models/")), tag="here")
    for number, entries in enumerate(
        (
            [{"digest": f"sha256:{'0' * 64}", "platform": {"os": "linux", "architecture": "s390x"}}, THIS],
            [{"digest": f"sha256:{'0' * 64}", "platform": {"os": "unknown", "architecture": "unknown"}}, {}],
        )
    ):
        listed = [entry if "digest" in entry else {"digest": here, "platform": entry} for entry in entries]
        digest = registry.manifest({"mediaType": INDEX, "manifests": listed}, tag=f"v{number}")
        assert files_of(fetch(f"{registry.name}:v{number}", cache / str(number))) == files_of(elsewhere)
        found = fetch(f"{registry.name}@{digest}", cache / str(number))
        asked = len(registry.web.asked)
        assert fetch(f"{registry.name}@{digest}", cache / str(number)) == found
        assert len(registry.web.asked) == asked


def test_an_index_with_nothing_for_this_machine(registry: Registry, cache: Path) -> None:
    other = {"digest": f"sha256:{'0' * 64}", "platform": {"os": "linux", "architecture": "s390x"}}
    registry.manifest({"manifests": [other]})
    with pytest.raises(BundleError, match=f"its index has nothing for linux/{THIS['architecture']}: linux/s390x"):
        fetch(registry.name, cache)


@pytest.mark.parametrize("kind", ["image", "artifact"])
def test_what_a_digest_pins_costs_no_network_again(
    kind: str, registry: Registry, elsewhere: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = files_of(elsewhere)
    digest = registry.image(tar_of(files)) if kind == "image" else registry.artifact(files)
    found = fetch(f"{registry.name}:v9@{digest}", cache)
    asked = len(registry.web.asked)
    assert fetch(f"{registry.name}@{digest}", cache) == found
    assert len(registry.web.asked) == asked
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    (found / GRAPH).write_bytes(b"")  # a disk that fails
    assert files_of(fetch(f"{registry.name}@{digest}", cache)) == files_of(elsewhere)


@pytest.mark.parametrize("kind", ["image", "artifact"])
def test_a_tag_of_what_is_there_costs_its_manifest(
    kind: str, registry: Registry, elsewhere: Path, cache: Path, sha256: str
) -> None:
    files = files_of(elsewhere)
    digest = registry.image(tar_of(files)) if kind == "image" else registry.artifact(files)
    found = fetch(registry.name, cache)
    registry.web.asked.clear()
    assert fetch(registry.name, cache) == found
    assert registry.web.paths() == [f"{registry.base}/manifests/latest"]
    assert fetch(f"{registry.name}@{digest}", cache) == found
    assert len(registry.web.asked) == 1
    with pytest.raises(BundleError, match=f"sha256={sha256}, and not .*sha256={'0' * 64}"):
        fetch(f"{registry.name}#sha256={'0' * 64}", cache)


def test_the_same_files_under_another_tag_are_there(registry: Registry, elsewhere: Path, cache: Path) -> None:
    registry.artifact(files_of(elsewhere), tag="v1")
    registry.artifact({**files_of(elsewhere), "readme": b"#"}, tag="v2")
    found = fetch(f"{registry.name}:v1", cache)
    registry.web.asked.clear()
    assert fetch(f"{registry.name}:v2", cache) == found
    assert len(registry.web.asked) == 2


def test_a_manifest_that_is_not_what_the_digest_says(registry: Registry, elsewhere: Path, cache: Path) -> None:
    digest = registry.artifact(files_of(elsewhere))
    registry.web.files[f"{registry.base}/manifests/{digest}"] += b" "
    with pytest.raises(BundleError, match=f"the manifest {digest} has sha256:"):
        fetch(f"{registry.name}@{digest}", cache)


@pytest.mark.parametrize("name", [MANIFEST, GRAPH])
def test_a_blob_that_is_not_what_its_digest_says(name: str, registry: Registry, elsewhere: Path, cache: Path) -> None:
    files = files_of(elsewhere)
    registry.artifact(files)
    path = f"{registry.base}/blobs/{registry.blob(files[name])}"
    registry.web.files[path] = files[name].replace(b"n", b"m")
    with pytest.raises(BundleError, match=f"{name} has sha256"):
        fetch(registry.name, cache)


def test_a_layer_that_is_not_what_its_digest_says(registry: Registry, elsewhere: Path, cache: Path) -> None:
    layer = tar_of(files_of(elsewhere))
    registry.image(layer)
    registry.web.files[f"{registry.base}/blobs/{registry.blob(layer)}"] = layer + b"\0" * 512
    with pytest.raises(BundleError, match=r"tar-0 has sha256 .* is expected"):
        fetch(registry.name, cache)


def test_a_hash_of_the_bundle_counts_too(registry: Registry, elsewhere: Path, cache: Path, sha256: str) -> None:
    registry.artifact(files_of(elsewhere))
    with pytest.raises(BundleError, match=f"its {MANIFEST} has sha256={sha256}, and not sha256={'0' * 64}"):
        fetch(f"{registry.name}#sha256={'0' * 64}", cache)
    found = fetch(f"{registry.name}#sha256={sha256}", cache)
    asked = len(registry.web.asked)
    assert fetch(f"oci://nowhere.invalid/qa:v1#sha256={sha256}", cache) == found
    assert len(registry.web.asked) == asked


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>", "the manifest latest is no JSON"),
        (b"[" * 100_000, "the manifest latest is no JSON"),
        (b"[]", "the manifest latest has no layers"),
        (b'{"errors": []}', "the manifest latest has no layers"),
        (b'{"layers": {}}', "layers of its manifest is no list"),
        (b'{"layers": [1]}', "layers of its manifest is no list"),
        (b'{"layers": []}', f"no folder in it holds a bundle with its {MANIFEST}"),
        (b'{"layers": [{"mediaType": "x/tar"}]}', "a digest that is no sha256: 'None'"),
        (b'{"layers": [{"mediaType": "x/tar", "digest": "sha256:../../a"}]}', "a digest that is no sha256"),
        (b'{"layers": [{"mediaType": "x/tar", "digest": "sha512:ab"}]}', "a digest that is no sha256: 'sha512:ab'"),
        (b'{"layers": [{"annotations": 1, "mediaType": "x/tar"}]}', "a digest that is no sha256"),
        (b'{"manifests": [{"platform": 1}]}', "a digest that is no sha256"),
        (b" " * (MAX_MANIFEST + 1), f"more than {MAX_MANIFEST} bytes"),
    ],
)
def test_a_manifest_that_is_none(content: bytes, said: str, registry: Registry, cache: Path) -> None:
    registry.web.files[f"{registry.base}/manifests/latest"] = content
    with pytest.raises(BundleError, match=said):
        fetch(registry.name, cache)


def test_an_index_of_indexes(registry: Registry, cache: Path) -> None:
    inner = registry.manifest({"manifests": [{"digest": f"sha256:{'0' * 64}"}]}, "inner")
    registry.manifest({"manifests": [{"digest": inner}]})
    with pytest.raises(BundleError, match="an index of it names another index"):
        fetch(registry.name, cache)


def test_an_artifact_without_a_file_of_the_bundle(registry: Registry, elsewhere: Path, cache: Path) -> None:
    files = files_of(elsewhere)
    del files[TOKENIZER]
    registry.artifact(files)
    with pytest.raises(BundleError, match=f"{TOKENIZER} is missing beside the {MANIFEST} in it"):
        fetch(registry.name, cache)


def test_an_artifact_of_two_bundles(registry: Registry, elsewhere: Path, cache: Path, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", "nli")
    registry.artifact({**files_of(elsewhere, "a/"), **files_of(other, "b/")})
    with pytest.raises(BundleError, match="it holds several bundles, in 'a' and 'b'"):
        fetch(registry.name, cache)


def test_an_image_that_is_not_there(registry: Registry, cache: Path) -> None:
    with pytest.raises(BundleError, match="manifests/v7 answers 404: there is no such file"):
        fetch(f"{registry.name}:v7", cache)


# ---- who is let in --------------------------------------------------------------------------------------------------


def test_a_token_that_all_may_have(registry: Registry, elsewhere: Path, cache: Path) -> None:
    registry.artifact(files_of(elsewhere))
    registry.lock()
    assert files_of(fetch(registry.name, cache)) == files_of(elsewhere)
    tokens = [asked for asked in registry.web.asked if asked.path.startswith("/token")]
    assert [asked.path for asked in tokens] == ["/token?scope=repository%3Ateam%2Fqa%3Apull&service=here"]
    assert "Authorization" not in tokens[0].headers


@pytest.mark.parametrize("key", ["{host}", "http://{host}/v1/"])
def test_a_token_for_a_user(key: str, registry: Registry, elsewhere: Path, cache: Path, home: Path) -> None:
    registry.artifact(files_of(elsewhere))
    registry.lock("ada", "pass:word")
    with pytest.raises(BundleError, match="/token answers 401: it wants to know who asks"):
        fetch(registry.name, cache)
    auth = base64.b64encode(b"ada:pass:word").decode()
    configure(home, {"auths": {"other": {"auth": "eDp5"}, key.format(host=registry.host): {"auth": auth}}})
    assert files_of(fetch(registry.name, cache)) == files_of(elsewhere)


def test_user_and_password_themselves(registry: Registry, elsewhere: Path, cache: Path, home: Path) -> None:
    registry.artifact(files_of(elsewhere))
    registry.web.locked["/v2"] = basic("ada", "secret")
    configure(home, {"auths": {registry.host: {"auth": base64.b64encode(b"ada:secret").decode()}}})
    assert files_of(fetch(registry.name, cache)) == files_of(elsewhere)


def test_an_identity_token_is_refreshed(registry: Registry, elsewhere: Path, cache: Path, home: Path) -> None:
    registry.artifact(files_of(elsewhere))
    registry.lock()
    registry.web.files["/token"] = b'{"access_token": "secret-token"}'
    configure(home, {"auths": {registry.host: {"identitytoken": "refresh-me"}}})
    assert files_of(fetch(registry.name, cache)) == files_of(elsewhere)
    [token] = [asked for asked in registry.web.asked if asked.path == "/token"]
    assert b"grant_type=refresh_token" in token.body
    assert b"refresh_token=refresh-me" in token.body


@pytest.mark.parametrize("field", ["credsStore", "credHelpers"])
def test_a_credential_helper_is_asked(
    field: str, registry: Registry, elsewhere: Path, cache: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.artifact(files_of(elsewhere))
    registry.lock("ada", "secret")
    configure(home, {field: "test" if field == "credsStore" else {registry.host: "test"}})
    helper = home / "docker-credential-test"
    helper.write_text('#!/bin/sh\nread host\necho "{\\"Username\\": \\"ada\\", \\"Secret\\": \\"secret\\"}"\n')
    helper.chmod(0o700)
    monkeypatch.setenv("PATH", str(home), prepend=":")
    assert files_of(fetch(registry.name, cache)) == files_of(elsewhere)


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "[]",
        {"auths": {"HOST": {"auth": "%"}}},
        {"auths": {"HOST": 1}},
        {"auths": []},
        {"credsStore": "no-such"},
        {"credsStore": "odd"},
    ],
)
def test_a_configuration_that_cannot_be_read_is_none(
    config: object, registry: Registry, elsewhere: Path, cache: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.artifact(files_of(elsewhere))
    registry.lock()
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "docker-credential-odd").write_text("#!/bin/sh\necho {}\n")
    (home / "bin" / "docker-credential-odd").chmod(0o700)
    monkeypatch.setenv("PATH", str(home / "bin"), prepend=":")
    configure(home, json.loads(json.dumps(config).replace("HOST", registry.host)))
    assert files_of(fetch(registry.name, cache)) == files_of(elsewhere)


def test_the_token_is_not_sent_to_where_blobs_are(registry: Registry, elsewhere: Path, cache: Path) -> None:
    registry.artifact(files_of(elsewhere))
    registry.lock()
    with serving() as cdn:
        for path in [path for path in registry.web.files if "/blobs/" in path]:
            cdn.files[path] = registry.web.files.pop(path)
            registry.web.moved[path] = cdn.url + path
        assert files_of(fetch(registry.name, cache)) == files_of(elsewhere)
        assert cdn.asked
        assert all("Authorization" not in asked.headers for asked in cdn.asked)


def test_a_challenge_from_where_blobs_are_gets_no_password(
    registry: Registry, elsewhere: Path, cache: Path, home: Path
) -> None:
    registry.artifact(files_of(elsewhere))
    configure(home, {"auths": {registry.host: {"auth": base64.b64encode(b"ada:secret").decode()}}})
    with serving() as cdn:
        cdn.locked["/"] = "Bearer x"
        cdn.challenge = f'Bearer realm="{cdn.url}/token"'
        for path in [path for path in registry.web.files if "/blobs/" in path]:
            registry.web.moved[path] = cdn.url + path
        with pytest.raises(BundleError, match="answers 401"):
            fetch(registry.name, cache)
        assert all("Authorization" not in asked.headers for asked in cdn.asked)
        assert not [path for path in cdn.paths() if path.startswith("/token")]


def test_a_token_that_expires_is_got_again(registry: Registry, elsewhere: Path, cache: Path) -> None:
    registry.artifact(files_of(elsewhere))
    registry.lock()
    blob = f"{registry.base}/blobs/{registry.blob(files_of(elsewhere)[GRAPH])}"
    registry.web.failing[blob] = [(401, {"WWW-Authenticate": registry.web.challenge})]
    assert files_of(fetch(registry.name, cache)) == files_of(elsewhere)
    assert len([path for path in registry.web.paths() if path.startswith("/token")]) == 2


@pytest.mark.parametrize(
    "challenge",
    ["", "Basic realm=x", "Negotiate", "Bearer", "Bearer realm=", 'Bearer service="x"', 'Bearer realm="/no/url"'],
)
def test_a_challenge_that_cannot_be_met(challenge: str, registry: Registry, cache: Path) -> None:
    registry.lock()
    registry.web.challenge = challenge
    with pytest.raises(BundleError, match=r"answers 401: it wants to know who asks|is no URL|http"):
        fetch(registry.name, cache)


@pytest.mark.parametrize("answer", [b"{}", b"[]", b'{"token": 1}'])
def test_a_token_that_is_none(answer: bytes, registry: Registry, cache: Path) -> None:
    registry.lock()
    registry.web.files["/token"] = answer
    with pytest.raises(BundleError, match="answers 401: it wants to know who asks"):
        fetch(registry.name, cache)


def test_a_realm_on_plain_http_gets_no_password(registry: Registry, cache: Path) -> None:
    registry.lock()
    registry.web.challenge = 'Bearer realm="http://192.0.2.1/token"'
    with pytest.raises(BundleError, match=r"http://192\.0\.2\.1/token.* is plain http"):
        fetch(registry.name, cache)


def test_docker_hub_has_three_names(web: Web) -> None:
    registry = registries.Registry(web, "docker.io", "team/qa")  # type: ignore[arg-type]
    assert registry._url == "https://registry-1.docker.io/v2/team/qa"
    assert registries.Registry(web, "ghcr.io", "a")._url == "https://ghcr.io/v2/a"  # type: ignore[arg-type]
    assert registries.Registry(web, "[::1]:5000", "a")._url == "http://[::1]:5000/v2/a"  # type: ignore[arg-type]
