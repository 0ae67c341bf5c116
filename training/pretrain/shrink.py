"""A BERT to the ALBERT that its weights begin: word embeddings of fewer numbers, and one layer for all.

Owns the `shrink` command. What the student cannot have of its teacher it has as near as a sample of text tells; it is
to be pre-trained (`init`), best with the same teacher (`teacher`). Knows nothing of that run.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import AlbertConfig, AlbertForPreTraining, AutoModel, AutoTokenizer, PreTrainedModel

from training import files
from training.checkpoints import weights as pretrained
from training.checkpoints.configs import load_config
from training.checkpoints.families import FAMILIES
from training.data import text
from training.errors import CheckpointError, DataError, RecipeError
from training.tokenizers import vocabulary
from training.tokenizers.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

ROWS, TOKENS = 512, 128
"""Of the sample of text: a row a document, so that it is of many things."""
COMPARED = 32
"""Held-out rows, on which last hidden states are compared."""
HELD_OUT = 0.25
"""Of the sample: what the projection is not fitted on."""
RARE = 0.1
"""Weight of the vocabulary, each word alike, beside the words of the sample where directions are chosen."""

SHAPE = (
    "vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "hidden_act", "max_position_embeddings",
    "type_vocab_size", "layer_norm_eps", "initializer_range", "pad_token_id",
)  # fmt: skip
"""Keys of a config that the student has of its teacher."""

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Shrunk:
    """What was made, and how far it is from its teacher on text that it was not fitted on.

    An error is a share: of the squared distances from the teacher's mean state, what is left between the two. 0 is the
    teacher itself, 1 what a constant would do.
    """

    parameters: int  # of the student's encoder
    teacher_parameters: int  # of the teacher's
    embedding_error: float  # of the first layer's input
    # of the last hidden states, each token's to mean 0 and variance 1, for each candidate to be the shared layer:
    # `mean`, or a layer's number
    hidden_errors: Mapping[str, float]
    layer: str  # the candidate that was taken, the nearest


def run(teacher: str, output: Path, corpus: Sequence[str], *, embedding_size: int = 128, layers: int = 0) -> Shrunk:
    """Write the student, a Hugging Face folder with the teacher's tokenizer, as `init` of a pre-training takes it.

    Args:
        teacher: folder of a BERT.
        output: the folder to be made.
        corpus: text files, whose first documents are the sample.
        embedding_size: of the student's word embeddings.
        layers: how often the shared layer is applied; 0 for as many layers as the teacher has.

    Raises:
        CheckpointError: the teacher is no BERT or cannot be loaded, or the output exists or cannot be written.
        RecipeError: `embedding_size` does not fit the teacher.
        DataError: the corpus cannot be read, or is too little.
    """
    files.check_absent(output)
    config: Any = load_config(teacher)
    if config.model_type != "bert":
        raise CheckpointError(f"{teacher} is of family {config.model_type!r}: an ALBERT is made of a 'bert'")
    if not 2 <= embedding_size <= config.hidden_size:
        raise RecipeError(
            f"embedding_size is 2 to the teacher's hidden size {config.hidden_size}, not {embedding_size}"
        )
    known = vocabulary.load(teacher)
    model = pretrained.encoder(AutoModel, teacher, config, "sdpa").eval()
    sample = _sample(corpus, known, min(TOKENS, config.max_position_embeddings))
    fitted = len(sample) - int(len(sample) * HELD_OUT)
    rows, held_out = sample[:fitted], sample[fitted:]
    compared = held_out[:COMPARED]
    torch.manual_seed(0)  # of the heads, which are newly initialized
    student = AlbertForPreTraining(_student_config(config, embedding_size, layers)).eval()
    encoder = student.albert
    with torch.no_grad():
        weights, embedding_error = _embeddings(model, rows, held_out, embedding_size)
        weights |= {name: tensor for name, tensor in model.state_dict().items() if name.startswith("pooler.")}
        logger.info("embeddings of %d for %d: error %.3f", embedding_size, config.hidden_size, embedding_error)
        errors = {}
        candidates = dict(_candidates(model))
        for name, layer in candidates.items():
            _put(encoder, weights | layer)
            errors[name] = _error(_last(encoder, compared), _last(model, compared))
            logger.info("shared layer %s: error %.3f of the last hidden states", name, errors[name])
        nearest = min(errors, key=errors.__getitem__)
        _put(encoder, weights | candidates[nearest])
    _write(student, teacher, output)
    return Shrunk(_count(encoder), _count(model), embedding_error, errors, nearest)


def _student_config(teacher: Any, embedding_size: int, layers: int) -> AlbertConfig:
    return AlbertConfig(
        **{key: getattr(teacher, key) for key in SHAPE}, embedding_size=embedding_size,
        num_hidden_layers=layers or teacher.num_hidden_layers, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip


# ---- the sample ------------------------------------------------------------------------------------------------------


def _sample(corpus: Sequence[str], known: Vocabulary, tokens: int) -> torch.Tensor:
    """Ids [ROWS or fewer, tokens], [CLS] A [SEP]: of each of the first documents the first paragraph to fill a row."""
    rows = list(itertools.islice(_full_rows(corpus, known, tokens), ROWS))
    if len(rows) < 4:
        raise DataError(f"too little text: {len(rows)} documents have a paragraph of {tokens - 2} tokens")
    return torch.tensor(rows)


def _full_rows(corpus: Sequence[str], known: Vocabulary, tokens: int) -> Iterator[list[int]]:
    for path in corpus:
        found = False
        for paragraph in text.paragraphs(path):
            if not paragraph:
                found = False
            elif not found:
                ids = known.tokenizer.encode(paragraph, add_special_tokens=False).ids
                if len(ids) >= tokens - 2:
                    found = True
                    yield [known.cls, *ids[: tokens - 2], known.sep]


def _types(rows: torch.Tensor, kinds: int) -> torch.Tensor:
    """Segments [rows, tokens]: where there are two kinds every other row is a pair."""
    types = torch.zeros_like(rows)
    types[1::2, rows.shape[1] // 2 :] = min(kinds - 1, 1)
    return types


# ---- the embeddings --------------------------------------------------------------------------------------------------


def _embeddings(
    teacher: PreTrainedModel, rows: torch.Tensor, held_out: torch.Tensor, size: int
) -> tuple[Weights, float]:
    """The student's embeddings with their projection, and the error of what comes out of it on rows held out.

    BERT normalises the sum of a token's word, position and segment at the width of the layers, ALBERT at the width of
    the embeddings and projects it then. So the three tables are projected to the principal directions of their sums,
    as they are met in text (of the word table's own directions three in ten go to words that hardly are, and half as
    much again is lost), and the projection back is fitted, after ALBERT's LayerNorm, to what comes out of BERT's.
    """
    tables: Any = teacher.get_submodule("embeddings")
    words, places, kinds = (getattr(tables, f"{name}_embeddings").weight for name in ("word", "position", "token_type"))
    types = _types(rows, len(kinds))
    met = (words[rows] + places[: rows.shape[1]] + kinds[types]).flatten(0, 1)
    alike = words + places[: rows.shape[1]].mean(dim=0) + kinds[0]
    moments = (1 - RARE) * met.T @ met / len(met) + RARE * alike.T @ alike / len(alike)
    directions = torch.linalg.eigh(moments).eigenvectors[:, -size:]  # of the largest moments

    def pair(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the projection gets, with a one for its bias, and what it is to give."""
        segments = _types(ids, len(kinds))
        sums = (words[ids] + places[: ids.shape[1]] + kinds[segments]).flatten(0, 1) @ directions
        normal = functional.layer_norm(sums, (size,), eps=tables.LayerNorm.eps)
        return functional.pad(normal, (0, 1), value=1.0), tables(input_ids=ids, token_type_ids=segments).flatten(0, 1)

    # The one dimension that LayerNorm takes makes the columns dependent: this driver minds it not.
    projection = torch.linalg.lstsq(*pair(rows), driver="gelsd").solution
    weights = {
        "embeddings.word_embeddings.weight": words @ directions,
        "embeddings.position_embeddings.weight": places @ directions,
        "embeddings.token_type_embeddings.weight": kinds @ directions,
        "embeddings.LayerNorm.weight": torch.ones(size),
        "embeddings.LayerNorm.bias": torch.zeros(size),
        "encoder.embedding_hidden_mapping_in.weight": projection[:-1].T,
        "encoder.embedding_hidden_mapping_in.bias": projection[-1],
    }
    inputs, wanted = pair(held_out)
    return weights, _error(inputs @ projection, wanted)


