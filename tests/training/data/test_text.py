"""Text in a stream: documents, paragraphs, sentences; and what is wrong with a file is said with its line."""

from pathlib import Path

import pytest

from tests.training.samples import write_text
from training.data.text import paragraphs, sentences
from training.errors import DataError


@pytest.mark.parametrize("suffix", ["", ".xz", ".gz"])
def test_paragraphs_and_documents(tmp_path: Path, suffix: str) -> None:
    path = write_text(tmp_path / f"t.txt{suffix}", "\n\nOne.\r\n  Two. \n\n \n\nThree\n")
    assert list(paragraphs(path)) == ["One.", "Two.", "", "Three", ""]


@pytest.mark.parametrize(
    ("paragraph", "found"),
    [
        ("He came. She left! Did they?", ["He came.", "She left!", "Did they?"]),
        ("Dr. Smith met J. R. Jones in St. Louis. He left.", ["Dr. Smith met J. R. Jones in St. Louis.", "He left."]),
        ("The U.S. Army came, e.g. here. 12 men stayed.", ["The U.S. Army came, e.g. here.", "12 men stayed."]),
        ('"Is it?" He said "No." Then he left.', ['"Is it?"', 'He said "No."', "Then he left."]),
        ("It cost 3.5 pounds. it was dear", ["It cost 3.5 pounds. it was dear"]),
        ("Élan ended. Ünder it all.", ["Élan ended.", "Ünder it all."]),
        ("今日は。明日は！", ["今日は。", "明日は！"]),
        ("no end", ["no end"]),
        ("", []),
    ],
)
def test_sentences(paragraph: str, found: list[str]) -> None:
    assert sentences(paragraph) == found


def test_sentences_lose_nothing() -> None:
    text = 'A (b. 1900) said: "Go!" And went... Then? "What." (See p. 3.) Ends'
    assert " ".join(sentences(text)) == text


def test_a_file_of_mixed_encodings_names_the_place(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(b"fine\n" * 5000 + "naïve\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"t\.txt:5001: not UTF-8 \(byte 0xef after 'na'\)"):
        list(paragraphs(str(path)))


def test_a_broken_file_is_said(tmp_path: Path) -> None:
    whole = Path(write_text(tmp_path / "t.txt.xz", "some text\n" * 50_000))
    whole.write_bytes(whole.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"t\.txt\.xz: after line \d+"):
        list(paragraphs(str(whole)))
    with pytest.raises(DataError, match="No such file"):
        list(paragraphs(str(tmp_path / "absent.txt")))
