"""Corpus files to documents, paragraphs and sentences, in a stream. Knows nothing of tokens.

A file is UTF-8, a paragraph a line, a blank line between documents; plain, .gz or .xz.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from training.data.records import UNREADABLE, not_utf8, open_text
from training.errors import DataError

# A sentence ends at . ! or ? (and what closes a quotation) before a space and what may open another; at the full stops
# of Chinese and Japanese it ends without a space.
_END = re.compile(r"""[.!?]["'”’)\]]*\s+(?=["'“‘(\[]*[^\W_a-z])|[。！？]["”’」』）]*""")
# Full stops that end no sentence: initials, and the abbreviations before names and numbers.
_ABBREVIATION = re.compile(
    r"(?<![\w.])(?:[^\W\d_]|(?:[^\W\d_]\.)+[^\W\d_]|[Mm]rs?|[Mm]s|[Dd]rs?|[Pp]rof|[Ss]t|[Jj]r|[Ss]r|vs|cf|ca|nos?|[Vv]ols?|"
    r"pp|[Gg]en|[Cc]ol|[Ll]t|[Ss]gt|[Cc]apt|[Rr]ev|[Gg]ov|[Ss]en|[Rr]ep|[Ff]igs?|[Ii]nc|[Ll]td|[Cc]o)$"
)


def paragraphs(path: str) -> Iterator[str]:
    """The paragraphs of each document in turn, none empty; an empty string after the last of a document.

    Raises:
        DataError: the file cannot be read, or is no UTF-8; names the line.
    """
    number = 0
    inside = False
    try:
        with open_text(path) as file:
            for line in file:
                number += 1
                if fault := not_utf8(line):
                    raise DataError(f"{path}:{number}: not UTF-8 ({fault})")
                paragraph = line.strip()
                if paragraph or inside:
                    yield paragraph
                inside = bool(paragraph)
    except UNREADABLE as error:
        # Files are unpacked in blocks, so the fault may be some lines after the last that was read.
        raise DataError(f"{path}: after line {number}: {error}") from error
    if inside:
        yield ""


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph. An approximation: rows are cut at sentences, and nothing else hangs on them."""
    found = []
    begin = 0
    for match in _END.finditer(paragraph):
        if paragraph[match.start()] == "." and _ABBREVIATION.search(paragraph, begin, match.start()):
            continue
        found.append(paragraph[begin : match.end()].strip())
        begin = match.end()
    found.append(paragraph[begin:].strip())
    return [sentence for sentence in found if sentence]
