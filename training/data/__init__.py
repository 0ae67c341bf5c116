"""Data files to labelled examples. Bad records are reported with their place and counted, never dropped silently."""

from training.data.glue import LabelledText, read_nli, read_sst2
from training.data.race import ChoiceQuestion, read_race
from training.data.records import Report
from training.data.squad import Question, read_squad
from training.data.table import ScoredText, Table, TaggedText, labels_of, read_scores, read_table, read_tags

__all__ = [
    "ChoiceQuestion", "LabelledText", "Question", "Report", "ScoredText", "Table", "TaggedText", "labels_of",
    "read_nli", "read_race", "read_scores", "read_squad", "read_sst2", "read_table", "read_tags",
]  # fmt: skip
