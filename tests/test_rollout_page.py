"""docs/rollout.md, followed line by line: a checkpoint is exported, added, tried, promoted and rolled back."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving import Running, running

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```sh( serve)?\n(.*?)^```", (ROOT / "docs/rollout.md").read_text(encoding="utf-8"), re.M | re.S)
SENTENCES = (("a good film", 1), ("an awful movie", 0), ("this great movie is fun", 1), ("a terrible sad film", 0)) * 8
RECIPE = """
task = "classification"
data = "sst2"
labels = ["negative", "positive"]
model = "encoder"
train = "sst2.tsv"
dev = "sst2.tsv"
output = "runs/sentiment"
max_length = 32
batch_size = 4
epochs = 8
learning_rate = 3e-3
dropout = 0.0
seed = 1
"""


WATCHED = 3.0
"""Seconds after which a service that looks once a second has loaded a tiny bundle, on a busy machine too."""


def shell(script: str, folder: Path, **more: str) -> str:
    """Run a script as a person would in that folder, up to the first command that fails. Returns what it printed."""
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BERTIE_")}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder, env=clean | {"PATH": paths, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more,
        text=True, capture_output=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def objects(text: str) -> list[Any]:
    """The JSON objects that curl printed one after another, behind other lines."""
    found, place = [], text.index("{")
    while place < len(text):
        value, place = json.JSONDecoder().raw_decode(text, place)
        found.append(value)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that serves, and the checkpoint of the next one."""
    from tests.training.samples import save_checkpoint  # torch is not loaded before it is needed

    folder = tmp_path_factory.mktemp("rollout")
    save_checkpoint(folder / "encoder")
    (folder / "sst2.tsv").write_text("sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in SENTENCES))
    (folder / "sentiment.toml").write_text(RECIPE)
    shell("python -m training finetune sentiment.toml", folder)
    shell("python -m training export runs/sentiment/final models/sentiment --max-length 24", folder)
    return folder


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Running]:
    """The service, started as the page says."""
    (line,) = [text for serve, text in BLOCKS if serve]
    *settings, python, flag, module = shlex.split(line)
    assert (python, flag, module) == ("python", "-m", "service")
    with running(folder / "models", **dict(setting.split("=", 1) for setting in settings)) as service:
        yield service


def test_every_command_of_the_page(folder: Path, service: Running) -> None:
    printed = []
    for serve, script in BLOCKS:
        if not serve:
            asked = script.replace("localhost:8000", service.url.removeprefix("http://"))
            printed.append(shell(re.sub(r"(?m)^curl", f"sleep {WATCHED}; curl", asked, count=1), folder))
    exported, added, shadowed, rule, canary, promoted, feedback, admin = printed
    assert "golden" in exported or "int8" in exported
    assert "golden rows agree" in added
    assert "stable" in added.splitlines()[-2]
    answer, comparison = objects(shadowed)
    assert answer["label"] in ("negative", "positive")
    assert (comparison["model"], comparison["shadow"]) == ("sentiment", "2")
    assert "2000" in rule
    assert objects(feedback)[1]["title"] == "Unknown request"  # there is neither canary nor shadow any more
    assert re.search(r"^x-model-version: 2\r?$", canary, re.M)
    assert "is stable" in promoted
    roles = [{each["version"]: each["roles"] for each in state["versions"]} for state in objects(admin)]
    assert "stable" in roles[1]["2"]
    assert "stable" not in roles[2]["2"]
