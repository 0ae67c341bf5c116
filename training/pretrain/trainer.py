"""The run of a recipe: steps, scores, checkpoints, and the folder that `finetune` starts from.

The loop is our own, where fine-tuning's is transformers' Trainer, for three things are asked that the Trainer does not
give: a loss of several parts, each divided by its own count over all rows of a step, so that it is the same on one
process or many; a resume that is exact, since rows, masks and dropout hang on seed and step and not on a saved random
state; and checkpoints that are hashed, renamed into place and never unpickled. What remains is short.

Equal to the bit on a CPU with the same number of processes and threads; elsewhere to the order of the sums.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import time
from collections.abc import Generator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training import files
from training.checkpoints import precision, sealed
from training.errors import CheckpointError, RecipeError, TrainingError
from training.pretrain import checkpoints, corpus, models, optimizers, processes, throughput
from training.pretrain.batches import Batch, Batches, dev_batches, real_tokens
from training.pretrain.objectives import SCORES, Objective
from training.pretrain.processes import Processes
from training.pretrain.recipe import PretrainRecipe
from training.pretrain.rows import Rows, held_out
from training.tokenizers import vocabulary
from training.tokenizers.loading import save_tokenizer

logger = logging.getLogger(__name__)

RAMP = 100
"""Steps in which the learning rate climbs again after a checkpoint without moments."""
SHAPE = (
    "family", "hidden_size", "layers", "heads", "intermediate_size", "embedding_size", "max_positions", "vocab_size",
    "generator_share",
)  # fmt: skip
"""Keys that a resumed run cannot change: they make another model."""
RUNTIME = ("output", "cache", "corpus", "tokenizer", "micro_batch_size", "workers", "keep_checkpoints", "compile")
"""Keys that change nothing of what is computed, or whose files are compared by their hashes."""

PROGRESS = {name: name for name in ("restarted", "tokens", "seconds", "history", "scores")} | {"rows": "seen"}
"""What a checkpoint has of a run's attributes, by its names for them."""
VERSIONS = ("torch", "transformers", "tokenizers", "numpy", "safetensors")

Sums = dict[str, torch.Tensor]


def run(recipe: PretrainRecipe, *, resume: bool = False, minutes: float = 0.0) -> dict[str, Any]:
    """Trains, writes `output/final` (a Hugging Face folder) and `output/metrics.json`, and returns the metrics.

    Args:
        recipe: what to train.
        resume: continue from the newest whole checkpoint in the output.
        minutes: stop so long after the start, when the step under way is made, with a checkpoint; 0 runs to the
            recipe's `steps`. SIGTERM stops in the same way. `final` is then what was reached.

    Raises:
        DataError: the corpus cannot be read.
        CheckpointError: nothing to resume from, or something that is not to be overwritten; or the disk is full.
        RecipeError: the recipe does not fit its tokenizer, its checkpoint or its processes.
        TrainingError: the loss, or a weight that would be saved, is no number any more.
    """
    group = processes.start()
    try:
        if not group.main:
            logging.getLogger("training").setLevel(logging.WARNING)
        return _Run(precision.possible(recipe), group, resume=resume).train(minutes)
    finally:
        group.stop()


