"""A BERT's student: it is what the words say, and where nothing is left out it is the teacher itself."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch.nn import functional
from transformers import (
    AlbertConfig,
    AlbertForPreTraining,
    AlbertModel,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
)

from tests.training.samples import recipe as finetune_recipe
from tests.training.samples import save_tokenizer, write_text
from training.__main__ import main
from training.errors import CheckpointError, DataError, RecipeError
from training.export import runner as export
from training.finetune import runner as finetune
from training.pretrain import shrink

TOKENS = 24


def write_bert(folder: Path, tokenizer: Path, layers: int = 2, *, alike: bool = False) -> Path:
    """A random BERT; `alike`: its layers are all the last one."""
    torch.manual_seed(0)
    words = AutoTokenizer.from_pretrained(tokenizer)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(words), hidden_size=32, num_hidden_layers=layers, num_attention_heads=4,
            intermediate_size=48, max_position_embeddings=TOKENS,
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        for layer in model.bert.encoder.layer if alike else ():
            layer.load_state_dict(model.bert.encoder.layer[-1].state_dict())
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture
def teacher(wordpiece: Path, tmp_path: Path) -> Path:
    return write_bert(tmp_path / "teacher", wordpiece)


def last_states(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        states: torch.Tensor = AutoModel.from_pretrained(folder).eval()(input_ids=ids).last_hidden_state
    return functional.layer_norm(states, (32,)).flatten(0, 1)


def test_where_nothing_is_left_out_it_is_nearly_the_teacher(corpus_file: str, tmp_path: Path) -> None:
    """Of a BERT whose layers are alike, at its full width: what is left is the LayerNorm's other place.

    Its vocabulary is fixed: one that is learned is another each time, and so would be the weights and the errors.
    """
    save_tokenizer(tmp_path / "tokenizer")
    teacher = write_bert(tmp_path / "teacher", tmp_path / "tokenizer", alike=True)
    full = shrink.run(str(teacher), tmp_path / "full", [corpus_file], embedding_size=32)
    narrow = shrink.run(str(teacher), tmp_path / "narrow", [corpus_file], embedding_size=8)
    assert full.embedding_error < 0.02 < 0.1 < narrow.embedding_error < 1
    assert min(full.hidden_errors.values()) < 0.05 < min(narrow.hidden_errors.values())
    assert full.hidden_errors["mean"] == pytest.approx(full.hidden_errors["1"], rel=1e-3)


def test_the_nearest_layer_is_taken(teacher: Path, corpus_file: str, tmp_path: Path) -> None:
    made = shrink.run(str(teacher), tmp_path / "made", [corpus_file], embedding_size=16, layers=3)
    assert made.hidden_errors.keys() == {"mean", "1", "2"}
    assert made.hidden_errors[made.layer] == min(made.hidden_errors.values())
    student, bert = AutoModel.from_pretrained(tmp_path / "made"), BertModel.from_pretrained(teacher)
    assert isinstance(student, AlbertModel)
    assert (student.config.num_hidden_layers, student.config.embedding_size) == (3, 16)
    assert made.parameters == sum(p.numel() for p in student.parameters())
    query = student.encoder.albert_layer_groups[0].albert_layers[0].attention.query.weight
    queries = {str(i): layer.attention.self.query.weight for i, layer in enumerate(bert.encoder.layer, start=1)}
    queries["mean"] = (queries["1"] + queries["2"]) / 2
    assert torch.equal(query, queries[made.layer])


def test_the_error_is_that_of_what_was_written(teacher: Path, corpus_file: str, tmp_path: Path) -> None:
    made = shrink.run(str(teacher), tmp_path / "made", [corpus_file], embedding_size=16)
    known = AutoTokenizer.from_pretrained(tmp_path / "made")
    words = AutoTokenizer.from_pretrained(teacher)
    assert (type(known), known.get_vocab()) == (type(words), words.get_vocab())
    text = [line for line in Path(corpus_file).read_text().splitlines() if line][:40]
    ids = known(text, truncation=True, max_length=TOKENS, return_tensors="pt", padding=True).input_ids
    ids = ids[(ids != known.pad_token_id).all(dim=1)]
    found, wanted = (last_states(folder, ids) for folder in (tmp_path / "made", teacher))
    error = (found - wanted).square().sum() / (wanted - wanted.mean(dim=0)).square().sum()
    assert float(error) == pytest.approx(made.hidden_errors[made.layer], rel=0.3)  # on other rows of the same text


def test_an_albert_with_a_berts_tokenizer_is_served(
    teacher: Path, corpus_file: str, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made"
    assert main(["shrink", str(teacher), str(made), corpus_file, "--embedding-size", "16"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["layer"] in ("mean", "1", "2")
    data = str(data_dir / "sst2.tsv")
    finetune.run(finetune_recipe(made, tmp_path / "tuned", data, epochs=1.0, max_length=TOKENS))
    manifest = export.run(export.Request(tmp_path / "tuned" / "final", tmp_path / "models" / "tiny", ("fp32",)))
    assert manifest.architecture == "albert"
    served = json.loads((tmp_path / "models" / "tiny" / "tokenizer.json").read_text())
    assert served["model"]["type"] == "WordPiece"


@pytest.mark.parametrize("raised", [OSError(28, "No space left on device"), SafetensorError("no"), KeyboardInterrupt()])
def test_what_cannot_be_written_leaves_nothing(
    teacher: Path, corpus_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException
) -> None:
    def fail(model: object, folder: Path) -> None:
        folder.mkdir()
        (folder / "half").write_text("half")
        raise raised

    monkeypatch.setattr(AlbertForPreTraining, "save_pretrained", fail)
    with pytest.raises(KeyboardInterrupt if isinstance(raised, KeyboardInterrupt) else CheckpointError):
        shrink.run(str(teacher), tmp_path / "made", [corpus_file], embedding_size=16)
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


def test_what_it_refuses(teacher: Path, wordpiece: Path, corpus_file: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="teacher exists: it will not be replaced"):
        shrink.run(str(teacher), teacher, [corpus_file])
    with pytest.raises(RecipeError, match="embedding_size is 2 to the teacher's hidden size 32, not 33"):
        shrink.run(str(teacher), tmp_path / "made", [corpus_file], embedding_size=33)
    with pytest.raises(DataError, match="too little text: 1 documents"):
        shrink.run(
            str(teacher), tmp_path / "made", [write_text(tmp_path / "t.txt", "The fox. " * 40)], embedding_size=16
        )
    AlbertModel(AlbertConfig(vocab_size=99, hidden_size=32, num_attention_heads=4)).save_pretrained(tmp_path / "albert")
    with pytest.raises(CheckpointError, match="is of family 'albert': an ALBERT is made of a 'bert'"):
        shrink.run(str(tmp_path / "albert"), tmp_path / "made", [corpus_file], embedding_size=16)
    assert not (tmp_path / "made").exists()
