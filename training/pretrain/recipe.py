"""The recipe of a pre-training run: its keys, their types and their bounds. Knows nothing of torch."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from training.errors import RecipeError
from training.recipe import CONFIG, BelowOne, Count, Keys, NotNegative, Place, Places, Positive, UpToHalf, Whole

Family = Literal["albert", "bert", "roberta", "electra", "spanbert"]
Masking = Literal["subword", "whole_word", "ngram", "span"]
Pairs = Literal["none", "order", "next"]

SPECIALS = {"none": 2, "order": 3, "next": 3}
"""Special tokens of a row: [CLS] A [SEP], or [CLS] A [SEP] B [SEP]."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class PretrainRecipe(Keys):
    """Every key of a recipe; those without a default must be given.

    Attributes:
        family: the architecture and its objective. `electra` adds replaced-token detection, `spanbert` (a BERT) the
            span-boundary objective, both to the masked language model that all have.
        masking: what is masked together. `subword`: tokens; `whole_word`; `ngram`: up to 3 words, p(n) ~ 1/n (ALBERT);
            `span`: words to a geometric length (SpanBERT).
        corpus: text files, a paragraph a line, a blank line between documents; plain, .gz or .xz.
        tokenizer: folder with the tokenizer's files, as the `vocabulary` command writes it.
        output: folder for checkpoints, metrics and the final model.
        steps: optimizer steps of the whole run.
        learning_rate: peak of the learning rate.
        pairs: what a row's second segment asks. `order`: are the two swapped (ALBERT); `next`: does it follow the first
            (BERT); `none`: rows have one segment.
        mask_ratio: share of the tokens to predict.
        cache: folder of the tokenised corpora, which runs share.
        init: Hugging Face folder to start from, of the same family; its shape replaces the keys of the shape.
        teacher: Hugging Face folder of an encoder with the same vocabulary and hidden size, whose last hidden states
            (of the rows before masking) are learned beside the rest; not with `electra`.
        teacher_weight: of that part of the loss, beside 1 for the masked language model.
        hidden_size: of the layers.
        layers: how many; ALBERT's are one layer, applied so often.
        heads: attention heads of a layer.
        intermediate_size: of the feed-forward network.
        embedding_size: of the word embeddings (albert, electra); 0 for `hidden_size`.
        max_positions: longest row that the model can take.
        vocab_size: rows of the word embeddings; 0 for as many as the tokenizer has.
        dropout: of hidden states and attention.
        generator_share: the generator's hidden size, feed-forward size and heads, as a share of the discriminator's
            (electra).
        max_length: longest row, in tokens.
        short_rows: share of the rows cut to a random shorter length.
        batch_size: rows of an optimizer step, over all processes.
        micro_batch_size: rows that a process takes at once; gradients add up to `batch_size`.
        optimizer: `lamb` or `adamw`.
        beta2: decay of the second moment; the first's is 0.9.
        epsilon: added to the root of the second moment.
        weight_decay: decoupled; biases and LayerNorm weights are spared.
        max_grad_norm: gradients are clipped to this norm; 0 leaves them.
        warmup_steps: steps in which the learning rate rises.
        decay: after the warm-up: `linear` or `polynomial` to zero at `steps`, or `constant`.
        decay_power: exponent of the polynomial decay.
        precision: `fp32`, or `bf16` autocast.
        attention: transformers' attention implementation; `bf16_eager` is ours (see `training.checkpoints.attention`).
        compile: let torch compile the encoder.
        workers: processes that prepare rows; 0 prepares them in the training process.
        heldout: share of the documents that is never trained on.
        eval_rows: held-out rows of a score.
        eval_steps: steps between scores on held-out rows.
        save_steps: steps between checkpoints.
        keep_checkpoints: how many are kept.
        logging_steps: steps between logged losses.
        seed: seeds weights, rows, masks and dropout.
    """

    family: Family
    masking: Masking
    corpus: Places
    tokenizer: Place
    output: Place
    steps: Count
    learning_rate: Positive
    pairs: Pairs = "none"
    mask_ratio: UpToHalf = 0.15
    cache: Place = "runs/corpus"
    init: Place = ""
    teacher: Place = ""
    teacher_weight: Positive = 1.0
    hidden_size: Count = 768
    layers: Count = 12
    heads: Count = 12
    intermediate_size: Count = 3072
    embedding_size: Whole = 0
    max_positions: Count = 512
    vocab_size: Whole = 0
    dropout: BelowOne = 0.1
    generator_share: Positive = 0.25
    max_length: Count = 512
    short_rows: BelowOne = 0.1
    batch_size: Count = 256
    micro_batch_size: Count = 32
    optimizer: Literal["lamb", "adamw"] = "adamw"
    beta2: BelowOne = 0.999
    epsilon: Positive = 1e-6
    weight_decay: NotNegative = 0.01
    max_grad_norm: NotNegative = 1.0
    warmup_steps: Whole = 0
    decay: Literal["linear", "polynomial", "constant"] = "linear"
    decay_power: Positive = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    attention: Literal["sdpa", "eager", "bf16_eager"] = "sdpa"
    compile: bool = False
    workers: Whole = 0
    heldout: UpToHalf = 0.005
    eval_rows: Count = 512
    eval_steps: Count = 1000
    save_steps: Count = 1000
    keep_checkpoints: Count = 2
    logging_steps: Count = 50
    seed: Whole = 42

    def __post_init__(self) -> None:
        if not self.corpus:
            raise RecipeError("corpus names no file")
        if self.warmup_steps >= self.steps:
            raise RecipeError(f"warmup_steps {self.warmup_steps} leaves nothing of {self.steps} steps")
        if self.decay_power != 1 and self.decay != "polynomial":
            raise RecipeError(f"decay_power bends decay 'polynomial'; this decay is {self.decay!r}")
        if self.batch_size % self.micro_batch_size:
            raise RecipeError(
                f"batch_size {self.batch_size} is no multiple of micro_batch_size {self.micro_batch_size}"
            )
        if self.pairs != "none" and self.family not in ("albert", "bert"):
            raise RecipeError(f"family {self.family!r} has no second segment: pairs is 'none', not {self.pairs!r}")
        if (self.family == "spanbert") != (self.masking == "span"):
            raise RecipeError(f"masking 'span' is of family 'spanbert'; this is {self.masking!r} and {self.family!r}")
        if self.teacher and self.family == "electra":
            raise RecipeError("family 'electra' reads rows with replaced tokens, of which a teacher says nothing")
        if self.generator_share > 1:
            raise RecipeError(f"generator_share must be at most 1, not {self.generator_share}")
        if self.max_length > self.max_positions:
            raise RecipeError(f"max_length {self.max_length} is more than max_positions {self.max_positions}")
        if self.max_length < 16 + SPECIALS[self.pairs]:
            raise RecipeError(f"max_length {self.max_length} leaves less than 16 tokens beside the special ones")
        if self.hidden_size % self.heads:
            raise RecipeError(f"hidden_size {self.hidden_size} is no multiple of heads {self.heads}")
        if self.embedding_size not in (0, self.hidden_size) and self.family not in ("albert", "electra"):
            raise RecipeError(f"family {self.family!r} has no embedding_size of its own")
        if self.family == "electra" and self.generator_hidden % self.generator_heads:
            raise RecipeError(
                f"generator_share {self.generator_share}: a hidden size of {self.generator_hidden} is no multiple of "
                f"{self.generator_heads} heads"
            )

    @property
    def generator_hidden(self) -> int:
        """The generator's hidden size (electra)."""
        return max(1, round(self.hidden_size * self.generator_share))

    @property
    def generator_heads(self) -> int:
        """The generator's attention heads (electra)."""
        return max(1, round(self.heads * self.generator_share))
