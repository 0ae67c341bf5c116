"""What the training tests share: one thread, a tiny encoder, models trained once, and tokenizers learned once."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is loaded: spinning threads starve one another

from pathlib import Path

import pytest
import torch

from tests.training import vocabularies as kinds
from tests.training.pretrain.materials import write_corpus
from tests.training.samples import recipe, save_checkpoint, write_race, write_squad, write_sst2
from training.checkpoints import precision
from training.export import runner as export
from training.finetune import runner as finetune
from training.tokenizers import pieces

torch.set_num_threads(1)
precision.WORTH = 0.0  # what a test has in bf16 is so on every processor


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT encoder without a head. Read-only by convention."""
    return save_checkpoint(tmp_path_factory.mktemp("encoder") / "tiny-bert")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sst2.tsv, squad-v1.json, squad-v2.json, race.jsonl. Read-only by convention."""
    folder = tmp_path_factory.mktemp("data")
    write_sst2(folder / "sst2.tsv")
    write_squad(folder / "squad-v1.json")
    write_squad(folder / "squad-v2.json", unanswerable=True)
    write_race(folder / "race.jsonl")
    return folder


@pytest.fixture(scope="session")
def sentiment_run(encoder: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run that fits the sentences. Read-only by convention."""
    output = tmp_path_factory.mktemp("runs") / "sentiment"
    finetune.run(recipe(encoder, output, str(data_dir / "sst2.tsv")))
    return output


@pytest.fixture(scope="session")
def qa_run(encoder: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run that fits the questions, unanswerable ones among them. Read-only by convention."""
    output = tmp_path_factory.mktemp("runs") / "qa"
    finetune.run(recipe(encoder, output, str(data_dir / "squad-v2.json"), task="span", epochs=60.0))
    return output


@pytest.fixture(scope="session")
def race_run(encoder: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run that fits the questions with options. Read-only by convention."""
    output = tmp_path_factory.mktemp("runs") / "race"
    finetune.run(recipe(encoder, output, str(data_dir / "race.jsonl"), task="multiple_choice", epochs=40.0))
    return output


@pytest.fixture(scope="session")
def trained_models(sentiment_run: Path, qa_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundles `sentiment` and `qa` of those runs. Read-only by convention."""
    folder = tmp_path_factory.mktemp("trained")
    for name, run in (("sentiment", sentiment_run), ("qa", qa_run)):
        export.run(export.Request(run / "final", folder / name))
    return folder


@pytest.fixture(scope="session")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tokenizer's folder of each kind in `tests.training.vocabularies`. Read-only by convention."""
    return kinds.make(tmp_path_factory.mktemp("vocabularies"))


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """30 documents. Read-only by convention."""
    return write_corpus(tmp_path_factory.mktemp("corpus") / "c.txt")


@pytest.fixture(scope="session")
def wordpiece(corpus_file: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WordPiece tokenizer's folder. Read-only by convention."""
    folder = tmp_path_factory.mktemp("wordpiece") / "tokenizer"
    pieces.learn(folder, [corpus_file], kind="wordpiece", size=120)
    return folder


@pytest.fixture(scope="session")
def sentencepiece(corpus_file: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece tokenizer's folder. Read-only by convention."""
    folder = tmp_path_factory.mktemp("sentencepiece") / "tokenizer"
    pieces.learn(folder, [corpus_file], kind="sentencepiece", size=45)
    return folder


@pytest.fixture(scope="session")
def bytebpe(corpus_file: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE tokenizer's folder. Read-only by convention."""
    folder = tmp_path_factory.mktemp("bytebpe") / "tokenizer"
    pieces.learn(folder, [corpus_file], kind="bytebpe", size=320)
    return folder
