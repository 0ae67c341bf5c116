"""The best weights are kept, over an interruption too."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.samples import SENTENCES, recipe, write_sst2
from training.evaluate import runner as evaluate
from training.finetune import runner as finetune
from training.finetune.best import KeepBest


class Weights(torch.nn.Module):
    """A model of one number."""

    def __init__(self) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(1))


def train(
    output: Path, scores: Sequence[float], *, since: int = 0, to: int = 0, every: int = 2
) -> tuple[KeepBest, Any]:
    """Steps of a run, scored at every other; `scores` by step."""
    model: Any = Weights()
    keep = KeepBest(2, lambda trained: scores[int(trained.value)], output)
    state = SimpleNamespace(global_step=since)
    keep.on_train_begin(None, state, None)
    for step in range(since + 1, (to or len(scores) - 1) + 1):
        state.global_step = step
        model.value.data.fill_(step)
        keep.on_step_end(None, state, None, model=model)
    if not to:
        keep.on_train_end(None, state, None, model=model)
    return keep, model


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0, 9, 5, 9, 7, 9, 6], 4),  # what is not looked at (odd steps) does not count
        ([0, 9, 5, 9, 5, 9, 5], 2),  # of equals, the earliest
        ([0, 9, 5, 9, 6, 8], 5),  # the last is always looked at
        ([0, 1], 1),
    ],
)
def test_the_best_scored_weights_are_the_last(tmp_path: Path, scores: list[float], best: int) -> None:
    keep, model = train(tmp_path, scores)
    assert model.value.item() == best
    assert keep.scores[-1] == (len(scores) - 1, scores[-1])
    assert model.training


@pytest.mark.parametrize("cut", [3, 4, 5])
def test_an_interruption_forgets_nothing(tmp_path: Path, cut: int) -> None:
    scores = [0, 0, 5, 0, 9, 0, 6, 0, 7]
    train(tmp_path, scores, to=5)
    keep, model = train(tmp_path, scores, since=cut)
    assert model.value.item() == 4
    assert keep.scores == [(step, scores[step]) for step in (2, 4, 6, 8)]
    kept = json.loads((tmp_path / "best" / "score.json").read_text())
    assert kept == {"step": 4, "score": 9, "scores": [list(each) for each in keep.scores]}


def test_what_comes_after_the_checkpoint_is_found_anew(tmp_path: Path) -> None:
    """Resumed from before the best step, with another seed's luck: the old best is of a future that did not happen."""
    train(tmp_path, [0, 0, 5, 0, 9], to=4)
    keep, model = train(tmp_path, [0, 0, 5, 0, 4, 0, 3], since=2)
    assert model.value.item() == 4
    assert keep.scores == [(2, 5), (4, 4), (6, 3)]


def test_resumed_at_its_end_before_the_best(tmp_path: Path) -> None:
    """The weights of a step after it are not taken, though its own score is known."""
    train(tmp_path, [0, 0, 5, 0, 9], to=4)
    keep, model = train(tmp_path, [0, 0, 5], since=2)
    assert model.value.item() == 0  # as the checkpoint had it: this model was not trained to its step
    assert keep.scores == [(2, 0)]


def test_scores_of_an_earlier_version(tmp_path: Path) -> None:
    """It kept none but the best one."""
    train(tmp_path, [0, 0, 5, 0, 9], to=4)
    (tmp_path / "best" / "score.json").write_text('{"step": 4, "score": 9}')
    keep, model = train(tmp_path, [0, 0, 5, 0, 9, 0, 6], since=4)
    assert model.value.item() == 4
    assert keep.scores == [(6, 6)]


def test_a_run_ends_with_its_best_weights(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_sst2(tmp_path / "train.tsv", SENTENCES)
    base = recipe(encoder, tmp_path, data, epochs=4.0, save_steps=2, dev_steps=2)
    real, given = evaluate.scores, iter([50.0, 80.0, 60.0, 70.0, *[10.0] * 20])
    monkeypatch.setattr(evaluate, "scores", lambda *arguments: {**real(*arguments), "accuracy": next(given)})
    metrics = finetune.run(dataclasses.replace(base, output=str(tmp_path / "run")))
    assert metrics["dev_by_step"][:3] == [(2, 50.0), (4, 80.0), (6, 60.0)]
    final = load_file(tmp_path / "run" / "final" / "model.safetensors")
    kept = load_file(tmp_path / "run" / "best" / "model.safetensors")
    found = json.loads((tmp_path / "run" / "best" / "score.json").read_text())
    assert (found["step"], found["score"], len(found["scores"])) == (4, 80.0, len(metrics["dev_by_step"]))
    assert all(torch.equal(final[name], kept[name]) for name in final)


def test_scoring_changes_nothing(encoder: Path, tmp_path: Path) -> None:
    """The weights at a step are those of a run that is not scored: no draw is made, no dropout left off."""
    data = write_sst2(tmp_path / "train.tsv", SENTENCES)
    base = recipe(encoder, tmp_path, data, epochs=4.0, dropout=0.3, save_steps=4)
    finetune.run(dataclasses.replace(base, output=str(tmp_path / "plain")))
    finetune.run(dataclasses.replace(base, output=str(tmp_path / "scored"), dev_steps=1))
    plain, scored = (load_file(tmp_path / n / "checkpoint-4" / "model.safetensors") for n in ("plain", "scored"))
    assert all(torch.equal(plain[name], scored[name]) for name in plain)
