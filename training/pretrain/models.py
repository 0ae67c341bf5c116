"""A recipe's shape to a model of transformers' with random weights, or to one that starts from a checkpoint."""

from __future__ import annotations

import copy
from typing import Any

from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForPreTraining, PreTrainedConfig

from training.checkpoints import attention
from training.checkpoints import weights as pretrained
from training.checkpoints.configs import load_config, max_positions
from training.checkpoints.families import check
from training.errors import CheckpointError, RecipeError
from training.pretrain import teacher
from training.pretrain.objectives import Objective, ReplacedTokens, SpanBoundary
from training.pretrain.recipe import PretrainRecipe
from training.tokenizers.vocabulary import Vocabulary


def make(recipe: PretrainRecipe, vocabulary: Vocabulary) -> Objective:
    """The objective with its model: random weights from torch's seed, or those of `init`.

    Raises:
        CheckpointError: `init` cannot be loaded, or is of another family; or the teacher does not fit.
        RecipeError: the vocabulary does not fit the embedding, or rows do not fit the positions.
    """
    attention.register()
    config = _loaded(recipe) if recipe.init else _shaped(recipe, vocabulary)
    if vocabulary.size > config.vocab_size:
        raise RecipeError(
            f"the tokenizer {recipe.tokenizer} has ids up to {vocabulary.size - 1}, the embedding {config.vocab_size} "
            f"rows"
        )
    if recipe.max_length > max_positions(config):
        raise RecipeError(f"max_length {recipe.max_length} is more than the model's {max_positions(config)} positions")
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = recipe.dropout
    # Pairs and ELECTRA's decisions want the heads of pre-training; else the masked language model alone, without the
    # pooler, which nothing would train.
    auto: Any = (
        AutoModelForPreTraining if recipe.pairs != "none" or recipe.family == "electra" else AutoModelForMaskedLM
    )
    if recipe.init:
        model = pretrained.encoder(auto, recipe.init, config, recipe.attention).train()
    else:
        model = auto.from_config(config, attn_implementation=recipe.attention)
    if recipe.family == "albert" and recipe.pairs != "none":
        # transformers puts the dropout of classification before the decision about the order; ALBERT's own has none.
        head: Any = model.get_submodule("sop_classifier")
        head.dropout.p = 0.0
    if recipe.family == "electra":
        small = _generator(recipe, config)
        generator = AutoModelForMaskedLM.from_config(small, attn_implementation=recipe.attention)
        return ReplacedTokens(model, generator, recipe)
    taught_by = teacher.load(recipe, vocabulary, config.hidden_size) if recipe.teacher else None
    return (SpanBoundary if recipe.family == "spanbert" else Objective)(model, recipe, taught_by)


def _shaped(recipe: PretrainRecipe, vocabulary: Vocabulary) -> PreTrainedConfig:
    roberta = recipe.family == "roberta"
    shape: dict[str, Any] = {
        "vocab_size": recipe.vocab_size or vocabulary.size,
        "hidden_size": recipe.hidden_size,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "intermediate_size": recipe.intermediate_size,
        # RoBERTa's positions begin after its padding id.
        "max_position_embeddings": recipe.max_positions + (vocabulary.pad + 1 if roberta else 0),
        "type_vocab_size": 1 if roberta else 2,
        "hidden_act": "gelu_new" if recipe.family == "albert" else "gelu",
        "pad_token_id": vocabulary.pad,
        "bos_token_id": vocabulary.cls,
        "eos_token_id": vocabulary.sep,
    }
    if recipe.family in ("albert", "electra"):
        shape["embedding_size"] = recipe.embedding_size or recipe.hidden_size
    config: PreTrainedConfig = AutoConfig.for_model(_architecture(recipe), **shape)
    check(config)  # what could not be exported in the end is refused now
    return config


def _architecture(recipe: PretrainRecipe) -> str:
    return "bert" if recipe.family == "spanbert" else recipe.family


def _generator(recipe: PretrainRecipe, config: Any) -> PreTrainedConfig:
    """ELECTRA's smaller model: the same depth and embeddings, a share of the width (arXiv 2003.10555, section 3.2)."""
    small: Any = copy.deepcopy(config)
    small.hidden_size = max(1, round(config.hidden_size * recipe.generator_share))
    small.num_attention_heads = max(1, round(config.num_attention_heads * recipe.generator_share))
    small.intermediate_size = max(1, round(config.intermediate_size * recipe.generator_share))
    result: PreTrainedConfig = small
    return result


def _loaded(recipe: PretrainRecipe) -> PreTrainedConfig:
    config = load_config(recipe.init)
    if config.model_type != _architecture(recipe):
        raise CheckpointError(f"{recipe.init} is of family {config.model_type!r}, the recipe of {recipe.family!r}")
    return config
