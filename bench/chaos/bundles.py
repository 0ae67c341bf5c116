"""Bundles that nobody should serve, and files that change while they are served. (10)"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import struct
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.chaos import raw
from bench.chaos.engine import GUILTY, Steer, faulty
from bench.chaos.result import Result
from bench.chaos.target import Service, start

NAME = "broken"
WEIGHTS = "weights.bin"
NEW_WORD = "zzchaos"
CANNOT_START = 3


# ---- what is broken, each in a copy of a good bundle ----------------------------------------------------------------


def _change(folder: Path, **values: Any) -> None:
    """Sets fields of the manifest."""
    file = folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def _rehash(folder: Path) -> None:
    """Gives the manifest the hashes of the files as they are."""
    files = json.loads((folder / "manifest.json").read_text())["files"]
    found = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files if (folder / name).exists()
    }
    _change(folder, files=found)


def _more_pieces(folder: Path) -> None:
    file = folder / "tokenizer.json"
    values = json.loads(file.read_text())
    vocabulary = values["model"]["vocab"]
    vocabulary[NEW_WORD] = max(vocabulary.values()) + 1
    file.write_text(json.dumps(values))
    _rehash(folder)


def _unlisted_data(folder: Path) -> None:
    """The graphs' tensors lie in a file of another name, which the manifest does not list."""
    other = "weightz.bin"
    (folder / WEIGHTS).rename(folder / other)
    for graph in folder.glob("*.onnx"):
        graph.write_bytes(graph.read_bytes().replace(WEIGHTS.encode(), other.encode()))
    _rehash(folder)


def _fifo(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)


def _three_labels(folder: Path) -> None:
    _change(folder, labels=["bad", "middling", "good"])


BROKEN: dict[str, tuple[str, Callable[[Path], object]]] = {
    "more pieces than rows": ("sentiment", _more_pieces),
    "external data unlisted": ("sentiment", _unlisted_data),
    "max_length 1e9": ("sentiment", lambda folder: _change(folder, max_length=1_000_000_000)),
    "max_length over the positions": ("sentiment", lambda folder: _change(folder, max_length=5000)),
    "max_length -1": ("sentiment", lambda folder: _change(folder, max_length=-1)),
    "three labels of two": ("sentiment", _three_labels),
    "the same label twice": ("sentiment", lambda folder: _change(folder, labels=["good", "good"])),
    "a FIFO among the files": ("sentiment", lambda folder: _fifo(folder, "README.md")),
    "the manifest is a FIFO": ("sentiment", lambda folder: _fifo(folder, "manifest.json")),
    "a newline in the name": ("sentiment", lambda folder: _change(folder, name="broken\nINFO all is well")),
    "a manifest nested 100,000 deep": (
        "sentiment",
        lambda folder: (folder / "manifest.json").write_text("[" * 100_000 + "]" * 100_000),
    ),
    "doc_stride over max_length": ("qa", lambda folder: _change(folder, doc_stride=100_000)),
}
"""By name: the bundle that is copied, and how the copy is broken."""


def refused(models: Path, *, only: tuple[str, ...] = (), most_seconds: float = 8.0) -> Result:
    """Each broken bundle: is it refused at start, in one line that names it?"""
    chosen = only or tuple(BROKEN)
    result = Result(
        10,
        "bundles that are broken: " + ", ".join(chosen),
        f"each refused: exit {CANNOT_START}, one line that names the bundle, no traceback, within {most_seconds:g} s",
    )
    good = []
    for case in chosen:
        of, spoil = BROKEN[case]
        with tempfile.TemporaryDirectory(prefix="chaos-") as name:
            folder = _copy(models / of, Path(name) / NAME)
            _change(folder, name=NAME)
            spoil(folder)
            status, lines, took = start(folder.parent, seconds=most_seconds, workers="1")
        good.append(
            status == CANNOT_START and len(lines) == 1 and NAME in lines[0] and "\n" not in lines[0]
            and "Traceback" not in lines[0]
        )  # fmt: skip
        result.put(case, _told(status, lines), f"({took:.1f} s)")
    result.put("refused rightly", f"{sum(good)} of {len(good)}")
    result.met = all(good)
    return result


def _told(status: int | None, lines: list[str]) -> str:
    if status is None:
        return "served" if "serving" in lines else "hung"
    return f"exit {status}, {len(lines)} line{'s' if len(lines) != 1 else ''}"


def _copy(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target)
    return target


# ---- what changes while it is served --------------------------------------------------------------------------------


def _truncate(file: Path) -> None:
    os.truncate(file, 4096)


