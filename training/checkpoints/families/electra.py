"""ELECTRA: narrow embeddings where it is small, no pooler, and a summary for multiple choice."""

from typing import Any

from training.checkpoints.families.family import GELU, ClassHead, Family, UnsupportedArchitecture, activation


class Electra(Family):
    """An encoder that was trained to tell replaced tokens."""

    model_type = "electra"
    called = "An ELECTRA"
    base = "electra"
    pooler = "sequence_summary.summary"
    projection = "electra.embeddings_project"
    head_dropouts = ("classifier_dropout", "summary_last_dropout")

    def class_head(self, config: Any) -> ClassHead:
        return ClassHead("classifier.dense", GELU, "classifier.out_proj")

    def choice_head(self, config: Any) -> ClassHead:
        if (config.summary_type, config.summary_use_proj) != ("first", True):
            raise UnsupportedArchitecture(
                f"summary_type {config.summary_type!r} with summary_use_proj {config.summary_use_proj}"
            )
        return ClassHead(self.pooler, activation(config.summary_activation), "classifier")
