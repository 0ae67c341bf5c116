"""Classification data: SST-2's TSV, and NLI in JSONL and in MNLI's and SNLI's own layouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.tasks import ClassificationExample
from training.data.names import name_of
from training.data.records import Report, is_text, read_records
from training.errors import did_you_mean

SST2_LABELS = {"0": "negative", "1": "positive"}
NLI_LABELS = {"0": "entailment", "1": "neutral", "2": "contradiction"}  # the hub's numbering of MNLI and SNLI
NO_CONSENSUS = ("-", "-1")
IDS = ("pairID", "id", "index", "idx")
"""What names a record in MNLI and SNLI, in GLUE and on the hub. A promptID is shared by the pairs of one premise."""

_Seen = dict[str, tuple[str, "LabelledText"]]
"""Records by id, each with its place."""


@dataclass(frozen=True, slots=True)
class LabelledText:
    """An example with its label and the data set it came from."""

    example: ClassificationExample
    label: str
    source: str = ""


def read_sst2(path: str, labels: Sequence[str], report: Report) -> Iterator[LabelledText]:
    """GLUE's SST-2: columns `sentence` and `label` (0 negative, 1 positive)."""
    seen: _Seen = {}
    for where, record in read_records(path, report):
        texts = _texts(record, (("sentence", "text"),), where, report)
        label = texts and _label(record, ("label",), SST2_LABELS, labels, where, report)
        if texts and label:
            yield from _unless_known(seen, record, LabelledText(ClassificationExample(*texts), label), where, report)


def read_nli(path: str, labels: Sequence[str], report: Report) -> Iterator[LabelledText]:
    """`premise`/`hypothesis`/`label`, or MNLI's and SNLI's `sentence1`/`sentence2`/`gold_label`.

    Their pairs without a consensus ("-", or -1 on the hub) are set aside, as everyone does, and counted.
    """
    seen: _Seen = {}
    for where, record in read_records(path, report):
        if name_of(record.get("gold_label", record.get("label"))) in NO_CONSENSUS:
            report.skip("pairs without a consensus label")
            continue
        texts = _texts(record, (("premise", "sentence1"), ("hypothesis", "sentence2")), where, report)
        label = texts and _label(record, ("gold_label", "label"), NLI_LABELS, labels, where, report)
        if texts and label:
            made = LabelledText(ClassificationExample(*texts), label, str(record.get("source", "")))
            yield from _unless_known(seen, record, made, where, report)


def _unless_known(
    seen: _Seen, record: Mapping[str, Any], made: LabelledText, where: str, report: Report
) -> Iterator[LabelledText]:
    """The record, unless another one has its id, which is reported. The same one may stand twice; many have no id."""
    identifier = next((str(record[name]) for name in IDS if record.get(name) not in (None, "")), "")
    first, known = seen.setdefault(identifier, (where, made)) if identifier else (where, made)
    if known == made:
        yield made
    else:
        report.add(where, "the id stands twice", f"{identifier!r}, first at {first}")


def _texts(record: Mapping[str, Any], columns: Sequence[Sequence[str]], where: str, report: Report) -> list[str]:
    """A record's texts, each under one of its names; none of them, once one is reported."""
    texts = []
    for names in columns:
        name = next((name for name in names if name in record), None)
        if name is None:
            report.add(where, f"no {names[0]!r}", once=True)
            return []
        value = record[name]
        if not is_text(value):
            report.add(where, f"{name!r} is empty or not a text")
            return []
        texts.append(value.strip())
    return texts


def _label(
    record: Mapping[str, Any],
    names: Sequence[str],
    numbered: Mapping[str, str],
    labels: Sequence[str],
    where: str,
    report: Report,
) -> str:
    """A record's label; empty, once it is reported."""
    name = next((name for name in names if name in record), None)
    if name is None:
        report.add(where, f"no {names[-1]!r}", once=True)
        return ""
    given = name_of(record[name])
    label = numbered.get(given, given)
    if label not in labels:
        report.add(where, "unknown label", repr(record[name]) + did_you_mean(label, labels), once=True)
        return ""
    return label