class _Run:
    """All that a run holds."""

    def __init__(self, recipe: PretrainRecipe, group: Processes, *, resume: bool) -> None:
        self.began = time.monotonic()
        self.recipe = recipe
        self.group = group
        self.output = Path(recipe.output)
        if recipe.batch_size % (recipe.micro_batch_size * group.count):
            raise RecipeError(
                f"batch_size {recipe.batch_size} is no multiple of micro_batch_size {recipe.micro_batch_size} times "
                f"{group.count} processes"
            )
        existing = sealed.found(self.output)
        if existing and not resume:
            raise CheckpointError(f"{existing[0]} exists: continue with --resume, or name another output")
        saved = checkpoints.newest(self.output) if resume else None  # said before the corpus is read

        self.vocabulary = vocabulary.load(recipe.tokenizer)
        self.corpus = self._load_corpus()
        train, dev = held_out(self.corpus, recipe.heldout)
        self.rows = Rows(recipe, self.corpus, train, self.vocabulary)
        pad = self.vocabulary.pad
        self.dev = dev_batches(
            Rows(recipe, self.corpus, dev, self.vocabulary), pad, recipe.eval_rows, recipe.micro_batch_size, group.rank,
            group.count,
        )  # fmt: skip

        torch.manual_seed(recipe.seed)
        self.objective: Objective = models.make(recipe, self.vocabulary).to(group.device)
        self.optimizer = optimizers.make(recipe, self.objective)
        self.step = self.seen = 0  # steps made, rows seen
        self.restarted = -RAMP
        self.tokens = self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        self.scores: list[dict[str, float]] = []
        if saved:
            self._continue(saved)
        self.model = group.share(self.objective)
        generator = getattr(self.objective, "generator", None)
        if recipe.compile:
            for encoder in filter(None, (self.objective.model, generator)):
                encoder.base_model.compile()
        self.flops = throughput.flops_per_token(
            recipe, self.objective.model.config,
            generator=generator.config if generator else None,
            teacher=self.objective.teacher.config if self.objective.teacher else None,
        )  # fmt: skip
        self.peak = throughput.matrix_peak(group.device, recipe.precision) * group.count
        logger.info(
            "%s: %.2f M parameters, %.1f MFLOP a token; %d rows of %d documents, %.1f M tokens; peak %.2f TFLOP/s",
            recipe.family, self._parameters() / 1e6, self.flops / 1e6, len(self.rows), len(train),
            self.corpus.tokens / 1e6, self.peak / 1e12,
        )  # fmt: skip

    def train(self, minutes: float) -> dict[str, Any]:
        """Run to the end, or to the stop that was asked for."""
        recipe = self.recipe
        meter = throughput.Meter(self.flops, self.peak)
        sums, counts = self._zeros(), dict.fromkeys((*self.objective.weights, "tokens"), 0.0)
        stopping = False
        with processes.told_to_end() as told, contextlib.closing(self._micro_batches()) as micros:
            while self.step < recipe.steps and not stopping:
                due = bool(told) or (minutes > 0 and time.monotonic() - self.began >= minutes * 60)
                stopping = self._step([next(micros) for _ in range(self._per_step)], sums, counts, stop=due)
                last = stopping or self.step == recipe.steps
                scoring, saving = (last or self.step % steps == 0 for steps in (recipe.eval_steps, recipe.save_steps))
                if not (scoring or saving or self.step % recipe.logging_steps == 0):
                    continue
                self._log(sums, counts, meter)
                if scoring or saving:
                    self._check_finite()
                sums, counts = self._zeros(), dict.fromkeys(counts, 0.0)
                if scoring:
                    self._score()
                if saving:
                    self._save()
                meter.restart()
        return self._finish()

    # ---- a step ------------------------------------------------------------------------------------------------------

    @property
    def _per_step(self) -> int:
        return self.recipe.batch_size // (self.recipe.micro_batch_size * self.group.count)

    def _micro_batches(self) -> Generator[Batch, None, None]:
        recipe, group = self.recipe, self.group
        batches = Batches(
            self.rows, self.vocabulary.pad, first=self.seen, batch_size=recipe.batch_size,
            micro_batch_size=recipe.micro_batch_size, rank=group.rank, processes=group.count,
        )  # fmt: skip
        loader = torch.utils.data.DataLoader(
            batches, batch_size=None, sampler=range((recipe.steps - self.step) * self._per_step),
            num_workers=recipe.workers, pin_memory=group.device.type == "cuda", worker_init_fn=processes.end_when_told,
            prefetch_factor=4 if recipe.workers else None,
        )  # fmt: skip
        yield from loader

    def _step(self, micros: list[Batch], sums: Sums, counts: dict[str, float], *, stop: bool) -> bool:
        """One optimizer step; adds to the window's sums and counts. Returns whether any process wants to stop."""
        parts = tuple(self.objective.weights)
        mine = [sum(self.objective.counts(micro)[part] for micro in micros) for part in parts]
        mine += [sum(map(real_tokens, micros)), int(stop)]
        asked = self.group.add_up(torch.tensor(mine, dtype=torch.float64)).tolist()
        divisors = {part: max(count, 1.0) for part, count in zip(parts, asked, strict=False)}
        torch.manual_seed(_seed(self.recipe.seed, self.step, self.group.rank))  # dropout's
        for number, micro in enumerate(micros, start=1):
            later = number < len(micros) and self.group.count > 1
            with self.model.no_sync() if later else contextlib.nullcontext():
                found = self.model(_moved(micro, self.group.device))
                # Gradients are means over the processes, and the loss a sum.
                loss = sum(self.objective.weights[part] * found[part][0] / divisors[part] for part in parts)
                (loss * self.group.count).backward()
            for part in parts:
                sums[part] += found[part].detach().double()
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        if self.recipe.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self.recipe.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.seen += self.recipe.batch_size
        for name, count in zip((*parts, "tokens"), asked, strict=False):
            counts[name] += count
        return bool(asked[-1])

    def _rate(self) -> float:
        ramp = min(1.0, (self.step - self.restarted + 1) / RAMP)
        return optimizers.rate(self.recipe, self.step) * ramp

    def _zeros(self) -> Sums:
        return {part: torch.zeros(2, dtype=torch.float64, device=self.group.device) for part in self.objective.weights}

    def _means(self, sums: Sums, counts: Mapping[str, float]) -> dict[str, float]:
        """Loss and score of each part, and the weighted loss, over all processes."""
        values = self.group.add_up(torch.stack([sums[part] for part in self.objective.weights])).tolist()
        found: dict[str, float] = {"loss": 0.0}
        for (part, weight), (loss, score) in zip(self.objective.weights.items(), values, strict=True):
            count = max(counts[part], 1.0)
            found["loss"] += weight * loss / count
            found |= {f"{part}_loss": loss / count, _score_name(part): score / count}
        return found

    # ---- between steps -----------------------------------------------------------------------------------------------

    def _log(self, sums: Sums, counts: Mapping[str, float], meter: throughput.Meter) -> None:
        means = self._means(sums, counts)
        if not math.isfinite(means["loss"]):
            raise self._lost(f"the loss is {means['loss']}")
        speed, share = meter.read(counts["tokens"])
        self.tokens += counts["tokens"]
        self.seconds += counts["tokens"] / speed
        rate = self.optimizer.param_groups[0]["lr"]
        self.history.append(
            {"step": self.step, **means, "learning_rate": rate, "tokens_per_second": speed, "peak_share": share}
        )
        left = (self.recipe.steps - self.step) * self.seconds / max(self.step, 1)
        logger.info(
            "step %d/%d loss %.4f %s rate %.2e | %.0f tokens/s, %.1f %% of peak | %.0f min left",
            self.step, self.recipe.steps, means["loss"], _scores_text(means), rate, speed, 100 * share, left / 60,
        )  # fmt: skip

    def _check_finite(self) -> None:
        """The last step's gradient shows in no loss yet. Raises `TrainingError` where it made of a weight no number."""
        for name, parameter in self.objective.named_parameters():
            if not parameter.isfinite().all():
                raise self._lost(f"{name} is no finite number any more")

    def _lost(self, what: str) -> TrainingError:
        last = sealed.found(self.output)
        kept = f"the last good checkpoint is {last[0]}" if last else "there is no checkpoint before it"
        return TrainingError(f"{what} at step {self.step}: try a lower learning_rate or a longer warm-up; {kept}")

    def _score(self) -> None:
        """Score the held-out rows."""
        sums, counts = self._zeros(), dict.fromkeys(self.objective.weights, 0)
        self.objective.eval()
        with torch.no_grad():
            for batch in self.dev:
                found = self.objective(_moved(batch, self.group.device))
                for part, count in self.objective.counts(batch).items():
                    sums[part] += found[part].double()
                    counts[part] += count
        self.objective.train()
        asked = self.group.add_up(torch.tensor(list(counts.values()), dtype=torch.float64)).tolist()
        means = self._means(sums, dict(zip(counts, asked, strict=True)))
        self.scores.append({"step": self.step, "tokens": self.tokens, **means})
        logger.info("step %d held-out loss %.4f %s", self.step, means["loss"], _scores_text(means))
        self._write_metrics()

    def _save(self) -> None:
        if self.group.main:
            state = {name: getattr(self, attribute) for name, attribute in PROGRESS.items()} | {
                "recipe": dataclasses.asdict(self.recipe),
                "vocabulary": self.vocabulary.fingerprint,
                "corpus": self._corpus_hashes(),
            }
            weights = dict(self.objective.named_parameters())
            moments = optimizers.moments(self.optimizer, self.objective)
            keep = self.recipe.keep_checkpoints
            logger.info("%s", checkpoints.save(self.output, self.step, weights, moments, state, keep))
        self.group.wait()

    def _continue(self, saved: checkpoints.Checkpoint) -> None:
        """Put back what `_save` wrote. Raises `CheckpointError` where the recipe makes another model of it."""
        state = saved.state
        then, now = state["recipe"], json.loads(json.dumps(dataclasses.asdict(self.recipe)))
        another = [f"{key} was {then.get(key)!r} and is {now[key]!r}" for key in SHAPE if then.get(key) != now[key]]
        if another:
            raise CheckpointError(f"{saved.folder} is of another model: {'; '.join(another)}")
        if state["vocabulary"] != self.vocabulary.fingerprint:
            raise CheckpointError(f"{saved.folder} was trained with another tokenizer than {self.recipe.tokenizer}")
        changed = [key for key in now if key not in RUNTIME and then.get(key) != now[key]]
        if state["corpus"] != self._corpus_hashes():
            changed.append("corpus")
        if changed:
            logger.warning("continues, and not as it would have: %s changed", ", ".join(changed))
        named = dict(self.objective.named_parameters())
        if named.keys() != saved.weights.keys():
            differing = sorted(named.keys() ^ saved.weights.keys())
            raise CheckpointError(f"{saved.folder} is of another model: it differs in {', '.join(differing[:3])}")
        with torch.no_grad():
            for name, tensor in saved.weights.items():
                named[name].copy_(tensor)
        self.step = int(state["step"])
        for name, attribute in PROGRESS.items():
            setattr(self, attribute, state[name])
        if saved.moments and "optimizer" not in changed:
            optimizers.restore(self.optimizer, self.objective, saved.moments)
        else:
            self.restarted = self.step
            logger.warning("the optimizer starts anew, and the learning rate climbs again over %d steps", RAMP)
        logger.info("continues from %s", saved.folder)

    # ---- the ends ----------------------------------------------------------------------------------------------------

    def _load_corpus(self) -> corpus.Corpus:
        """The corpus; on each machine one process tokenises it and the others wait."""
        if self.group.local_rank:
            self.group.wait()
        loaded = corpus.load(self.recipe.corpus, self.vocabulary, Path(self.recipe.cache))
        if not self.group.local_rank:
            self.group.wait()
        return loaded

    def _finish(self) -> dict[str, Any]:
        if not self.scores or self.scores[-1]["step"] != self.step:
            self._score()
        metrics = self._write_metrics()
        if self.group.main:
            final = self.output / "final"
            with files.said(final, "--resume tries again"), files.written_aside(final) as folder:
                self.objective.model.save_pretrained(folder)
                save_tokenizer(self.recipe.tokenizer, folder)
            if self.step < self.recipe.steps:
                logger.warning("stopped at step %d of %d: --resume continues", self.step, self.recipe.steps)
        self.group.wait()
        return metrics

    def _write_metrics(self) -> dict[str, Any]:
        metrics = {
            "recipe": dataclasses.asdict(self.recipe),
            "corpus": dict(zip(self.recipe.corpus, self._corpus_hashes(), strict=True)),
            "tokenizer": self.vocabulary.fingerprint,
            "documents": len(self.corpus),
            "corpus_tokens": self.corpus.tokens,
            "rows": len(self.rows),
            "parameters": self._parameters(),
            "step": self.step,
            "finished": self.step >= self.recipe.steps,
            "epochs": self.seen / len(self.rows),
            "tokens": self.tokens,
            "seconds": self.seconds,
            "processes": self.group.count,
            "device": torch.cuda.get_device_name() if self.group.device.type == "cuda" else "cpu",
            "flops_per_token": self.flops,
            "peak_flops": self.peak,
            "train": self.history,
            "dev": self.scores,
            "versions": {name: version(name) for name in VERSIONS},
        }
        if self.group.main:
            path = self.output / "metrics.json"
            with files.said(path), files.written_aside(path) as partial:
                partial.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        return metrics

    def _parameters(self) -> int:
        """Of the model that is kept."""
        return sum(parameter.numel() for parameter in self.objective.model.parameters())

    def _corpus_hashes(self) -> list[str]:
        return [shard.sha256 for shard in self.corpus.shards]


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _moved(batch: Batch, device: torch.device) -> Batch:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def _scores_text(means: Mapping[str, float]) -> str:
    parts = [name.removesuffix("_loss") for name in means if name.endswith("_loss")]
    return " ".join(f"{part} {100 * means[_score_name(part)]:.2f} %" for part in parts)


def _score_name(part: str) -> str:
    return f"{part}_{SCORES.get(part, 'accuracy')}"
