"""Each family the whole way: fine-tuned, exported through the gate, opened and asked as the service does it."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import transformers

from service.engine.batch import pad
from service.engine.session import OrtEngine
from service.engine.tokenizer import Tokenizer
from service.repository import bundle as bundles
from service.repository.manifest import TOKENIZER
from service.repository.opening import open_engine
from service.tasks import build
from tests.training import mixed_script
from tests.training.samples import make_model, recipe
from training.checkpoints import families
from training.checkpoints.source import Source
from training.evaluate import runner as evaluate
from training.evaluate.engine import TorchEngine
from training.export import graph
from training.export import runner as export
from training.export.runner import Request
from training.finetune import runner as finetune
from training.tokenizers.loading import load_tokenizer

LINES = mixed_script.lines(300, seed=5)


@dataclass(frozen=True)
class Family:
    """What a test of a family is made of: its class of models, its tokenizer, the task that it learns."""

    model: str
    vocabulary: str
    task: str
    data: str
    sizes: dict[str, Any]


_AS_V3: dict[str, Any] = {
    "relative_attention": True, "position_biased_input": False, "pos_att_type": "p2c|c2p", "share_att_key": True,
    "norm_rel_ebd": "layer_norm", "position_buckets": 16,
}  # fmt: skip
_AS_V2 = _AS_V3 | {
    "embedding_size": 16,
    "conv_kernel_size": 3,
    "conv_act": "gelu",
    "share_att_key": False,
    "type_vocab_size": 1,
}
_AS_ROBERTA = {"type_vocab_size": 1, "pad_token_id": 1, "max_position_embeddings": 82}
_MODERN = {
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "cls_token_id": 2,
    "sep_token_id": 3,
    "local_attention": 16,
}
_BART = {
    "pad_token_id": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "decoder_layers": 2, "decoder_attention_heads": 4,
    "init_std": 0.1,
}  # fmt: skip
FAMILIES = {
    "albert": Family("Albert", "albert", "span", "squad-v1.json", {"embedding_size": 16, "num_hidden_layers": 3}),
    "bert": Family("Bert", "bert", "classification", "sst2.tsv", {}),
    "bert-cased": Family("Bert", "bert-cased", "multiple_choice", "race.jsonl", {}),
    "roberta": Family("Roberta", "roberta", "classification", "sst2.tsv", _AS_ROBERTA),
    "electra": Family("Electra", "bert", "classification", "sst2.tsv", {"embedding_size": 16}),
    "spanbert": Family("Bert", "bert-cased", "span", "squad-v2.json", {}),
    "distilbert": Family("DistilBert", "bert", "classification", "sst2.tsv", {"hidden_dim": 64}),
    "distilbert-cased": Family("DistilBert", "bert-cased", "span", "squad-v1.json", {"hidden_dim": 64}),
    "xlm-roberta": Family("XLMRoberta", "xlm-roberta", "span", "squad-v2.json", _AS_ROBERTA),
    "camembert": Family("Camembert", "camembert", "classification", "sst2.tsv", _AS_ROBERTA),
    "modernbert": Family("ModernBert", "modernbert", "span", "squad-v2.json", _MODERN),
    "modernbert-mean": Family(
        "ModernBert", "modernbert", "classification", "sst2.tsv", _MODERN | {"classifier_pooling": "mean"}
    ),
    "modernbert-choice": Family("ModernBert", "modernbert", "multiple_choice", "race.jsonl", _MODERN),
    "bart": Family("Bart", "bart", "classification", "sst2.tsv", _BART),
    "bart-span": Family("Bart", "bart", "span", "squad-v1.json", _BART),
    "mpnet": Family("MPNet", "mpnet", "span", "squad-v1.json", {"pad_token_id": 1, "max_position_embeddings": 82}),
    "deberta-v2": Family("DebertaV2", "deberta-v2", "classification", "sst2.tsv", _AS_V2),
    "deberta-v3": Family("DebertaV2", "deberta-v2", "span", "squad-v2.json", _AS_V3),
    "deberta-v3-choice": Family("DebertaV2", "deberta-v2", "multiple_choice", "race.jsonl", _AS_V3),
}  # fmt: skip
"""SpanBERT is a cased BERT that was trained otherwise."""


@pytest.mark.parametrize("name", FAMILIES)
def test_the_whole_way(name: str, vocabularies: dict[str, Path], data_dir: Path, tmp_path: Path) -> None:
    family = FAMILIES[name]
    encoder = tmp_path / "encoder"
    shutil.copytree(vocabularies[family.vocabulary], encoder)
    backend = load_tokenizer(encoder)
    make_model(family=family.model, vocab_size=backend.get_vocab_size(), **family.sizes).save_pretrained(encoder)
    data = str(data_dir / family.data)
    epochs = 40.0 if family.task == "multiple_choice" else 25.0  # one question of four is 25 points to the gate
    finetune.run(recipe(encoder, tmp_path / "run", data, task=family.task, epochs=epochs, max_length=64, doc_stride=16))
    final = tmp_path / "run" / "final"
    assert load_tokenizer(final).to_str() == backend.to_str()

    output = tmp_path / "models" / name
    manifest = export.run(Request(final, output))
    architecture = getattr(transformers, f"{family.model}Config").model_type
    assert (manifest.architecture, manifest.task) == (architecture, family.task)
    bundle = bundles.load(output)
    tokenizer = Tokenizer.from_file(output / TOKENIZER)
    before = Tokenizer(backend)
    for ours, trained in zip(tokenizer(LINES), before(LINES), strict=True):
        assert ours.ids.tolist() == trained.ids.tolist()
        assert ours.offsets.tolist() == trained.offsets.tolist()

    # As it is served: the same scores as at export, through int8.
    engine, served = open_engine(bundle, device="cpu", workers=1, intra_op_threads=1, cores=1)
    assert served.precision == "int8"
    found, _ = evaluate.bundle(bundle, data, device="cpu")
    exported = served.scores[f"{data_dir.name}/{family.data}"]
    assert {key: found[key] for key in exported} == exported

    # And fp32 gives what torch does, on rows that the task makes.
    model, _ = export.load_model(Source(final))
    task = build(bundle.manifest, tokenizer)
    examples = evaluate.read(task, data, layout=manifest.layout)
    batch = pad([row for rows in task.encode([e.example for e in examples]) for row in rows], tokenizer.pad_id)  # type: ignore[arg-type, union-attr]
    path = output / "model.fp32.onnx"
    fp32 = OrtEngine(path, provider="cpu", precision="fp32", workers=1, intra_op_threads=1)
    read = batch.attention_mask == 1 if family.task == "span" else ...
    for ours, torchs, int8 in zip(fp32.run(batch), TorchEngine(model).run(batch), engine.run(batch), strict=True):
        assert ours.shape == torchs.shape == int8.shape
        assert np.abs(ours - torchs)[read].max() < 1e-4
        assert torchs[read].std() > 0.1  # worth comparing
    proto = onnx.load(path, load_external_data=False)
    assert graph.fused_attention_count(proto) == families.of(model.config).attentions(model.config)
