"""What a run of scoring is: its settings, its input's files, its parts, and the columns of its output.

Owns `_score.json`, which makes a run one that can go on: who starts it again must mean the same.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from service.inprocess.model import Model
from service.scoring.answers import Layout, Type, layout
from service.scoring.errors import ScoringError
from service.scoring.fields import Fields, choose
from service.scoring.readers import Reader, Start, format_of, open_reader
from service.scoring.storage import File
from service.scoring.writers import CsvWriter, JsonLinesWriter, ParquetWriter, Writer

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides over a run's output.

    Attributes:
        input: file, folder or glob.
        model, model_digest: the bundle's name, and the sha256 of its manifest: that names its content.
        device: where it runs.
        columns: of fields whose names differ.
        options: fields that are the same in every row.
        keep: columns of the input that the output has; None for all.
        prefix: of the answers' columns.
        format: of the output; None for the input's.
        delimiter: of CSV; None for what the file's name says.
        part_rows: of an output file.
        max_characters: of a row's texts; a longer row is rejected.
    """

    input: str
    model: str
    model_digest: str
    device: str = "auto"
    columns: dict[str, str]
    options: dict[str, Any]
    keep: list[str] | None = None
    prefix: str = ""
    format: str | None = None
    delimiter: str | None = None
    part_rows: int = 20_000
    max_characters: int = 200_000


@dataclass(frozen=True)
class Part:
    """Some rows of a file, and the one output file that they become.

    Attributes:
        number: its place in the order of the input.
        file: index of its file.
        start: which rows of that.
    """

    number: int
    file: int
    start: Start

    @property
    def name(self) -> str:
        """What its files' names have in common."""
        return f"{self.number:05}"


@dataclass(frozen=True)
class Plan:
    """A run.

    Attributes:
        settings: what was asked for.
        files: of the input.
        parts: of the output, in the input's order.
        format: of the output.
        present: columns of the input.
        schema: the kept columns, with their types, where the output is Parquet.
    """

    settings: Settings
    files: list[File]
    parts: list[Part]
    format: str
    present: list[str]
    schema: pa.Schema | None = None

    @property
    def rows(self) -> int:
        """Rows of the input."""
        return sum(part.start.rows for part in self.parts)

    @property
    def kept(self) -> list[str]:
        """The columns that are kept."""
        return self.present if self.settings.keep is None else self.settings.keep

    def fields(self, model: Model) -> Fields:
        """Get what is the model's input. Raises ScoringError."""
        return choose(model, self.present, self.settings.columns, self.settings.options)

    def reader(self, part: Part) -> Reader:
        """Open the file of a part."""
        return open_reader(self.files[part.file], self.settings.delimiter)

    def writer(self, path: Path, answers: Layout) -> Writer:
        """Begin an output file at `path`."""
        columns = named(answers, self.settings.prefix)
        every = self.settings.keep is None
        if self.format == "parquet":
            return ParquetWriter(path, self.schema, columns, every=every)
        if self.format == "csv":
            return CsvWriter(path, self.kept, columns, every=every, delimiter=self.settings.delimiter or ",")
        return JsonLinesWriter(path, self.settings.keep, columns)

    def to_json(self) -> bytes:
        """Write the plan as JSON."""
        schema = None if self.schema is None else base64.b64encode(self.schema.serialize().to_pybytes()).decode()
        parts = [[part.number, part.file, *asdict(part.start).values()] for part in self.parts]
        return json.dumps(
            {
                "version": VERSION,
                "settings": asdict(self.settings),
                "files": [asdict(file) for file in self.files],
                "format": self.format,
                "present": self.present,
                "schema": schema,
                "parts": parts,
            },
            ensure_ascii=False,
        ).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Plan:
        """Read a plan. Raises ValueError for what is none."""
        try:
            found = json.loads(content)
            if found["version"] != VERSION:
                raise ValueError(f"of version {found['version']}")
            schema = found["schema"] and pa.ipc.read_schema(pa.py_buffer(base64.b64decode(found["schema"])))
            return cls(
                Settings(**found["settings"]),
                [File(**each) for each in found["files"]],
                [Part(number, file, Start(*start)) for number, file, *start in found["parts"]],
                found["format"],
                found["present"],
                schema,
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"no plan: {error!r}") from error

    def same(self, settings: Settings, files: Sequence[File]) -> None:
        """Raise ScoringError, with the difference, where another run is meant."""
        mine, theirs = asdict(self.settings), asdict(settings)
        for name, value in mine.items():
            if name != "input" and theirs[name] != value:
                raise ScoringError(
                    f"the run in the output folder has {name} {value!r}, and this one {theirs[name]!r}: choose another "
                    "folder, or --overwrite"
                )
        known = {file.url: file for file in self.files}
        for file in files:
            if known.pop(file.url, None) != file:
                raise ScoringError(
                    f"{file.url} is new or has changed since the run began: choose another folder, or --overwrite"
                )
        for url in known:
            raise ScoringError(f"{url} is gone since the run began: choose another folder, or --overwrite")


