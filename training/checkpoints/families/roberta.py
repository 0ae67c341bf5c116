"""RoBERTa, and the families that are RoBERTas of other texts: XLM-RoBERTa and CamemBERT."""

from typing import Any

from training.checkpoints.families.family import TANH, ClassHead, Family


class Roberta(Family):
    """Positions count from the padding id on, and a classifier has a dense layer of its own."""

    model_type = "roberta"
    called = "A RoBERTa"
    base = "roberta"
    pooler = "roberta.pooler.dense"

    def first_position(self, config: Any) -> int:
        """Positions count from pad_token_id + 1: of 514, two are never used."""
        return int(config.pad_token_id) + 1

    def class_head(self, config: Any) -> ClassHead:
        return ClassHead("classifier.dense", TANH, "classifier.out_proj")
