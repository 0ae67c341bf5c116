"""What is learned: a family's model with its losses, each as a sum over what it is asked, with the count right.

Sums and not means, for a step's loss divides them by the counts of all its rows, wherever those were computed. Owns the
losses and ELECTRA's and SpanBERT's own parts; the models are transformers', made by `training.pretrain.models`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from training.pretrain.batches import Batch, real_tokens
from training.pretrain.recipe import PretrainRecipe
from training.pretrain.teacher import Teacher

HEADS = {
    "albert": ("predictions", "sop_classifier"),
    "bert": ("cls.predictions", "cls.seq_relationship"),
    "roberta": ("lm_head", ""),
}
"""Where a family keeps the head of the masked language model, and that of pairs."""
SCORES = {"hidden": "cosine"}
"""What a part's score is, where it is not the accuracy: a right answer scores 1."""
PAIR_PARTS = {"order": "sop", "next": "nsp"}
DETECTION_WEIGHT = 50.0
"""Of replaced-token detection beside the generator's loss (ELECTRA, arXiv 2003.10555, section 2)."""


class Objective(nn.Module):
    """A masked language model, with a decision about the pair of segments where rows have two, and with a teacher's
    hidden states where there is one.

    Attributes:
        model: what `final/` holds.
        teacher: what it learns from; None where from the text alone.
        weights: each part of the loss by name, with its weight; a part's loss is a mean.
    """

    def __init__(self, model: PreTrainedModel, recipe: PretrainRecipe, teacher: Teacher | None = None) -> None:
        super().__init__()
        self.model = model
        self.teacher = teacher
        self.weights: dict[str, float] = {"mlm": 1.0}
        if recipe.pairs != "none":
            self.weights[PAIR_PARTS[recipe.pairs]] = 1.0
        if teacher:
            self.weights["hidden"] = recipe.teacher_weight
        self._pair_part = PAIR_PARTS.get(recipe.pairs)
        self._bf16 = recipe.precision == "bf16"

    def counts(self, batch: Batch) -> dict[str, int]:
        """How much of each part a batch asks."""
        asked = {"mlm": len(batch["labels"])}
        if self._pair_part:
            asked[self._pair_part] = len(batch["pairs"])
        if self.teacher:
            asked["hidden"] = real_tokens(batch)
        return asked

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """For each part a tensor [2]: the sum of its losses, and of its scores (see `SCORES`)."""
        with torch.autocast(batch["input_ids"].device.type, torch.bfloat16, enabled=self._bf16):
            return self._parts(batch)

    def _parts(self, batch: Batch) -> dict[str, torch.Tensor]:
        hidden, pooled = _encode(self.model, batch["input_ids"], batch)
        head, pair_head = HEADS[self.model.config.model_type]
        predicted = hidden.flatten(0, 1)[batch["positions"]]
        found = {"mlm": _scored(self.model.get_submodule(head)(predicted), batch["labels"])}
        if self._pair_part:
            found[self._pair_part] = _scored(self.model.get_submodule(pair_head)(pooled), batch["pairs"])
        return found | self._taught(batch, hidden)

    def _taught(self, batch: Batch, hidden: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"hidden": self.teacher.loss(batch, hidden)} if self.teacher else {}


class SpanBoundary(Objective):
    """SpanBERT's: each masked token also from the two tokens beside its span and its place (arXiv 1907.10529, section
    3.2). The head is thrown away with the run."""

    PLACES = 32
    """Tokens of a span that have a place of their own; a span of 10 words is hardly longer."""

    def __init__(self, model: PreTrainedModel, recipe: PretrainRecipe, teacher: Teacher | None = None) -> None:
        super().__init__(model, recipe, teacher)
        config: Any = model.config
        hidden = config.hidden_size
        self.weights["sbo"] = 1.0
        self.places = nn.Embedding(self.PLACES, hidden)
        self.transform = nn.Sequential(
            nn.Linear(3 * hidden, hidden), nn.GELU(), nn.LayerNorm(hidden, eps=config.layer_norm_eps),
            nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden, eps=config.layer_norm_eps),
        )  # fmt: skip
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        for module in (self.places, *self.transform):
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=config.initializer_range)

    def counts(self, batch: Batch) -> dict[str, int]:
        """See `Objective`."""
        return super().counts(batch) | {"sbo": len(batch["labels"])}

    def _parts(self, batch: Batch) -> dict[str, torch.Tensor]:
        hidden, _ = _encode(self.model, batch["input_ids"], batch)
        flat = hidden.flatten(0, 1)
        head, _ = HEADS[self.model.config.model_type]
        place = self.places(batch["offsets"].clamp_max(self.PLACES - 1))
        beside = torch.cat([flat[batch["before"]], flat[batch["after"]], place.to(flat.dtype)], dim=-1)
        words: Any = self.model.get_input_embeddings()
        logits = functional.linear(self.transform(beside), words.weight, self.bias)
        return {
            "mlm": _scored(self.model.get_submodule(head)(flat[batch["positions"]]), batch["labels"]),
            "sbo": _scored(logits, batch["labels"]),
        } | self._taught(batch, hidden)


