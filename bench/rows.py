"""The texts that are sent: sentences, or questions with their paragraphs. Owns the reading of such files."""

from __future__ import annotations

import csv
import io
import json
import lzma
from pathlib import Path
from typing import TypeVar

from bench.errors import BenchError

T = TypeVar("T")
SENTENCES = Path(__file__).with_name("sentences.txt")
"""Written for this: 228 of 1 to 47 words, 18 on average, as SST-2's dev set has them."""


def sentences(path: Path = SENTENCES) -> list[str]:
    """Read a sentence a line; of a `.tsv` the column `sentence`. `.xz` may follow.

    Raises:
        BenchError: the file cannot be read or holds none.
    """
    content = _read(path)
    if path.name.removesuffix(".xz").endswith(".tsv"):
        rows = csv.DictReader(io.StringIO(content), delimiter="\t", quoting=csv.QUOTE_NONE)
        if "sentence" not in (rows.fieldnames or ()):
            raise BenchError(f"{path} has no column 'sentence'")
        found = [row["sentence"] for row in rows]
    else:
        found = content.splitlines()
    return _some([text.strip() for text in found if text and text.strip()], path)


def questions(path: Path, limit: int) -> list[tuple[str, str]]:
    """Read (question, paragraph) of SQuAD's JSON: at most `limit`, spread over the file. `.xz` may follow.

    Raises:
        BenchError: the file cannot be read or is not SQuAD's.
    """
    try:
        found = [
            (str(qa["question"]), str(paragraph["context"]))
            for article in json.loads(_read(path))["data"]
            for paragraph in article["paragraphs"]
            for qa in paragraph["qas"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{path} is not of SQuAD's layout: {error}") from error
    found = _some(found, path)
    count = min(limit, len(found))
    return [found[i * len(found) // count] for i in range(count)]


def paragraphs(count: int) -> list[tuple[str, str]]:
    """Make (question, paragraph) where there is no file of them: eight bundled sentences each."""
    found = sentences()
    return [("What is the film about?", " ".join(found[8 * i % len(found) :][:8])) for i in range(count)]


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
        return (lzma.decompress(content) if path.suffix == ".xz" else content).decode()
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise BenchError(f"{path}: {error}") from error


def _some(found: list[T], path: Path) -> list[T]:
    if not found:
        raise BenchError(f"{path} holds none")
    return found
