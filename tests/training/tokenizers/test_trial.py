"""Offsets are tried when a tokenizer is opened: they hold, are mended, or the tokenizer is refused."""

import json
import shutil
from pathlib import Path

import pytest
import tokenizers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from service.engine.tokenizer import Tokenizer
from tests.bundles import make_tokenizer
from tests.training.samples import save_tokenizer
from tests.training.vocabularies import KINDS
from training.errors import CheckpointError
from training.tokenizers import trial
from training.tokenizers.loading import load_tokenizer, open_tokenizer

TEXT = "I saw Rotterdam, a city"
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def split_at_spaces(folder: Path, *, trim: bool = True) -> Path:
    """A tokenizer as RobBERT-2023's: words, then bytes, a space put before each word and taken off its offsets."""
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=True, trim_offsets=True)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator(["Rotterdam is a city in the Netherlands I a"] * 20, trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=trim)
    PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", cls_token="<s>", sep_token="</s>",
        mask_token="<mask>",
    ).save_pretrained(folder)  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    return folder


def words(tokenizer: Tokenizer, text: str) -> list[str]:
    (tokens,) = tokenizer([text])
    return [text[start:end] for start, end in tokens.offsets.tolist()]


def test_offsets_that_leave_letters_out_are_mended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing is done, answers are "otterdam" and ""."""
    folder = split_at_spaces(tmp_path / "t")
    before = load_tokenizer(folder)
    assert "otterdam" in words(Tokenizer(before), TEXT)
    found = trial.faults(load_tokenizer(folder))
    assert "'Ġcity' is placed at 'ity'" in found
    assert any(fault.startswith("no token is placed at 'a' in ") for fault in found)

    opened = open_tokenizer(folder, 1000, tmp_path / "tokenizer.json")
    assert "the tokenizer's offsets leave letters out (" in caplog.text
    assert "): they are not trimmed any more" in caplog.text
    for tokenizer in (opened, Tokenizer.from_file(tmp_path / "tokenizer.json"), open_tokenizer(folder, 1000)):
        placed = words(tokenizer, TEXT)
        assert {"I", "Rotterdam", ",", "a", "city"} <= set(placed)
        assert "" not in placed
        assert tokenizer.ids([TEXT])[0].tolist() == before.encode(TEXT, add_special_tokens=False).ids


def test_offsets_that_hold_are_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = split_at_spaces(tmp_path / "t", trim=False)
    assert trial.faults(load_tokenizer(folder)) == []
    open_tokenizer(folder, 1000)
    assert not caplog.records


@pytest.mark.parametrize("kind", KINDS)
def test_each_family_stands_the_trial(kind: str, vocabularies: dict[str, Path]) -> None:
    backend = load_tokenizer(vocabularies[kind])
    assert trial.faults(backend) == []
    assert trial.capitals_lost(backend) < trial.FEWEST_CAPITALS
    sentencepiece = dict.fromkeys(("albert", "xlm-roberta", "camembert"), "<unk>")
    unknown = (sentencepiece | dict.fromkeys(("roberta", "modernbert"))).get(
        kind, "[UNK]"
    )  # there every byte is a piece
    assert trial.unknown_id(backend) == (unknown and backend.token_to_id(unknown))


def test_a_part_that_trims_is_found_wherever_it_is(vocabularies: dict[str, Path]) -> None:
    backend = load_tokenizer(vocabularies["roberta"])
    mended = trial.untrimmed(backend)
    assert mended is not None
    assert trial.untrimmed(mended) is None
    backend.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=True), processors.TemplateProcessing(single="$A", special_tokens=[])]
    )
    mended = trial.untrimmed(backend)
    assert mended is not None
    assert trial.untrimmed(mended) is None


def test_offsets_that_cannot_be_mended_are_refused(tmp_path: Path) -> None:
    """A token spells what its text does not have."""
    backend = make_tokenizer()
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace("r", "l")])
    save_tokenizer(tmp_path, backend)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match=r"offsets are not where its tokens stand .*is placed at.*would be cut"):
        open_tokenizer(tmp_path, 100_000)


def test_an_added_token_is_no_fault(vocabularies: dict[str, Path]) -> None:
    backend = load_tokenizer(vocabularies["bert"])
    backend.add_tokens([AddedToken("Rotterdam"), AddedToken(" city", normalized=False)])
    assert trial.faults(backend) == []


def test_an_uncased_vocabulary_that_is_not_lower_cased_is_told(
    vocabularies: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("vocab.txt", "config.json"):
        shutil.copyfile(vocabularies["bert"] / name, tmp_path / name)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    open_tokenizer(tmp_path, 5000)
    assert not caplog.records
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    open_tokenizer(tmp_path, 5000)
    assert "of 26 capital letters are unknown to the tokenizer, and the small ones are not" in caplog.text
    assert 'say "do_lower_case": true in tokenizer_config.json' in caplog.text