class ReplacedTokens(Objective):
    """ELECTRA's: a small generator fills in the masked tokens, and the model says of every token whether it was
    replaced (arXiv 2003.10555, sections 2 and 3.2: embeddings are shared). A token that the generator got right counts
    as not replaced, and no gradient goes through its choice."""

    def __init__(self, model: PreTrainedModel, generator: PreTrainedModel, recipe: PretrainRecipe) -> None:
        super().__init__(model, recipe)
        shared: Any = model.base_model
        small: Any = generator
        small.electra.embeddings = shared.embeddings
        small.generator_lm_head.weight = shared.embeddings.word_embeddings.weight
        self.generator = small
        self.weights["rtd"] = DETECTION_WEIGHT

    def counts(self, batch: Batch) -> dict[str, int]:
        """See `Objective`. Every token but padding is asked."""
        return super().counts(batch) | {"rtd": real_tokens(batch)}

    def _parts(self, batch: Batch) -> dict[str, torch.Tensor]:
        hidden, _ = _encode(self.generator, batch["input_ids"], batch)
        predicted = self.generator.generator_predictions(hidden.flatten(0, 1)[batch["positions"]])
        logits = self.generator.generator_lm_head(predicted)
        chosen = sample(logits, batch["chances"])
        shown = batch["input_ids"].flatten().index_copy(0, batch["positions"], chosen)
        replaced = torch.zeros_like(shown, dtype=torch.bool)
        replaced[batch["positions"]] = chosen != batch["labels"]

        hidden, _ = _encode(self.model, shown.view_as(batch["input_ids"]), batch)
        decisions = self.model.get_submodule("discriminator_predictions")(hidden).flatten().float()
        if "attention_mask" in batch:
            real = batch["attention_mask"].flatten().bool()
            decisions, replaced = decisions[real], replaced[real]
        loss = functional.binary_cross_entropy_with_logits(decisions, replaced.float(), reduction="sum")
        right = ((decisions > 0) == replaced).sum()
        return {"mlm": _scored(logits, batch["labels"]), "rtd": torch.stack([loss, right.float()])}


def sample(logits: torch.Tensor, chances: torch.Tensor) -> torch.Tensor:
    """An id for each row of logits [M, ids], by the uniform draw [M] of that row: the draw comes with the data, so that
    what is sampled does not hang on the process or the device's random state."""
    with torch.no_grad():
        cumulated = logits.detach().float().softmax(dim=-1).cumsum(dim=-1)
        found = torch.searchsorted(cumulated, (chances * cumulated[:, -1])[:, None], right=True)
        return found[:, 0].clamp_max(logits.shape[-1] - 1)


def _encode(model: PreTrainedModel, ids: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> tuple[Any, Any]:
    """The last hidden states [R, T, hidden], and the pooled first token's where the model has a pooler."""
    output = model.base_model(
        input_ids=ids, attention_mask=batch.get("attention_mask"), token_type_ids=batch["token_type_ids"]
    )
    return output.last_hidden_state, getattr(output, "pooler_output", None)


def _scored(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """[2]: the sum of the cross-entropies of logits [M, classes], and how many have the label on top."""
    logits = logits.float()
    right = (logits.argmax(dim=-1) == labels).sum()
    return torch.stack([functional.cross_entropy(logits, labels, reduction="sum"), right.float()])
