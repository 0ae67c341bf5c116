"""Other people's clients as they are: each snippet of `docs/clients.md` prints what the page says.

They live in an environment of their own, which `make clients` makes, and `make test` with it.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.bundles import make_bundle
from tests.serving import Running, running

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
ENVIRONMENT = ROOT / ".venv-clients"
PYTHON = ENVIRONMENT / "bin" / "python"
HUBS = ("", "hub-0.34", "hub-1.1.4", "hub-1.1")
"""Folders of older versions of huggingface_hub; none: the newest."""
SECTIONS = dict(section.split("\n", 1) for section in PAGE.split("\n## ")[1:])
SNIPPETS = {
    heading: tuple(found.groups())
    for heading, section in SECTIONS.items()
    if (found := re.search(r"```python\n(.*?)```\n```text\n(.*?)```", section, flags=re.S))
}
"""The code of each section of the page, and what it prints."""

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="the clients are not installed: make clients")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The bundles of the repository, and one that reranks."""
    models = tmp_path_factory.mktemp("models")
    for name in ("sentiment", "nli", "qa"):
        shutil.copytree(ROOT / "models" / name, models / name)
    make_bundle(models, "rerank", name="reranker")
    with running(models, BERTIE_GRPC_PORT="0") as process:
        yield process
        assert [record for record in process.log if record["level"] == "error"] == []


