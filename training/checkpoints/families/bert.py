"""BERT, and SpanBERT, which is a BERT that was trained otherwise."""

from training.checkpoints.families.family import Family


class Bert(Family):
    """The family that the others are described by."""

    model_type = "bert"
    called = "A BERT"
    base = "bert"
    pooler = "bert.pooler.dense"
