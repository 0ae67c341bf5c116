"""The whole way, as a user goes it: three recipes, trainings and exports, one service, right answers over HTTP.

Everything runs in processes of its own, through the command lines alone.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SECONDS = 240
"""Each process's limit; a machine that trains beside it is slow."""
SENTENCES = (
    ("a good film", 1), ("an awful movie", 0), ("this great movie is fun", 1), ("a terrible sad film", 0),
    ("i loved it", 1), ("i hated the boring film", 0), ("wonderful and excellent", 1), ("poor bad film", 0),
)  # fmt: skip
FRANCE = "Paris is the capital of France . The team won the game ."
CODE = "Ada wrote the code and Grace Hopper wrote about it ."
ANSWERS = (
    ("What is the capital of France ?", FRANCE, "Paris"),
    ("Who won the game ?", FRANCE, "The team"),
    ("Who wrote the code ?", CODE, "Ada"),
    ("Who wrote about it ?", CODE, "Grace Hopper"),
    ("Who lives in Germany ?", CODE, None),
    ("What is the highest mountain ?", FRANCE, None),
)
CHOICES = (
    ("What is the capital of France ?", FRANCE, ("London", "Paris", "Berlin", "the game"), 1),
    ("_ won the game .", FRANCE, ("Paris", "Nobody", "The team", "France"), 2),
    ("Who wrote the code ?", CODE, ("Ada", "Ruth", "the dog", "the team"), 0),
    ("Who wrote about it ?", CODE, ("Ada", "Ruth", "nobody", "Grace Hopper"), 3),
)
COMMON = """
model = "{encoder}"
train = "{data}"
dev = "{data}"
output = "{output}"
max_length = 48
batch_size = 4
learning_rate = 3e-3
dropout = 0.0
seed = 1
"""
SENTIMENT = 'task = "classification"\ndata = "sst2"\nlabels = ["negative", "positive"]\nepochs = 30\n' + COMMON
RACE = 'task = "multiple_choice"\ndata = "race"\nepochs = 80\n' + COMMON
QA = 'task = "span"\ndata = "squad"\ndoc_stride = 12\nepochs = 80\n' + COMMON


