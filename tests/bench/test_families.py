"""The table of families: the whole program on tiny shapes, and what it says of a name that is none."""

import json
import lzma
from pathlib import Path

import pytest

from bench import families
from tests.bench.compare.shapes import run_here
from tests.training.samples import SENTENCES
from training.checkpoints.families import FAMILIES


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "sst2"
    folder.mkdir(parents=True)
    rows = "".join(f"{text} {i}\t{label}\n" for i in range(20) for text, label in SENTENCES)
    for split in ("train", "dev"):
        with lzma.open(folder / f"{split}.tsv.xz", "wt", encoding="utf-8") as file:
            file.write(f"sentence\tlabel\n{rows}")
    return tmp_path / "data"


def test_a_line_a_family(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(monkeypatch)
    page = tmp_path / "families.md"
    page.write_text("before\n<!-- families: families -->\n<!-- /families -->\nafter\n")
    arguments = ["--quick", "--family", "mpnet", "--data", str(data), "--lines", "50", "--fill", str(page)]
    assert families.main(arguments) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["mpnet"]
    assert found["lines"] == 50
    assert 0 < found["parity"] < 1e-4
    assert set(found["rates"]) == {"fp32", "int8"}
    assert found["int8_over_fp32"] > 0
    assert found["points"] == pytest.approx(found["accuracy"]["int8"] - found["accuracy"]["fp32"])
    assert found["accuracy"]["fp32"] > 50
    written = page.read_text()
    assert "| mpnet | yes | " in written
    assert "50 of 50" in written


def test_every_family_is_measured() -> None:
    import transformers

    measured = {getattr(transformers, f"{family.model}Config").model_type for family in families.FAMILIES.values()}
    assert measured == set(FAMILIES)


def test_an_unknown_family_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert families.main(["--family", "mpnot"]) == 1
    assert "'mpnot' is none of" in capsys.readouterr().err
