"""The losses: equal to the families' own where they have one, and what the papers say where they have not."""

import math
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AlbertForPreTraining

from tests.training.pretrain.materials import FAMILIES, PAD, corpus, recipe, vocabulary
from training.errors import CheckpointError, RecipeError
from training.pretrain import models
from training.pretrain.batches import Batch, collate
from training.pretrain.objectives import ReplacedTokens, SpanBoundary, sample
from training.pretrain.rows import Rows

CORPUS, VOCABULARY = corpus(5000, 200), vocabulary(200)


def made(family: str, **changes: Any) -> tuple[Any, Batch]:
    """A family's objective without dropout, and a batch of it."""
    asked = recipe(**FAMILIES[family] | {"dropout": 0.0} | changes)
    torch.manual_seed(0)
    objective = models.make(asked, VOCABULARY)
    rows = Rows(asked, CORPUS, range(len(CORPUS)), VOCABULARY)
    return objective, collate([rows.make(number, 0) for number in range(6)], PAD, asked.max_length)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_learns(family: str) -> None:
    objective, batch = made(family)
    found = objective(batch)
    assert found.keys() == objective.weights.keys() == objective.counts(batch).keys()
    sum(found[part][0] for part in found).backward()
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("family", FAMILIES)
def test_untrained_models_know_nothing(family: str) -> None:
    """The loss of a guess: the logarithm of the number of choices."""
    objective, batch = made(family)
    with torch.no_grad():
        found = objective(batch)
    for part, count in objective.counts(batch).items():
        choices = 200 if part in ("mlm", "sbo") else 2
        assert float(found[part][0]) / count == pytest.approx(math.log(choices), rel=0.05)
        assert 0 <= float(found[part][1]) <= count


def test_the_parts_have_their_weights() -> None:
    weights = {family: made(family)[0].weights for family in FAMILIES}
    assert weights["albert"] == {"mlm": 1, "sop": 1}
    assert weights["bert"] == {"mlm": 1, "nsp": 1}
    assert weights["roberta"] == {"mlm": 1}
    assert weights["electra"] == {"mlm": 1, "rtd": 50}
    assert weights["spanbert"] == {"mlm": 1, "sbo": 1}


def test_albert_is_transformers_own_loss() -> None:
    """Our logits are of the masked tokens alone; theirs of all tokens. The losses are the same."""
    objective, batch = made("albert")
    model = objective.model
    assert type(model) is AlbertForPreTraining
    labels = torch.full_like(batch["input_ids"].flatten(), -100)
    labels[batch["positions"]] = batch["labels"]
    with torch.no_grad():
        theirs = model(
            input_ids=batch["input_ids"], attention_mask=batch.get("attention_mask"),
            token_type_ids=batch["token_type_ids"], labels=labels.view_as(batch["input_ids"]),
            sentence_order_label=batch["pairs"],
        ).loss  # fmt: skip
        ours = objective(batch)
    counts = objective.counts(batch)
    assert float(sum(ours[part][0] / counts[part] for part in ours)) == pytest.approx(float(theirs), rel=1e-5)


def test_padding_changes_nothing() -> None:
    objective, batch = made("electra")
    wide = dict(batch)
    assert batch["input_ids"].shape[1] == 48
    for name in ("input_ids", "token_type_ids"):
        wide[name] = functional.pad(batch[name], (0, 8))
    mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
    wide["attention_mask"] = functional.pad(mask, (0, 8))
    rows = torch.div(batch["positions"], 48, rounding_mode="floor")
    wide["positions"] = batch["positions"] + 8 * rows
    assert objective.counts(wide) == objective.counts(batch)
    with torch.no_grad():
        narrow, found = objective(batch), objective(wide)
    for part in found:
        assert torch.allclose(found[part], narrow[part], rtol=1e-4)


# ---- ELECTRA --------------------------------------------------------------------------------------------------------


def test_electra_shares_its_embeddings() -> None:
    objective, _ = made("electra")
    assert isinstance(objective, ReplacedTokens)
    words = objective.model.electra.embeddings.word_embeddings.weight
    assert objective.generator.electra.embeddings is objective.model.electra.embeddings
    assert objective.generator.generator_lm_head.weight is words
    assert objective.generator.config.hidden_size == 16
    assert sum(parameter is words for parameter in objective.parameters()) == 1