def run(code: str, service: Running, folder: Path, path: str = "") -> str:
    """What a snippet prints, with the service's addresses in the place of the page's."""
    [over_grpc] = [record["grpc_address"] for record in service.log if record["message"] == "serving"]
    places = {"localhost:8000": urlsplit(service.url).netloc, "localhost:8001": over_grpc}
    for shown, place in places.items():
        code = code.replace(shown, place)
    done = subprocess.run(
        [str(PYTHON), "-c", code],
        cwd=folder,
        env={"PYTHONPATH": path, "HOME": str(folder), "NO_PROXY": "*", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_section_has_a_snippet() -> None:
    assert len(SECTIONS) >= 9
    assert SNIPPETS.keys() == SECTIONS.keys()


@pytest.mark.parametrize("heading", [heading for heading in SNIPPETS if heading != "Hugging Face"])
def test_a_snippet_prints_what_the_page_says(heading: str, service: Running, tmp_path: Path) -> None:
    code, shown = SNIPPETS[heading]
    assert run(code, service, tmp_path) == shown


@pytest.mark.parametrize("hub", HUBS)
class TestHuggingFace:
    """The newest `huggingface_hub`, and older ones."""

    def run(self, code: str, hub: str, service: Running, folder: Path) -> str:
        return run(code, service, folder, str(ENVIRONMENT / hub) if hub else "")

    def test_is_the_version_that_is_meant(self, hub: str, service: Running, tmp_path: Path) -> None:
        version = self.run("import huggingface_hub; print(huggingface_hub.__version__)", hub, service, tmp_path)
        assert version.startswith(hub.removeprefix("hub-"))
        assert bool(hub) or int(version.split(".")[0]) >= 2

    def test_the_snippet_prints_what_the_page_says(self, hub: str, service: Running, tmp_path: Path) -> None:
        code, shown = SNIPPETS["Hugging Face"]
        assert self.run(code, hub, service, tmp_path) == shown

    def test_parameters_and_errors(self, hub: str, service: Running, tmp_path: Path) -> None:
        code = """
from huggingface_hub import InferenceClient
client = InferenceClient(model="http://localhost:8000", token="none")
asked = dict(question="Where does Ada live?", context="Ada lives in London. Ruth lives in Paris.")
found = client.question_answering(
    **asked, top_k=2, align_to_words=True, doc_stride=16, handle_impossible_answer=False, max_answer_len=5,
    max_question_len=20, max_seq_len=64,
)
print(len(found), found[0].answer)
print(len(client.text_classification("What a wonderful film!", top_k=1, function_to_apply="sigmoid")))
labels = client.zero_shot_classification(
    "The team won the soccer game.", ["politics", "sports"], multi_label=True, hypothesis_template="It is about {}."
)
print([label.label for label in labels], all(0 < label.score < 1 for label in labels))
for url, text in (("http://localhost:8000/models/nope", "a"), ("http://localhost:8000", "")):
    try:
        InferenceClient(model=url, token="none").text_classification(text)
    except Exception as error:
        print(error.response.status_code, "no model" in str(error), "is blank" in str(error))
endpoint = InferenceClient(model="http://localhost:8000/models/qa", provider="hf-inference", token="none")
print(endpoint.health_check() if hasattr(endpoint, "health_check") else True)
"""
        printed = self.run(code, hub, service, tmp_path).splitlines()
        assert printed == ["2 London", "1", "['sports', 'politics'] True", "404 True False", "422 False True", "True"]


def test_triton_is_told_what_is_wrong(service: Running, tmp_path: Path) -> None:
    code = """
import numpy as np
import tritonclient.http as triton
client = triton.InferenceServerClient("localhost:8000")
print(client.is_server_live(), client.is_server_ready(), client.is_model_ready("nope"))
version = client.get_model_metadata("sentiment")["versions"][0]
tensor = triton.InferInput("text", [1, 1], "BYTES")
for texts, model, chosen, binary in (
    (["good"], "sentiment", version, True), (["good"], "sentiment", "", False), (["good"], "sentiment", "9", True),
    ([""], "sentiment", "", True), (["good"], "nope", "", True),
):
    tensor.set_data_from_numpy(np.array([texts], dtype=object), binary_data=binary)
    try:
        outputs = [triton.InferRequestedOutput("label", binary_data=binary)]
        found = client.infer(model, [tensor], model_version=chosen, outputs=outputs, request_id="7")
        print(found.as_numpy("label"), found.get_response()["id"])
    except triton.InferenceServerException as error:
        print(error.status())
"""
    printed = run(code, service, tmp_path).splitlines()
    assert printed == ["True True False", "[b'positive'] 7", "['positive'] 7", "404", "400", "404"]


@pytest.mark.parametrize("flavour", ["grpc", "grpc.aio"])
def test_triton_over_grpc(flavour: str, service: Running, tmp_path: Path) -> None:
    """What is answered and told, and a message as long as HTTP's bodies may be."""
    code = """
import asyncio
import inspect
import numpy as np
import tritonclient.FLAVOUR as triton
async def main():
    async def found(value):
        return await value if inspect.isawaitable(value) else value
    client = triton.InferenceServerClient("localhost:8001")
    print(await found(client.is_server_live()), await found(client.is_server_ready()))
    print((await found(client.get_server_metadata())).name)
    print(await found(client.is_model_ready("sentiment", "")))
    version = (await found(client.get_model_metadata("sentiment"))).versions[0]
    print((await found(client.get_model_metadata("nli", as_json=True)))["inputs"][1]["name"])
    tensor = triton.InferInput("text", [1, 1], "BYTES")
    for text, model, chosen, timeout in (
        ("good", "sentiment", version, None), ("good " * 100_000, "sentiment", "", None), ("", "sentiment", "", None),
        ("good", "nope", "", None), ("good", "sentiment", "9", None), ("a" * 3_000_000, "sentiment", "", None),
        ("good " * 200_000, "sentiment", "", 0.001),
    ):
        tensor.set_data_from_numpy(np.array([[text]], dtype=object))
        outputs = [triton.InferRequestedOutput("label")]
        asked = dict(model_version=chosen, outputs=outputs, request_id="7", client_timeout=timeout)
        try:
            answer = await found(client.infer(model, [tensor], parameters={"top_k": 1}, **asked))
            print(answer.as_numpy("label"), answer.get_response().id)
        except triton.InferenceServerException as error:
            print(error.status())
    await found(client.close())
asyncio.run(main())
"""
    printed = run(code.replace("FLAVOUR", flavour), service, tmp_path).splitlines()
    assert printed == [
        "True True", "bertie", "True", "text_pair", "[b'positive'] 7", "[b'positive'] 7", "StatusCode.INVALID_ARGUMENT",
        "StatusCode.NOT_FOUND", "StatusCode.NOT_FOUND", "StatusCode.RESOURCE_EXHAUSTED", "StatusCode.DEADLINE_EXCEEDED",
    ]  # fmt: skip
