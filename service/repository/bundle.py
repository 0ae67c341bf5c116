"""A bundle on disk: its manifest, its files and their hashes.

Owns the manifest's format, for reading (here) and writing (`training.export`). Knows nothing of sessions or tasks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from service.errors import BundleError
from service.repository.files import sha256
from service.tasks.spec import TaskSpec

FORMAT = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
WEIGHTS = "weights.bin"
"""The tensors of the graphs, each once, where they are not in the graphs themselves."""
TASKS = ("classification", "multiple_choice", "span")

Provider = Literal["cpu", "cuda"]
SUITS: Mapping[Provider, tuple[str, ...]] = {"cpu": ("int8", "fp32"), "cuda": ("fp16", "w8a16", "fp32")}
"""Precisions that a provider runs well, best first."""


@dataclass(frozen=True, slots=True)
class Graph:
    """One graph of a bundle.

    Attributes:
        file: its ONNX file.
        precision: `fp32`, `fp16`, `int8`, or `w8a16`: int8's weights, computed with in fp16.
        scores: dev scores of this very file, by data set ({"sst2": {"accuracy": 91.2, ...}}); those of the graph of
            its precision that is not packed, where it is.
        packed: whether it does no work on padding, with operators that CUDA alone has.
    """

    file: str
    precision: str
    scores: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    packed: bool = False


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far scores are from how often answers are right: expected calibration errors, in percent (Guo et al. 2017,
    arXiv 1706.04599, section 2).

    Attributes:
        data: the dev file that they were measured on.
        rows: answers of it that were looked at; where labels do not exclude one another, each label of each text.
        ece_before: error of the logits as they come.
        ece_after: error with the temperature: each half of the answers under the one fitted on the other half.
    """

    data: str
    rows: int
    ece_before: float
    ece_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest(TaskSpec):
    """What a bundle says of itself, its task among it.

    Attributes:
        format: version of this layout.
        name: the model's name in requests.
        architecture: the family, as in transformers' `model_type`.
        parameters: unique parameters of the model.
        graphs: the graphs, one a precision, or two: one of them packed.
        files: sha256 of every file of the bundle but the manifest, by name.
        calibration: how far that brought them; None where there was no dev file.
        base_model: what was fine-tuned.
        data: sha256 of each training and dev file, by name.
        layout: how those are laid out: `data` and what `table` has in a recipe. For `training evaluate`.
        licence: of the weights.
        versions: of the libraries that made it.
        created: date of the export, ISO 8601.
    """

    format: int
    name: str
    architecture: str
    parameters: int
    graphs: tuple[Graph, ...]
    files: Mapping[str, str]
    calibration: Calibration | None = None
    base_model: str = ""
    data: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    layout: Mapping[str, str] = dataclasses.field(default_factory=dict)
    licence: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    created: str = ""

    def to_json(self) -> str:
        """The manifest as the text of `manifest.json`."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked bundle.

    Attributes:
        folder: where it lies.
        manifest: what it says.
        version: first 12 digits of the manifest's sha256: since that holds every file's hash, it names the content.
    """

    folder: Path
    manifest: Manifest
    version: str

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    def graph_for(self, provider: Provider) -> Graph:
        """The graph that suits `provider` best: on CUDA, of two in one precision, the packed one.

        Raises:
            BundleError: it has none; the message says how to export one.
        """
        by_precision: dict[str, Graph] = {}
        for graph in sorted(self.manifest.graphs, key=lambda graph: graph.packed):
            if provider == "cuda" or not graph.packed:
                by_precision[graph.precision] = graph
        for precision in SUITS[provider]:
            if precision in by_precision:
                return by_precision[precision]
        raise BundleError(
            f"bundle {self.name!r} has {', '.join(by_precision)} and no graph for {provider} "
            f"({' or '.join(SUITS[provider])}); export one from its checkpoint: python -m training export CHECKPOINT "
            f"{self.folder} --precision {' --precision '.join([*by_precision, SUITS[provider][0]])}"
        )


def load(folder: Path) -> Bundle:
    """Reads and checks the bundle in `folder`: the manifest's fields, and the sha256 of every file it names.

    Raises:
        BundleError: names the bundle and what is wrong with it.
    """
    try:
        content = (folder / MANIFEST).read_bytes()
        manifest = _manifest(json.loads(content))
        for name, expected in manifest.files.items():
            if Path(name).name != name:
                raise ValueError(f"{name!r} is no plain file name")
            found = sha256(folder / name)
            if found != expected:
                raise ValueError(f"{name} has sha256 {found[:12]}…, the manifest says {expected[:12]}…: fetch it again")
        if (folder / WEIGHTS).exists() and WEIGHTS not in manifest.files:  # the graphs would read it unchecked
            raise ValueError(f"{MANIFEST} has no sha256 of {WEIGHTS}")
    except FileNotFoundError as error:
        raise BundleError(f"bundle {folder.name!r}: {Path(error.filename).name} is missing") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BundleError(f"bundle {folder.name!r}: {error}") from error
    return Bundle(folder, manifest, hashlib.sha256(content).hexdigest()[:12])


def find(models_dir: Path, names: tuple[str, ...] = ()) -> list[Path]:
    """Folders of the bundles called `names`, or of all bundles in `models_dir`.

    Raises:
        BundleError: the folder holds no bundle, or not the one that is asked for.
    """
    if not models_dir.is_dir():
        raise BundleError(f"there is no folder {str(models_dir)!r} of models (BERTIE_MODELS_DIR)")
    found = {path.parent.name: path.parent for path in sorted(models_dir.glob(f"*/{MANIFEST}"))}
    for name in names:
        if name not in found:
            raise BundleError(
                f"there is no bundle {name!r} in {str(models_dir)!r}; it holds {', '.join(found) or 'none'}"
            )
    if not found:
        raise BundleError(f"there is no bundle in {str(models_dir)!r}: no folder of it has a {MANIFEST}")
    return [found[name] for name in names or found]


def _manifest(values: Any) -> Manifest:
    """Checks types and what hangs together; raises ValueError, TypeError or KeyError."""
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f"{MANIFEST} is not of format {FORMAT}; export the bundle again with this version")
    known = {field.name for field in dataclasses.fields(Manifest)}
    values = {key: value for key, value in values.items() if key in known}
    for key, kind in (("name", str), ("task", str), ("max_length", int), ("graphs", list), ("files", dict)):
        if not isinstance(values.get(key), kind):
            raise ValueError(f"{MANIFEST} has no {key!r} of type {kind.__name__}")
    values["graphs"] = tuple(
        Graph(str(g["file"]), str(g["precision"]), g.get("scores", {}), g.get("packed") is True)
        for g in values["graphs"]
    )
    values["labels"] = tuple(values.get("labels", ()))
    if values.get("calibration") is not None:
        values["calibration"] = Calibration(**values["calibration"])
    manifest = Manifest(**values)
    if manifest.task not in TASKS:
        raise ValueError(f"{MANIFEST} has the task {manifest.task!r}, which this version does not serve")
    if manifest.task == "classification" and len(manifest.labels) < 2:
        raise ValueError(f"{MANIFEST} has no labels")
    if not 0 < manifest.temperature < math.inf:
        raise ValueError(f"{MANIFEST} has the temperature {manifest.temperature}")
    for name in (TOKENIZER, *(graph.file for graph in manifest.graphs)):
        if name not in manifest.files:
            raise ValueError(f"{MANIFEST} has no sha256 of {name}")
    return manifest