def test_a_sample_follows_the_logits() -> None:
    logits = torch.tensor([0.5, 0.2, 0.0, 0.3]).log()
    chances = torch.linspace(0, 1 - 1e-6, 10_001)
    found = sample(logits.expand(len(chances), 4), chances)
    assert (found.bincount(minlength=4) / len(chances)).tolist() == pytest.approx([0.5, 0.2, 0.0, 0.3], abs=1e-3)
    assert not sample(torch.zeros(3, 4, requires_grad=True), torch.rand(3)).requires_grad


def test_what_the_generator_got_right_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The targets: replaced where the sample is another token; seen through a discriminator that knows the answer."""
    objective, batch = made("electra")
    half = torch.arange(len(batch["labels"])) % 2 == 0
    wrong = torch.where(batch["labels"] == 7, 8, 7)
    chosen = torch.where(half, batch["labels"], wrong)
    monkeypatch.setattr("training.pretrain.objectives.sample", lambda *_: chosen)
    seen: list[torch.Tensor] = []
    objective.model.electra.register_forward_pre_hook(
        lambda _, __, keywords: seen.append(keywords["input_ids"]), with_kwargs=True
    )
    original = batch["input_ids"].flatten().clone()
    original[batch["positions"]] = batch["labels"]

    class Knows(torch.nn.Module):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return (seen[-1].flatten() != original).float().view(hidden.shape[:2]) * 20 - 10

    objective.model.discriminator_predictions = Knows()
    with torch.no_grad():
        loss, right = objective(batch)["rtd"].tolist()
    assert right == objective.counts(batch)["rtd"]
    assert loss == pytest.approx(0, abs=0.1)
    shown = seen[-1].flatten()[batch["positions"]]
    assert torch.equal(shown, chosen)


# ---- SpanBERT -------------------------------------------------------------------------------------------------------


def test_the_boundary_loss_sees_the_boundaries_alone() -> None:
    """Hidden states of a span's own tokens do not matter to it, those beside the span do."""
    objective, batch = made("spanbert")
    assert isinstance(objective, SpanBoundary)
    change: dict[str, torch.Tensor] = {}

    def disturb(_: Any, __: Any, output: Any) -> Any:
        flat = output.last_hidden_state.flatten(0, 1)
        if change:
            flat = flat.index_add(0, change["at"], torch.randn(len(change["at"]), flat.shape[1]))
        output["last_hidden_state"] = flat.view_as(output.last_hidden_state)
        return output

    objective.model.bert.register_forward_hook(disturb)
    with torch.no_grad():
        plain = objective(batch)
        change["at"] = batch["positions"]
        inside = objective(batch)
        change["at"] = batch["before"].unique()
        left = objective(batch)
        change["at"] = batch["after"].unique()
        right = objective(batch)
    assert torch.equal(inside["sbo"], plain["sbo"])
    assert not torch.equal(inside["mlm"], plain["mlm"])
    assert not torch.equal(left["sbo"], plain["sbo"])
    assert not torch.equal(right["sbo"], plain["sbo"])
    assert torch.equal(right["mlm"], plain["mlm"])


# ---- models ---------------------------------------------------------------------------------------------------------


def test_albert_base_has_its_parameters() -> None:
    """12 M; the heads of pre-training are beside them."""
    shape = {"hidden_size": 768, "layers": 12, "heads": 12, "intermediate_size": 3072, "embedding_size": 128}
    asked = recipe(**shape, vocab_size=30_000, max_positions=512)
    with torch.device("meta"):
        model = models.make(asked, VOCABULARY).model
    assert sum(p.numel() for p in model.base_model.parameters()) == 11_683_584


def test_a_vocabulary_that_does_not_fit() -> None:
    with pytest.raises(RecipeError, match="ids up to 199, the embedding 150 rows"):
        models.make(recipe(vocab_size=150), VOCABULARY)


def test_starting_from_a_checkpoint(tmp_path: Any) -> None:
    objective, _ = made("bert")
    objective.model.save_pretrained(tmp_path / "bert")
    again, _ = made("bert", init=str(tmp_path / "bert"))
    for (name, ours), theirs in zip(objective.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    spans, _ = made("spanbert", init=str(tmp_path / "bert"))
    assert torch.equal(
        spans.model.bert.encoder.layer[1].output.dense.weight, objective.model.bert.encoder.layer[1].output.dense.weight
    )
    with pytest.raises(CheckpointError, match="of family 'bert', the recipe of 'albert'"):
        made("albert", init=str(tmp_path / "bert"))
    with pytest.raises(RecipeError, match="more than the model's 64 positions"):
        made("bert", init=str(tmp_path / "bert"), max_length=80, max_positions=128)
    with pytest.raises(CheckpointError):
        made("bert", init=str(tmp_path))
