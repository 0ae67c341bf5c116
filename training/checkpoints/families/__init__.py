"""The encoder families that can be trained on, exported and served: a file a family, and the registry of them.

To add one: copy the file of the family that is nearest (`distilbert` shows most), say where its weights are and what
its embeddings, attention, feed-forward and heads are, and list it below. If its graph has a part that no other has,
`training.export.graph` learns to write that part and asks the family for it; it never asks which family it is.
"""

from transformers import PreTrainedConfig

from training.checkpoints.families.albert import Albert
from training.checkpoints.families.bart import Bart
from training.checkpoints.families.bert import Bert
from training.checkpoints.families.camembert import Camembert
from training.checkpoints.families.deberta_v2 import DebertaV2
from training.checkpoints.families.distilbert import DistilBert
from training.checkpoints.families.electra import Electra
from training.checkpoints.families.family import (
    GELU,
    TANH_GELU,
    ClassHead,
    Convolution,
    Decoder,
    Disentangled,
    Family,
    RelativeBias,
    Rotary,
    SpanHead,
    UnsupportedArchitecture,
)
from training.checkpoints.families.modernbert import ModernBert
from training.checkpoints.families.mpnet import MPNet
from training.checkpoints.families.roberta import Roberta
from training.checkpoints.families.xlm_roberta import XLMRoberta

__all__ = [
    "FAMILIES",
    "GELU",
    "TANH_GELU",
    "ClassHead",
    "Convolution",
    "Decoder",
    "Disentangled",
    "Family",
    "RelativeBias",
    "Rotary",
    "SpanHead",
    "UnsupportedArchitecture",
    "check",
    "layer_names",
    "of",
]

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Bert(),
        Roberta(),
        Electra(),
        Albert(),
        DistilBert(),
        XLMRoberta(),
        Camembert(),
        MPNet(),
        DebertaV2(),
        ModernBert(),
        Bart(),
    )
}
"""By `model_type`."""


def of(config: PreTrainedConfig) -> Family:
    """Return a config's family. Raises `UnsupportedArchitecture` for one that is not known."""
    if config.model_type not in FAMILIES:
        raise UnsupportedArchitecture(f"model_type {config.model_type!r} is not one of {', '.join(FAMILIES)}")
    return FAMILIES[config.model_type]


def check(config: PreTrainedConfig) -> None:
    """Raise `UnsupportedArchitecture` unless `config` describes a plain encoder of a known family."""
    of(config).check(config)


def layer_names(config: PreTrainedConfig) -> list[str]:
    """Name the modules of the layers in the order they run, relative to the base; ALBERT's repeat."""
    return of(config).layer_names(config)
