"""Data files to labelled examples. Bad records are reported with their place and counted, never dropped silently."""

from training.data.glue import LabelledText, read_nli, read_sst2
from training.data.records import Report
from training.data.squad import Question, read_squad

__all__ = ["LabelledText", "Question", "Report", "read_nli", "read_squad", "read_sst2"]