# ---- the layer -------------------------------------------------------------------------------------------------------


def _candidates(teacher: PreTrainedModel) -> Iterator[tuple[str, Weights]]:
    """What may be the shared layer: the mean of the teacher's, or one of them."""
    stack: Any = teacher.get_submodule("encoder.layer")
    layers = [layer.state_dict() for layer in stack]
    means = {name: torch.stack([layer[name] for layer in layers]).mean(dim=0) for name in layers[0]}
    yield "mean", _named(means)
    for number, layer in enumerate(layers, start=1):
        yield str(number), _named(layer)


def _named(layer: Mapping[str, torch.Tensor]) -> Weights:
    return {
        f"encoder.albert_layer_groups.0.albert_layers.0.{ours}.{kind}": layer[f"{theirs}.{kind}"]
        for theirs, ours in zip(FAMILIES["bert"].layer, FAMILIES["albert"].layer, strict=True)
        for kind in ("weight", "bias")
    }


def _put(student: PreTrainedModel, weights: Weights) -> None:
    """Every weight but the pooler's, which a teacher may lack too, is given."""
    lacking = [name for name in student.load_state_dict(weights, strict=False)[0] if not name.startswith("pooler")]
    assert not lacking, lacking


def _last(model: PreTrainedModel, rows: torch.Tensor) -> torch.Tensor:
    """Last hidden states [tokens, hidden], normalised as a distillation does (`Teacher.loss`). Their lengths would
    decide otherwise, which are the last LayerNorm's, the quickest of all to learn."""
    states: torch.Tensor = model(input_ids=rows).last_hidden_state
    return functional.layer_norm(states, states.shape[-1:]).flatten(0, 1)


def _error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).square().sum() / (wanted - wanted.mean(dim=0)).square().sum())


def _count(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _write(student: PreTrainedModel, teacher: str, output: Path) -> None:
    with files.said(output), files.written_aside(output) as folder:
        student.save_pretrained(folder)
        # Says of itself that it is BERT's, so that no loader takes it for the SentencePiece that ALBERTs mostly have.
        AutoTokenizer.from_pretrained(teacher, trust_remote_code=False).save_pretrained(folder)
