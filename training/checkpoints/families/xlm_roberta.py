"""XLM-RoBERTa: RoBERTa's graph and names over a SentencePiece vocabulary of a hundred languages."""

from training.checkpoints.families.roberta import Roberta


class XLMRoberta(Roberta):
    """Its modules are called as RoBERTa's are."""

    model_type = "xlm-roberta"
    called = "An XLM-RoBERTa"
