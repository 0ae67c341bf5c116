"""The texts that are posted."""

import json
import lzma
import statistics
from pathlib import Path

import pytest

from bench import rows
from bench.errors import BenchError


def test_the_bundled_sentences_are_as_long_as_real_ones() -> None:
    sentences = rows.sentences()
    lengths = [len(sentence.split()) for sentence in sentences]
    assert len(set(sentences)) == len(sentences) >= 200
    assert 17 <= statistics.mean(lengths) <= 21
    assert min(lengths) <= 2
    assert max(lengths) >= 40


def test_sst2s_own_layout(tmp_path: Path) -> None:
    path = tmp_path / "dev.tsv.xz"
    path.write_bytes(lzma.compress(b"sentence\tlabel\nit 's \"great\t1\nso-so\t0\n"))
    assert rows.sentences(path) == ["it 's \"great", "so-so"]


def test_questions_are_spread_over_the_file(tmp_path: Path) -> None:
    paragraph = {"context": "C", "qas": [{"question": f"q{i}"} for i in range(10)]}
    path = tmp_path / "dev.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    assert rows.questions(path, 5) == [(f"q{i}", "C") for i in (0, 2, 4, 6, 8)]
    assert len(rows.questions(path, 100)) == 10


@pytest.mark.parametrize("content", ["[]", "{}", "no json", '{"data": []}'])
def test_what_is_not_squad_is_told(content: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(BenchError, match=r"x\.json"):
        rows.questions(path, 5)


def test_an_empty_or_absent_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "x.tsv").write_text("text\nhello\n")
    for name in ("empty.txt", "absent.txt", "x.tsv"):
        with pytest.raises(BenchError, match=name):
            rows.sentences(tmp_path / name)
