"""Runs: they learn, continue exactly, are the same on two processes, and end in what fine-tuning starts from."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.training.pretrain.materials import FAMILIES, recipe, write_teacher
from tests.training.samples import recipe as finetune_recipe
from tests.training.samples import write_text
from training.__main__ import main
from training.checkpoints import sealed
from training.errors import CheckpointError, RecipeError, TrainingError
from training.export import runner as export
from training.finetune import runner as finetune
from training.pretrain import checkpoints, processes, throughput, trainer
from training.pretrain.processes import Processes
from training.pretrain.recipe import PretrainRecipe
from training.tokenizers import pieces

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _quick_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "MEASURE_SECONDS", 0.01)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def base(corpus_file: str, wordpiece: Path, cache: str, tmp_path: Path) -> PretrainRecipe:
    """ALBERT, six steps of LAMB on two micro-batches each, with dropout."""
    return recipe(
        corpus=(corpus_file,), tokenizer=str(wordpiece), cache=cache, output=str(tmp_path / "run"), optimizer="lamb"
    )


def losses(output: str | Path) -> list[dict[str, float]]:
    """What was logged, but for the speed."""
    history = json.loads((Path(output) / "metrics.json").read_text())["train"]
    return [{k: v for k, v in entry.items() if k not in ("tokens_per_second", "peak_share")} for entry in history]


def scores(output: str | Path) -> list[dict[str, float]]:
    found: list[dict[str, float]] = json.loads((Path(output) / "metrics.json").read_text())["dev"]
    return found


def at(base: PretrainRecipe, name: str, **changes: Any) -> PretrainRecipe:
    return dataclasses.replace(base, output=str(Path(base.output).parent / name), **changes)


def same_weights(one: str, other: str, name: str = "weights.safetensors") -> bool:
    left, right = (load_file(Path(output) / "checkpoint-6" / name) for output in (one, other))
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


# ---- what a run gives -----------------------------------------------------------------------------------------------


def test_a_run_and_its_metrics(base: PretrainRecipe, corpus_file: str) -> None:
    metrics = trainer.run(base)
    output = Path(base.output)
    assert json.loads((output / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert [entry["step"] for entry in losses(output)] == [1, 2, 3, 4, 5, 6]
    assert [entry["step"] for entry in scores(output)] == [3, 6]
    assert {"mlm_loss", "mlm_accuracy", "sop_loss", "sop_accuracy", "loss", "tokens"} < scores(output)[0].keys()
    entry = metrics["train"][0]
    assert entry["loss"] == pytest.approx(entry["mlm_loss"] + entry["sop_loss"])
    assert entry["tokens_per_second"] > 0
    assert entry["peak_share"] > 0
    assert (metrics["step"], metrics["finished"], metrics["processes"]) == (6, True, 1)
    assert list(metrics["corpus"]) == [corpus_file]
    assert len(metrics["corpus"][corpus_file]) == 64
    assert metrics["recipe"]["seed"] == 1
    assert metrics["epochs"] == pytest.approx(48 / metrics["rows"])
    assert "torch" in metrics["versions"]
    assert [path.name for path in sealed.found(output)] == ["checkpoint-6", "checkpoint-3"]
    assert not [path for path in output.iterdir() if path.name.startswith(".")]


def test_it_learns_more_than_how_frequent_words_are(base: PretrainRecipe, tmp_path: Path) -> None:
    """Four sentences without a word in common: what is left of one tells what is masked."""
    said = (
        "The red fox jumped over a lazy cat.", "Her brother never saw his white castle.",
        "An old king wrote about some empty road.", "Tall women looked at this wooden bridge.",
    )  # fmt: skip
    generator = np.random.default_rng(0)
    text = "".join(" ".join(generator.choice(said, 12)) + "\n\n" for _ in range(30))
    pieces.learn(tmp_path / "tokenizer", [write_text(tmp_path / "c.txt", text)], kind="wordpiece", size=150)
    made = at(
        base, "learned", corpus=(str(tmp_path / "c.txt"),), tokenizer=str(tmp_path / "tokenizer"), optimizer="adamw",
        embedding_size=32, steps=60, warmup_steps=8, dropout=0.0, batch_size=16, micro_batch_size=16, logging_steps=30,
        eval_steps=60, save_steps=60, eval_rows=64,
    )  # fmt: skip
    counts = np.array(list(Counter(text.replace(".", " .").split()).values()))
    frequencies = counts / counts.sum()
    entropy = float(-(frequencies * np.log(frequencies)).sum())  # what the best guess without context costs
    assert entropy > 3.2
    assert trainer.run(made)["dev"][-1]["mlm_loss"] < entropy - 0.4


@pytest.mark.parametrize("family", FAMILIES)
def test_final_is_what_fine_tuning_starts_from(
    base: PretrainRecipe, family: str, request: pytest.FixtureRequest
) -> None:
    folder = {"albert": "sentencepiece", "roberta": "bytebpe"}.get(family, "wordpiece")
    made = at(base, family, **FAMILIES[family], tokenizer=str(request.getfixturevalue(folder)), steps=2)
    trainer.run(made)
    final = Path(made.output) / "final"
    model, loading = AutoModelForSequenceClassification.from_pretrained(final, output_loading_info=True)
    unused = ("classifier", "pooler") if family in ("roberta", "electra", "spanbert") else ("classifier",)
    assert all(any(part in key for part in unused) for key in loading["missing_keys"])
    trained = load_file(Path(made.output) / "checkpoint-2" / "weights.safetensors")
    for name, tensor in model.base_model.named_parameters():
        if "pooler" not in name or "pooler" not in unused:
            assert torch.equal(tensor, trained[f"model.{model.base_model_prefix}.{name}"]), name
    assert AutoTokenizer.from_pretrained(final)("The red fox.").input_ids == (
        AutoTokenizer.from_pretrained(made.tokenizer)("The red fox.").input_ids
    )
    assert (final / "spiece.model").exists() is (family == "albert")


def test_from_text_to_a_bundle(base: PretrainRecipe, sentencepiece: Path, data_dir: Path, tmp_path: Path) -> None:
    trainer.run(at(base, "albert", tokenizer=str(sentencepiece), steps=2))
    data = str(data_dir / "sst2.tsv")
    finetune.run(finetune_recipe(tmp_path / "albert" / "final", tmp_path / "tuned", data, epochs=1.0))
    manifest = export.run(export.Request(tmp_path / "tuned" / "final", tmp_path / "models" / "tiny", ("fp32",)))
    assert (manifest.architecture, manifest.labels) == ("albert", ("negative", "positive"))


# ---- resume ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adamw", "precision": "bf16", "attention": "bf16_eager", "warmup_steps": 2},
        FAMILIES["electra"] | {"optimizer": "adamw", "decay": "polynomial", "decay_power": 2.0},
        FAMILIES["spanbert"] | {"micro_batch_size": 8, "logging_steps": 4},
    ],
    ids=["albert", "bf16", "electra", "spanbert"],
)
def test_resume_continues_exactly(base: PretrainRecipe, changes: dict[str, Any]) -> None:
    whole, cut = at(base, "whole", **changes), at(base, "cut", **changes)
    trainer.run(whole)
    shutil.copytree(Path(whole.output) / "checkpoint-3", Path(cut.output) / "checkpoint-3")
    torch.manual_seed(999)  # what the process did before must not matter
    trainer.run(cut, resume=True)
    assert losses(cut.output) == losses(whole.output)
    assert len({entry["loss"] for entry in losses(whole.output)}) == len(losses(whole.output))
    assert scores(cut.output) == scores(whole.output)
    assert same_weights(cut.output, whole.output)
    assert same_weights(cut.output, whole.output, "moments.safetensors")
    assert not torch.equal(*_any_weights(whole.output))


def _any_weights(output: str) -> list[torch.Tensor]:
    """A matrix at the two checkpoints."""
    found = [load_file(Path(output) / f"checkpoint-{step}" / "weights.safetensors") for step in (3, 6)]
    name = next(name for name, tensor in found[0].items() if tensor.ndim == 2 and "query" in name)
    return [weights[name] for weights in found]


def test_a_torn_checkpoint_costs_its_steps_alone(base: PretrainRecipe, caplog: pytest.LogCaptureFixture) -> None:
    whole, torn = at(base, "whole"), at(base, "torn")
    trainer.run(whole)
    shutil.copytree(whole.output, torn.output)
    newest = Path(torn.output) / "checkpoint-6" / "weights.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    trainer.run(torn, resume=True)
    assert "checkpoint-6 is torn and is skipped" in caplog.text
    assert losses(torn.output) == losses(whole.output)
    assert same_weights(torn.output, whole.output)


def test_a_full_disk_is_said_and_the_run_goes_on_later(base: PretrainRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, full = at(base, "whole"), at(base, "full")
    trainer.run(whole)
    save_file, calls = checkpoints.save_file, []

    def fill(tensors: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) > 2:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path)

    monkeypatch.setattr(checkpoints, "save_file", fill)
    with pytest.raises(CheckpointError, match=r"No space left on device.*the last good one is .*checkpoint-3"):
        trainer.run(full)
    monkeypatch.setattr(checkpoints, "save_file", save_file)
    trainer.run(full, resume=True)
    assert losses(full.output) == losses(whole.output)


def test_a_run_in_parts_is_the_run_in_one(base: PretrainRecipe, caplog: pytest.LogCaptureFixture) -> None:
    whole, parts = at(base, "whole"), at(base, "parts")
    trainer.run(whole)
    metrics = trainer.run(parts, minutes=1e-9)
    assert (metrics["step"], metrics["finished"]) == (1, False)
    assert "stopped at step 1 of 6: --resume continues" in caplog.text
    assert (Path(parts.output) / "final" / "model.safetensors").is_file()
    assert trainer.run(parts, resume=True, minutes=1e-9)["step"] == 2
    assert trainer.run(parts, resume=True)["finished"] is True
    assert losses(parts.output) == losses(whole.output)
    assert same_weights(parts.output, whole.output)


def test_sigterm_stops_where_the_run_is_whole(base: PretrainRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    moved, calls = trainer._moved, []

    def told(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return moved(*arguments)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(trainer, "_moved", told)
    assert trainer.run(base)["step"] == 2  # the step under way, and the one that knew of it
    assert checkpoints.newest(Path(base.output)).state["step"] == 2
    assert signal.getsignal(signal.SIGTERM) is before


def test_without_moments_the_rate_climbs_again(base: PretrainRecipe, caplog: pytest.LogCaptureFixture) -> None:
    trainer.run(base)
    shutil.rmtree(Path(base.output) / "checkpoint-6")
    (Path(base.output) / "checkpoint-3" / "moments.safetensors").unlink()
    plain = [entry["learning_rate"] for entry in losses(base.output)]
    trainer.run(base, resume=True)
    assert "the optimizer starts anew" in caplog.text
    again = [entry["learning_rate"] for entry in losses(base.output)]
    assert again == pytest.approx([*plain[:3], plain[3] / 100, plain[4] * 2 / 100, plain[5] * 3 / 100])


def test_what_cannot_be_resumed(base: PretrainRecipe, sentencepiece: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(CheckpointError, match="nothing to resume from"):
        trainer.run(base, resume=True)
    short = dataclasses.replace(base, steps=3)
    trainer.run(short)
    with pytest.raises(CheckpointError, match="checkpoint-3 exists: continue with --resume"):
        trainer.run(base)
    with pytest.raises(CheckpointError, match="layers was 2 and is 3"):
        trainer.run(dataclasses.replace(base, layers=3), resume=True)
    with pytest.raises(CheckpointError, match="another tokenizer"):
        trainer.run(dataclasses.replace(base, tokenizer=str(sentencepiece)), resume=True)
    with pytest.raises(CheckpointError, match="of another model: it differs in model"):
        trainer.run(dataclasses.replace(base, pairs="none"), resume=True)
    caplog.clear()
    trainer.run(dataclasses.replace(base, learning_rate=1e-3), resume=True)
    assert "continues, and not as it would have: steps, learning_rate changed" in caplog.text
    assert losses(base.output)[3]["learning_rate"] == pytest.approx(1e-3 * 3 / 6)


# ---- processes ------------------------------------------------------------------------------------------------------


def test_two_processes_are_as_one(base: PretrainRecipe, wordpiece: Path, tmp_path: Path) -> None:
    """torchrun with gloo: the same losses as one process with the same batch, and the same weights in the end."""
    teacher = write_teacher(tmp_path / "teacher", wordpiece)
    alone = at(base, "alone", dropout=0.0, micro_batch_size=2, teacher=teacher)
    trainer.run(alone)
    folder = Path(base.output).parent
    (folder / "r.toml").write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in dataclasses.asdict(alone).items()))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m",
         "training", "pretrain", str(folder / "r.toml"), "--set", f"output={folder / 'two'}"],
        cwd=ROOT, capture_output=True, text=True, timeout=900, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "two" / "metrics.json").read_text())["processes"] == 2
    for one, two in zip(losses(alone.output), losses(folder / "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-4)
    for one, two in zip(scores(alone.output), scores(folder / "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-4)
    assert len(done.stdout.splitlines()[-1]) > 50
    assert done.stdout.count("held-out\n") == 1  # one process talks


def test_the_loss_does_not_hang_on_the_micro_batch(base: PretrainRecipe) -> None:
    whole = at(base, "whole", dropout=0.0, micro_batch_size=8)
    small = at(base, "small", dropout=0.0, micro_batch_size=1, workers=2)
    for made in (whole, small):
        trainer.run(made)
    for one, two in zip(losses(whole.output), losses(small.output), strict=True):
        assert two == pytest.approx(one, rel=1e-4)


def test_processes_that_do_not_share_evenly(base: PretrainRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "start", lambda: Processes(0, 3, 0, torch.device("cpu")))
    with pytest.raises(RecipeError, match="batch_size 8 is no multiple of micro_batch_size 4 times 3 processes"):
        trainer.run(base)


# ---- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number(base: PretrainRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    made = at(base, "nan", learning_rate=1e30, optimizer="adamw", save_steps=1, max_grad_norm=0.0)
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step \d: .*lower learning_rate"):
        trainer.run(made)


def test_a_gradient_that_is_no_number_is_not_saved(base: PretrainRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made on the step before a save, it shows in no loss."""
    clip = torch.nn.utils.clip_grad_norm_
    steps = []

    def spoilt(parameters: Any, norm: float) -> torch.Tensor:
        given = list(parameters)
        steps.append(1)
        if len(steps) == 6:
            next(p for p in given if p.grad is not None).grad[0] = float("inf")
        return clip(given, norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spoilt)
    with pytest.raises(
        TrainingError, match=r"is no finite number any more at step 6: .*last good checkpoint is .*checkpoint-3"
    ):
        trainer.run(base)
    assert [path.name for path in sealed.found(Path(base.output))] == ["checkpoint-3"]
    assert [entry["step"] for entry in scores(base.output)] == [3]


