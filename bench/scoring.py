"""`python -m bench.scoring`: rows of a file through `python -m service score`, against what a script would do.

In one process and in alternation, so that a slow minute touches all: a loop that asks the model row by row, one call of
a list of all rows, and a file scored into a file. Prints rows a second and CPU ms a row of each, and the ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import rows as texts
from bench.serving import ROOT
from service.inprocess import Pipeline, load
from service.scoring.part import Scorer
from service.scoring.plan import Settings, make
from service.scoring.storage import Folder, find

ALONE = 8
"""The loop gets one row of so many: it takes that much longer."""


def measure(pipeline: Pipeline, sentences: Sequence[str], rounds: int) -> dict[str, tuple[float, float]]:
    """Measure each way. Returns its medians: rows a second, CPU ms a row."""
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-scoring-") as folder:
        source = Path(folder) / "rows.jsonl"
        source.write_text("".join(json.dumps({"text": each}) + "\n" for each in sentences), encoding="utf-8")
        settings = Settings(input="", model="", model_digest="", columns={}, options={})
        plan = make(settings, find(str(source)), pipeline.model)
        for number in range(rounds):
            scorer = Scorer(plan, pipeline.model, Folder(f"{folder}/out{number}"))
            some = sentences[::ALONE]
            ways: dict[str, tuple[int, Callable[[], object]]] = {
                "row by row": (len(some), lambda some=some: [pipeline(each, truncation=True) for each in some]),  # type: ignore[misc]
                "one list": (len(sentences), lambda: pipeline(list(sentences), truncation=True)),
                "score": (len(sentences), lambda scorer=scorer: list(scorer.score(plan.parts))),  # type: ignore[misc]
            }
            for name, (count, run) in ways.items():
                began, cpu = time.perf_counter(), time.process_time()
                run()
                seconds, used = time.perf_counter() - began, time.process_time() - cpu
                found.setdefault(name, []).append((count / seconds, 1000 * used / count))
    return {
        name: (statistics.median(r for r, _ in all_), statistics.median(c for _, c in all_))
        for name, all_ in found.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.scoring", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=ROOT / "models/sentiment", help="a bundle of texts [%(default)s]")
    parser.add_argument("--rows", type=int, default=4096, help="[%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="[%(default)s]")
    options = parser.parse_args(arguments)
    some = texts.sentences()
    sentences = [some[i % len(some)] for i in range(options.rows)]
    measured = measure(load(options.model), sentences, options.rounds)
    most = measured["score"][0]
    for name, (rate, cpu) in measured.items():
        print(f"{name:12} {rate:8.0f} rows/s  {cpu:6.2f} CPU ms a row  score is {most / rate:.2f} x")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