def make(settings: Settings, files: Sequence[File], model: Model) -> Plan:
    """Plan a run: read the files' columns and count their rows.

    Raises:
        ScoringError: the files don't go together, cannot be read, or lack what the model takes.
    """
    formats = {format_of(file) for file in files}
    if len(formats) > 1:
        raise ScoringError(f"{settings.input} holds files of {' and '.join(sorted(formats))}: a glob chooses some")
    written = settings.format or min(formats)
    readers = [open_reader(file, settings.delimiter) for file in files]
    names = {reader.file.url: reader.columns() for reader in readers}
    present = list(dict.fromkeys(name for each in names.values() for name in each))
    fields = choose(model, present, settings.columns, settings.options)
    kept = present if settings.keep is None else settings.keep
    answers = named(answers_of(fields), settings.prefix)
    for name in kept:
        if name not in present:
            raise ScoringError(f"--keep {name}: there is no such column; there are {', '.join(map(repr, present))}")
        if name in answers:
            raise ScoringError(
                f"the input has a column {name!r}, and so has the answer: --prefix gives the answer's another name, "
                "--keep leaves it out"
            )
    for url, there in names.items():
        # A JSON line may lack what is null, and a file may be empty.
        wanted = fields.columns.values() if formats == {"jsonl"} else [*fields.columns.values(), *kept]
        for name in wanted:
            if name not in there and there:
                raise ScoringError(f"{url} has no column {name!r}; it has {', '.join(map(repr, there))}")
    schema = _schema(readers, names, kept) if written == "parquet" else None
    parts = [(index, start) for index, reader in enumerate(readers) for start in reader.starts(settings.part_rows)]
    return Plan(
        settings,
        list(files),
        [Part(number, index, start) for number, (index, start) in enumerate(parts)],
        written,
        present,
        schema,
    )


def answers_of(fields: Fields) -> Layout:
    """Get the columns of a run's answers."""
    return layout(fields.task, several="top_k" in fields.columns or fields.options.get("top_k", 1) != 1)


def named(answers: Layout, prefix: str) -> dict[str, Type]:
    """Get the answers' columns as they are called in the output."""
    return {prefix + name: kind for name, kind in answers.columns.items()}


def _schema(readers: Sequence[Reader], names: Mapping[str, Sequence[str]], kept: Sequence[str]) -> pa.Schema:
    """Get the types of the kept columns, which must be the same in all files."""
    found: dict[str, pa.Field] = {}
    for reader in readers:
        for field in reader.schema([name for name in kept if name in names[reader.file.url]]):
            if found.setdefault(field.name, field).type != field.type:
                raise ScoringError(
                    f"{reader.file.url}: column {field.name!r} is of type {field.type}, and of type "
                    f"{found[field.name].type} in another file"
                )
    return pa.schema([found[name].with_nullable(True).remove_metadata() for name in kept])