def test_a_final_that_cannot_be_written_leaves_nothing(base: PretrainRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tokenizer: object, folder: Path) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(trainer, "save_tokenizer", full)
    with pytest.raises(CheckpointError, match=r"final cannot be written .*--resume tries again"):
        trainer.run(dataclasses.replace(base, steps=1))
    assert not list(Path(base.output).glob(".partial-*"))
    assert not (Path(base.output) / "final").exists()


def test_the_command_line(
    base: PretrainRecipe, corpus_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = tmp_path / "tokenizer"
    assert main(["vocabulary", str(tokenizer), corpus_file, "--kind", "wordpiece", "--size", "110"]) == 0
    assert capsys.readouterr().out == f"{tokenizer}: 110 pieces\n"
    values = dataclasses.asdict(dataclasses.replace(base, tokenizer=str(tokenizer)))
    path = tmp_path / "r.toml"
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
    assert main(["pretrain", str(path), "--set", "steps=2"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["step"] == 2
    assert main(["pretrain", str(path), "--set", "stepz=2"]) == 1
    assert "did you mean 'steps'?" in capsys.readouterr().err
    assert main(["pretrain", str(path)]) == 1
    assert "error: " in capsys.readouterr().err
    assert main(["vocabulary", str(tokenizer), corpus_file]) == 1
    assert "will not be replaced" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["vocabulary", str(tokenizer)])