def environment(**more: str) -> dict[str, str]:
    quiet = {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
    return {k: v for k, v in os.environ.items() if not k.startswith("BERTIE_")} | quiet | more


def train(*commands: list[str]) -> list[str]:
    """Runs `python -m training` with each command, side by side. Returns what each printed."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "training", *command], cwd=ROOT, env=environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for command in commands
    ]  # fmt: skip
    outputs = []
    try:
        for process in processes:
            output, errors = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, errors[-3000:]
            outputs.append(output)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return outputs


def squad() -> str:
    paragraphs = []
    for context in (FRANCE, CODE):
        records = [
            {
                "id": question,
                "question": question,
                "is_impossible": answer is None,
                "answers": [{"text": answer, "answer_start": context.index(answer)}] if answer else [],
            }
            for question, where, answer in ANSWERS
            if where == context
        ]
        paragraphs.append({"context": context, "qas": records})
    return json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": paragraphs}]})


def race() -> str:
    """Two passages in two lines."""
    passages = []
    for i, context in enumerate((FRANCE, CODE)):
        asked = [(q, list(options), "ABCD"[answer]) for q, where, options, answer in CHOICES if where == context]
        questions, options, answers = zip(*asked, strict=True)
        record = {"id": f"high{i}.txt", "article": context, "level": "high"}
        passages.append(record | {"questions": questions, "options": options, "answers": answers})
    return "".join(json.dumps(passage) + "\n" for passage in passages)


def last_json(output: str) -> Any:
    return json.loads(output.rstrip("\n").splitlines()[-1])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundles `sentiment`, `qa` and `race`, trained and exported from a random encoder."""
    from tests.training.samples import save_checkpoint  # torch is not loaded before it is needed

    folder = tmp_path_factory.mktemp("end-to-end")
    encoder = save_checkpoint(folder / "encoder")
    (folder / "sst2.tsv").write_text("sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in SENTENCES))
    (folder / "squad.json").write_text(squad(), encoding="utf-8")
    (folder / "race.jsonl").write_text(race(), encoding="utf-8")
    recipes = {"sentiment": (SENTIMENT, "sst2.tsv"), "qa": (QA, "squad.json"), "race": (RACE, "race.jsonl")}
    for name, (recipe, data) in recipes.items():
        text = recipe.format(encoder=encoder, data=folder / data, output=folder / "runs" / name)
        (folder / f"{name}.toml").write_text(text)
    sentiment, qa, choices = train(*(["finetune", str(folder / f"{name}.toml")] for name in recipes))
    assert last_json(sentiment)["accuracy"] == last_json(choices)["accuracy"] == 100.0
    assert last_json(qa)["f1"] == 100.0
    exported = train(
        *(["export", str(folder / "runs" / name / "final"), str(folder / "models" / name)] for name in recipes)
    )
    assert all(last_json(each).keys() == {"fp32", "int8"} for each in exported)
    return folder / "models"


@pytest.fixture(scope="module")
def service(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a real service, once it is ready, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("service") / "log"
    variables = environment(BERTIE_MODELS_DIR=str(models), BERTIE_PORT=str(port), BERTIE_DEVICE="cpu")
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "service"], cwd=ROOT, env=variables, stdout=file, stderr=subprocess.STDOUT
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while not ready(address):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield address, process
    finally:
        process.kill()
        process.wait()


def ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health/ready", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def post(address: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def test_sentiment_over_http(service: tuple[str, Any]) -> None:
    address = f"{service[0]}/classify"
    for text, label in SENTENCES:
        answer = post(address, {"text": text})
        assert (answer["model"], answer["label"]) == ("sentiment", ("negative", "positive")[label])
        assert answer["scores"].keys() == {"negative", "positive"}
        assert answer["score"] == max(answer["scores"].values()) > 0.8
    many = post(address, {"inputs": [{"text": text} for text, _ in SENTENCES]})
    assert [each["label"] for each in many["results"]] == [("negative", "positive")[label] for _, label in SENTENCES]


def test_questions_over_http(service: tuple[str, Any]) -> None:
    address = f"{service[0]}/qa"
    for question, context, expected in ANSWERS:
        answer = post(address, {"question": question, "context": context})
        assert answer["model"] == "qa"
        if expected is None:
            assert answer["answer"] is None
        else:
            best = answer["answer"]
            assert best["text"] == context[best["start"] : best["end"]] == expected
    question, _, expected = ANSWERS[0]
    answer = post(address, {"question": question, "context": [CODE, FRANCE], "no_answer": False})["answer"]
    assert (answer["text"], answer["document"]) == (expected, 1)


def test_options_over_http(service: tuple[str, Any]) -> None:
    address = f"{service[0]}/qa"
    for question, context, options, expected in CHOICES:
        answer = post(address, {"question": question, "context": context, "options": options})
        assert (answer["model"], answer["truncated"]) == ("race", False)
        assert (answer["answer"]["option"], answer["answer"]["text"]) == (expected, options[expected])
        assert sorted(each["option"] for each in answer["answers"]) == [0, 1, 2, 3]
        assert answer["answers"][0] == answer["answer"]
    assert post(address, {"question": question, "context": context * 9, "options": options})["truncated"]


def test_models_over_http(service: tuple[str, Any]) -> None:
    with urllib.request.urlopen(f"{service[0]}/models/qa", timeout=30) as response:
        described = json.load(response)
    assert described["precision"] == "int8"
    assert "100.0" in json.dumps(described)


def test_sigterm_ends_it_well(service: tuple[str, subprocess.Popen[bytes]]) -> None:
    """Last in this file: the service is gone after it."""
    address, process = service
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    assert not ready(address)
