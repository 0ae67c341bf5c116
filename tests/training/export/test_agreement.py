"""A tokenizer and a model that disagree: refused or told with both numbers, never passed over."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from tokenizers.normalizers import BertNormalizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from service import load
from tests.bundles import make_tokenizer
from tests.training.samples import save_checkpoint, save_tokenizer
from training.errors import CheckpointError
from training.export import agreement, check
from training.export import runner as export
from training.export.runner import Request

LABELS = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}


def classifier(folder: Path, family: str = "Bert", **changes: Any) -> Path:
    return save_checkpoint(folder, "ForSequenceClassification", family, **(LABELS | changes))


def run(folder: Path, **changes: Any) -> Any:
    return export.run(Request(folder, folder.parent / "models" / "m", ("fp32",), without_dev=True, **changes))


def settings(folder: Path, **changes: Any) -> Path:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_a_tokenizer_that_cuts_on_the_left_is_refused_where_texts_are_cut(tmp_path: Path) -> None:
    folder = settings(classifier(tmp_path / "c"), truncation_side="left")
    with pytest.raises(CheckpointError, match=r'cuts long texts on the left .* "truncation_side": "right"'):
        run(folder)
    assert not list((tmp_path).glob("models/*"))
    assert run(settings(folder, truncation_side="right")).max_length == 80


def test_tokenizer_json_may_say_the_side(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "c")
    backend = make_tokenizer()
    backend.enable_truncation(40, direction="left")
    backend.save(str(folder / "tokenizer.json"))
    settings(folder, truncation_side=None)
    with pytest.raises(CheckpointError, match="on the left"):
        agreement.check_side(folder, windows=False)


def test_windows_cut_nothing(tmp_path: Path) -> None:
    folder = settings(save_checkpoint(tmp_path / "c", "ForQuestionAnswering"), truncation_side="left")
    assert run(folder, doc_stride=16).task == "span"


def test_a_row_that_is_shorter_than_the_model_s_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = classifier(tmp_path / "c", max_position_embeddings=512)
    assert run(folder).max_length == 384
    assert "texts are cut at 384 tokens, of the model's 512; --max-length 512 serves all" in caplog.text
    caplog.clear()
    assert run(folder, max_length=512).max_length == 512
    assert run(folder, max_length=128).max_length == 128  # as they said
    assert "are cut at" not in caplog.text


def test_other_special_ids_are_told_with_both_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(classifier(tmp_path / "c", pad_token_id=4, bos_token_id=7, eos_token_id=3))
    assert "its config says pad_token_id 4, its tokenizer uses 0" in caplog.text
    assert "its config says bos_token_id 7, its tokenizer uses 2" in caplog.text
    assert "eos_token_id" not in caplog.text


def test_a_padding_id_that_positions_go_by_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Their count begins after the config's; the gate holds the graph to torch."""
    run(classifier(tmp_path / "c", "Roberta", pad_token_id=1))
    assert "its config says pad_token_id 1, its tokenizer uses 0" in caplog.text


def marked(folder: Path, *markers: str) -> Path:
    """A checkpoint with special tokens of its own, its embedding resized, as R-BERT's is."""
    backend = make_tokenizer()
    backend.add_special_tokens([AddedToken(marker, special=True) for marker in markers])
    classifier(folder, vocab_size=backend.get_vocab_size())
    save_tokenizer(folder, backend)
    return folder


def test_markers_of_a_checkpoint_s_own_are_in_the_manifest(tmp_path: Path) -> None:
    folder = marked(tmp_path / "c", "[E1]", "[/E1]", "[PAD]")
    assert run(folder).markers == ("[E1]", "[/E1]")
    card = (tmp_path / "models" / "m" / "README.md").read_text()
    assert "- markers, which are no plain text where they stand in a text: `[E1]`, `[/E1]`" in card
    assert check.run(folder).facts["markers"] == "[E1], [/E1]: no plain text where they stand in a text"
    assert run(folder, markers=("[/E1]",)).markers == ("[/E1]",)
    assert run(folder, markers=()).markers == ()
    for wrong in ("[SEP]", "[PAD]", "E1"):
        with pytest.raises(
            CheckpointError, match=r"cannot be a marker: the tokenizer's own special tokens are \[E1\], "
        ):
            run(folder, markers=(wrong,))
    with pytest.raises(CheckpointError, match=r"\[E1\] cannot be a marker: it has none of its own"):
        run(classifier(tmp_path / "plain"), markers=("[E1]",))


def test_a_bundle_answers_to_its_markers(tmp_path: Path) -> None:
    """As torch does to transformers' rows, in a process and as it is scored; and not to another special token."""
    folder = marked(tmp_path / "c", "[E1]", "[/E1]")
    run(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    theirs = AutoTokenizer.from_pretrained(folder)
    ask = load(tmp_path / "models" / "m")
    scores = {}
    for text in ("a good [E1]film[/E1] , [E1] ada [/E1]", "a good film , ada", "a good [SEP] film"):
        rows = theirs(text, return_tensors="pt", split_special_tokens="[E1]" not in text)
        expected = model(**rows).logits.softmax(-1)[0].tolist()
        scores[text] = {each["label"]: each["score"] for each in ask(text, top_k=None)}
        assert [scores[text][label] for label in ("negative", "positive")] == pytest.approx(expected, abs=1e-4)
    assert len({round(found["positive"], 6) for found in scores.values()}) == 3


def test_ids_beyond_the_embedding_are_refused_with_both_numbers(tmp_path: Path) -> None:
    size = make_tokenizer().get_vocab_size()
    folder = classifier(tmp_path / "c", vocab_size=size - 3)
    with pytest.raises(CheckpointError, match=rf"ids up to {size - 1}, the embedding {size - 3} rows: is it another"):
        run(folder)


def test_capitals_that_the_vocabulary_lacks_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend = make_tokenizer()
    backend.normalizer = BertNormalizer(lowercase=False)
    folder = classifier(tmp_path / "c")
    save_tokenizer(folder, backend)
    run(folder)
    assert "0 of " in caplog.text
    assert 'pieces have capitals, and its tokenizer keeps those of a text: each becomes [UNK]. Say "do_' in caplog.text
    caplog.clear()
    run(classifier(tmp_path / "lower"))
    assert "capitals" not in caplog.text
