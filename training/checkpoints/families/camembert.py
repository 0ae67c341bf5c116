"""CamemBERT: RoBERTa's graph and names over a SentencePiece vocabulary of French."""

from training.checkpoints.families.roberta import Roberta


class Camembert(Roberta):
    """Its modules are called as RoBERTa's are."""

    model_type = "camembert"
    called = "A CamemBERT"
