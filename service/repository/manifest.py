"""A bundle's manifest: its format, for reading (`bundle`) and writing (`training`)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from service.drift import Profile
from service.engine.session import Provider
from service.repository.files import MANIFEST as MANIFEST
from service.tasks import TaskSpec

FORMAT = 1
TOKENIZER = "tokenizer.json"
WEIGHTS = "weights.bin"
"""The tensors of the graphs, each once, where they are not in the graphs themselves."""

SUITS: Mapping[Provider, tuple[str, ...]] = {"cpu": ("int8", "fp32"), "cuda": ("fp16", "w8a16", "fp32")}
"""Precisions that a provider runs well, best first."""


def _printable(value: str) -> str:
    if not value.isprintable() or "/" in value:
        raise ValueError("it must be of printable characters, without '/'")
    return value


Name = Annotated[str, StringConstraints(min_length=1, max_length=100), AfterValidator(_printable)]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True, config={"extra": "ignore"})
class Graph:
    """One graph of a bundle.

    Attributes:
        file: its ONNX file.
        precision: `fp32`, `fp16`, `int8`, or `w8a16`: int8's weights, computed with in fp16.
        scores: dev scores of this very file, by data set ({"sst2": {"accuracy": 91.2, ...}}); those of the graph of
            its precision that is not packed, where it is.
        packed: whether it does no work on padding, with operators that CUDA alone has.
    """

    file: FileName
    precision: str
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    packed: bool = False


@dataclass(frozen=True, slots=True, config={"extra": "ignore"})
class Calibration:
    """How far scores are from how often answers are right (expected calibration error), in percent.

    After Guo et al. 2017, arXiv 1706.04599, section 2. Where labels do not exclude one another, each label of each text
    counts as an answer.
    """

    data: Annotated[str, Field(description="The dev file.")]
    rows: int
    ece_before: Annotated[float, Field(description="With the logits as they come.")]
    ece_after: Annotated[float, Field(description="With the temperature, each half under the one fitted on the other.")]


@dataclass(frozen=True, kw_only=True, slots=True, config={"extra": "ignore"})
class Manifest(TaskSpec):
    """What a bundle says of itself: its task, and

    Attributes:
        format: version of this layout.
        name: the model's name in requests.
        architecture: the family, as in transformers' `model_type`.
        parameters: unique parameters of the model.
        graphs: the graphs, one a precision, or two: one of them packed.
        files: sha256 of every file of the bundle but the manifest, by name.
        calibration: of the scores; None where there was no dev file.
        markers: special tokens that are what they are where they stand in a text, as the model has learned them
            ("[E1]"); every other ("[SEP]") is plain text there.
        checkpoint: what was exported, "NAME@COMMIT" of a repository on a hub; empty for a folder.
        profile: of the dev files' inputs and answers, to tell drift by; None where there was none.
        base_model: what was fine-tuned.
        data: sha256 of each training and dev file, by name.
        layout: how those are laid out: `data` and what `table` has in a recipe. For `training evaluate`.
        licence: of the weights.
        versions: of the libraries that made it.
        created: date of the export, ISO 8601.
    """

    format: int
    name: Name
    architecture: Name
    parameters: Annotated[int, Field(ge=0)]
    graphs: Annotated[tuple[Graph, ...], Field(min_length=1)]
    files: dict[FileName, Sha256]
    calibration: Calibration | None = None
    markers: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    checkpoint: str = ""
    profile: Profile | None = None
    base_model: str = ""
    data: dict[str, str | None] = field(default_factory=dict)
    layout: dict[str, str] = field(default_factory=dict)
    licence: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    created: str = ""

    def to_json(self) -> str:
        """Write the manifest as the text of `manifest.json`."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"


_ADAPTER = TypeAdapter(Manifest)


def parse(content: bytes) -> Manifest:
    """Read a manifest from the bytes of `manifest.json`.

    Raises:
        ValueError: it is none, or a field of it is wrong; one line says which.
    """
    values: Any = json.loads(content)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f"{MANIFEST} is not of format {FORMAT}; export the bundle again with this version")
    try:
        manifest = _ADAPTER.validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{MANIFEST}: {place.encode('unicode_escape').decode() or 'it'}: {first['msg']}"[:300]
        ) from None
    for name in (TOKENIZER, *(graph.file for graph in manifest.graphs)):
        if name not in manifest.files:
            raise ValueError(f"{MANIFEST} has no sha256 of {name}")
    return manifest
