"""The README's promises, kept by the bundles of this repository: its curl lines, its tables of paths."""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.repository import loading
from tests.serving import Running, running

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODELS = ROOT / "models"


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    with running(MODELS) as process:
        yield process


def curl_lines() -> list[tuple[str, dict[str, Any]]]:
    """(path, body) of each curl line under "A first answer"."""
    section = README.split("## A first answer")[1].split("\n## ")[0]
    commands = [line for line in section.replace("\\\n", " ").splitlines() if line.startswith("curl ")]
    found = []
    for command in commands:
        words = shlex.split(command)
        url = next(word for word in words if word.startswith("localhost"))
        found.append(("/" + url.split("/", 1)[1], json.loads(words[words.index("-d") + 1])))
    return found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (0, lambda answer: answer["answer"]["text"] == "London"),
        (1, lambda answer: answer["label"] == "positive"),
        (2, lambda answer: answer["label"] == "entailment"),
    ],
)
def test_the_curl_lines_give_right_answers(line: int, expected: Any, service: Running) -> None:
    path, body = curl_lines()[line]
    response = httpx.post(service.url + path, json=body, timeout=30)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert expected(answer), answer
    if path == "/qa":
        span = answer["answer"]
        assert body["context"][span["start"] : span["end"]] == span["text"]


def test_the_lines_without_a_server_give_right_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    section = README.split("## Without a server")[1].split("\n## ")[0]
    names: dict[str, Any] = {}
    shown = []
    for statement in ast.parse(section.split("```python")[1].split("```")[0]).body:
        if isinstance(statement, ast.Expr):
            shown.append(eval(ast.unparse(statement), names))
        else:
            exec(ast.unparse(statement), names)
    born, ((best, *_),), (kind,), pair, music = shown
    assert (born["answer"], born["start"], born["end"], round(born["score"], 2)) == ("London", 25, 31, 0.99)
    assert best["answer"] == "Ada"
    assert (kind["label"], pair["label"], music["labels"]) == ("positive", "contradiction", ["music", "sports"])


def test_the_bundles_are_whole_and_fit_the_repository() -> None:
    loaded = loading.find(MODELS)
    assert {"sentiment", "nli", "qa"} <= {bundle.name for bundle in loaded}
    assert all(bundle.graph_for("cpu").precision == "int8" for bundle in loaded)
    assert sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file()) <= 80e6


def test_every_file_named_in_the_tree_exists() -> None:
    tree = README.split("## What is in the tree")[1].split("```")[1]
    folder = ""
    for line in tree.splitlines():
        name = line.split("  ")[0] if not line.startswith(" ") else line.strip().split("  ")[0]
        if not line.startswith(" ") and name.endswith("/"):
            folder = name
        for part in (p.strip() for p in name.split(",")):
            if re.search(r"\.(py|md)$|/$", part):
                assert (ROOT / part).exists() or (ROOT / folder / part).exists(), part