def _overwrite(file: Path) -> None:
    """Writes noise over it, in place."""
    noise = random.Random(0).randbytes(1 << 20)
    size = file.stat().st_size
    with open(file, "r+b") as opened:
        while opened.tell() < size:
            opened.write(noise[: size - opened.tell()])


CHANGES = {"truncated": _truncate, "overwritten": _overwrite}
TEXTS = ("a gorgeous, witty film", "dull and far too long", "it was there", "i would not see that again", "what a joy")


def changed_while_served(models: Path, *, only: tuple[str, ...] = ()) -> Result:
    """`weights.bin` is truncated or overwritten while it is served."""
    chosen = only or tuple(CHANGES)
    result = Result(
        10,
        f"{WEIGHTS} is {' or '.join(chosen)} while it is served",
        "answers as before, or errors: no SIGBUS, no wrong answer",
    )
    good = []
    for change in chosen:
        with tempfile.TemporaryDirectory(prefix="chaos-") as name:
            folder = _copy(models / "sentiment", Path(name) / "sentiment")
            with Service(folder.parent, workers="1") as service:
                before = [_scores(service, text) for text in TEXTS]
                CHANGES[change](folder / WEIGHTS)
                after = [_scores(service, text) for text in TEXTS]
                time.sleep(0.2)
                after += [_scores(service, text) for text in TEXTS]
                status = service.exit_status(0.1)
            wrong = sum(found is not None and found != known for found, known in zip(after, before * 2, strict=True))
            answered = sum(found is not None for found in after)
            result.put(f"{change}: exit status", "none: it serves" if status is None else status)
            result.put(f"{change}: right answers", answered - wrong)
            result.put(f"{change}: wrong answers", wrong)
            good.append(status is None and not wrong)
    result.met = all(good)
    return result


def _scores(service: Service, text: str) -> Any:
    """The rounded scores of a text; None where it is answered with an error."""
    reply = raw.post(service.address, "/classify", {"text": text})
    scores = reply.json().get("scores") or {}
    return None if reply.status != 200 else {label: round(score or math.nan, 3) for label, score in scores.items()}


# ---- logits that are no numbers -------------------------------------------------------------------------------------


def nan_logits(models: Path, *, others: int = 7) -> Result:
    """Rows whose logits are no numbers, in a batch with others: from the engine, and from a real graph's weights."""
    result = Result(
        10, "logits that are no numbers", "500 for that request, 200 for its neighbours; never a null score"
    )
    bad, good = raw.dump({"text": f"a {GUILTY} film"}), raw.dump({"text": "a good film"})
    with (
        Steer("nan", seconds=0.3) as steer,
        faulty(models, steer) as service,
        ThreadPoolExecutor(others + 2) as pool,
    ):
        first = pool.submit(raw.post, service.address, "/classify", good)
        time.sleep(0.1)
        replies = list(pool.map(lambda body: raw.post(service.address, "/classify", body), [bad, *[good] * others]))
        first.result()
    result.put("engine's: status", replies[0].status)
    result.put("engine's: null scores", replies[0].text.count("null"))
    result.put("engine's: neighbours answered", sum(reply.status == 200 for reply in replies[1:]))
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = _copy(models / "sentiment", Path(name) / "sentiment")
        _poison(folder)
        with Service(folder.parent, wait=False, workers="1") as service:
            while service.alive and not service.serves:
                time.sleep(0.02)
            if service.serves:
                real = raw.post(service.address, "/classify", bad)
                result.put("graph's: status", real.status)
                result.put("graph's: others", raw.post(service.address, "/classify", good).status)
            else:  # who looks at the weights may refuse them
                result.put("graph's: status", f"refused at start, exit {service.exit_status(1)}")
                result.put("graph's: others", 200)
    result.met = (
        replies[0].status == 500
        and all(reply.status == 200 for reply in replies[1:])
        and result["graph's: status"] in (500, f"refused at start, exit {CANNOT_START}")
        and result["graph's: others"] == 200
    )
    return result


def _poison(folder: Path) -> None:
    """Makes the embedding of `GUILTY` no number, in the weights of each graph."""
    import onnx

    token = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"][GUILTY]
    for file in folder.glob("*.onnx"):
        for tensor in onnx.load(str(file), load_external_data=False).graph.initializer:
            place = {entry.key: entry.value for entry in tensor.external_data}
            if tensor.name == "bert.embeddings.word.scales" and tensor.data_type == onnx.TensorProto.FLOAT:
                with open(folder / place["location"], "r+b") as weights:
                    weights.seek(int(place.get("offset", 0)) + 4 * token)
                    weights.write(struct.pack("<f", math.nan))
    _rehash(folder)
