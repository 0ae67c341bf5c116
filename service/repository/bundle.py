"""A bundle on disk: its manifest, its files and their hashes. Knows nothing of sessions."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.engine.session import Provider
from service.errors import BundleError
from service.repository import files
from service.repository.manifest import SUITS, WEIGHTS, Graph, Manifest, parse


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked bundle.

    Attributes:
        folder: where it lies.
        manifest: what it says.
        digest: first 12 digits of the manifest's sha256: since that holds every file's hash, it names the content.
        version: its name among the model's versions; the digest where its folder is the model's own.
    """

    folder: Path
    manifest: Manifest
    digest: str
    version: str

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @property
    def label(self) -> str:
        """What messages call it: the folder's name, and for a version `MODEL/VERSION`."""
        return _label(self.folder, self.version)

    def has_graph_for(self, provider: Provider) -> bool:
        """Whether it has a graph that suits `provider`."""
        return any(graph.precision in SUITS[provider] for graph in self._usable(provider))

    def graph_for(self, provider: Provider) -> Graph:
        """Choose the graph that suits `provider` best: on CUDA, of two in one precision, the packed one.

        Raises:
            BundleError: it has none; the message says how to export one.
        """
        by_precision = {graph.precision: graph for graph in self._usable(provider)}
        for precision in SUITS[provider]:
            if precision in by_precision:
                return by_precision[precision]
        raise BundleError(
            f"bundle {self.label!r} has {', '.join(by_precision)} and no graph for {provider} "
            f"({' or '.join(SUITS[provider])}); export one from its checkpoint: python -m training export CHECKPOINT "
            f"{self.folder} --precision {' --precision '.join([*by_precision, SUITS[provider][0]])}"
        )

    def read(self, name: str) -> bytes:
        """Read a file of the bundle and check that it has the manifest's sha256.

        Raises:
            BundleError: it has not, or cannot be read.
        """
        with _named(self.label):
            content = files.read(self.folder / name)
            found, expected = hashlib.sha256(content).hexdigest(), self.manifest.files[name]
            if found != expected:
                raise ValueError(f"{name} has sha256 {found[:12]}…, the manifest says {expected[:12]}…: fetch it again")
        return content

    @contextlib.contextmanager
    def private_copy(self, graph: Graph) -> Iterator[Path]:
        """Copy a graph and its weights, checked, to a folder that is gone when the block ends.

        ONNX Runtime maps the weights into memory. Mapped from the bundle's folder, they would change under it when the
        file there is overwritten, and a file that is cut short would kill the process; what is mapped from the copy
        stays as it was read. External data that the manifest does not name is not in the copy: such a graph won't open.

        Raises:
            BundleError: a file is not what the manifest says.
            OSError: the copy cannot be written.
        """
        with tempfile.TemporaryDirectory(prefix="bertie-") as folder:
            for name in (graph.file, WEIGHTS):
                if name in self.manifest.files:
                    (Path(folder) / name).write_bytes(self.read(name))
            yield Path(folder) / graph.file

    def _usable(self, provider: Provider) -> list[Graph]:
        graphs = sorted(self.manifest.graphs, key=lambda graph: graph.packed)
        return [graph for graph in graphs if provider == "cuda" or not graph.packed]


def load(folder: Path, version: str | None = None) -> Bundle:
    """Read and check the bundle in `folder`: the manifest's fields, and the sha256 of every file that it names.

    Args:
        version: the folder's own name, where it is a version of the model that the folder above is called after.

    Raises:
        BundleError: names the bundle and what is wrong with it, in one line.
    """
    label = _label(folder, version)
    with _named(label):
        content = files.read_manifest(folder)
        manifest, digest = parse(content), files.digest(content)
    if label != folder.name and manifest.name != folder.parent.name:
        raise BundleError(
            f"bundle {label!r} calls itself {manifest.name!r}: move it to {manifest.name}/{folder.name}, or export it "
            f"into a folder called {folder.parent.name!r} and add that"
        )
    bundle = Bundle(folder, manifest, digest, digest if label == folder.name else folder.name)
    for name in manifest.files:
        bundle.read(name)
    return bundle


def _label(folder: Path, version: str | None) -> str:
    return f"{folder.parent.name}/{version}" if version == folder.name else folder.name


@contextlib.contextmanager
def _named(label: str) -> Iterator[None]:
    """Turn what reading raises into one line that names the bundle."""
    try:
        yield
    except FileNotFoundError as error:
        raise BundleError(f"bundle {label!r}: {Path(error.filename).name} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"bundle {label!r}: {error}") from error
