"""The weights in a folder's files: which files, the names and shapes in them, and the tensors.

Safetensors and torch's own format, in one file or in shards that an index lists. Reads them without running a line of
what they say: torch's format is a pickle, and is read by `torch.load(weights_only=True)`, which knows tensors and plain
containers alone. Knows nothing of models.
"""

from __future__ import annotations

import json
import math
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open

from training import folders
from training.errors import CheckpointError

T = TypeVar("T")

SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
INDICES = (f"{SAFE}.index.json", f"{PICKLED}.index.json")
LOOKED = (SAFE, INDICES[0], PICKLED, INDICES[1])
"""Where weights are looked for, in this order."""
PREFIXES = ("module.", "_orig_mod.")
"""What torch's DataParallel and compiler put before every name."""
OLD_NAMES = {".gamma": ".weight", ".beta": ".bias"}
"""How the LayerNorm's weights were called until 2019, after TensorFlow."""
NESTED = ("state_dict", "model_state_dict", "model")
"""Where a training loop's own file keeps the weights."""
_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """A tensor's type, as safetensors calls it, and its sizes."""

    kind: str
    sizes: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.sizes)


def files(folder: Path) -> list[Path]:
    """Return the files of the folder's weights: safetensors before torch's format, one file before shards.

    Raises:
        CheckpointError: there are none, or not all that the index names; the message says what there is instead.
    """
    there = [folder / name for name in LOOKED if (folder / name).is_file()]
    fetched = [path for path in there if folders.pointed_at(path) is None]
    chosen = next(iter(fetched or there), None)
    if chosen is None:
        instead = folders.foreign(folder) or f"looked for {', '.join(LOOKED)}; it holds {folders.listed(folder)}"
        raise CheckpointError(f"{folder} has no weights: {instead}")
    folders.check_content(chosen)
    return _there(chosen) if chosen.suffix == ".json" else [chosen]


def shapes(folder: Path) -> dict[str, Shape]:
    """Return the shape of each weight by name, without reading the numbers.

    Raises:
        CheckpointError: as `files`; or a file is cut off, damaged or wants to run code.
    """
    found = {}
    for path in files(folder):
        if path.suffix == ".safetensors":
            found.update(_header(path))
        else:
            tensors = _unpickled(path, "meta")
            found.update(
                {name: Shape(_TYPES.get(t.dtype, str(t.dtype)), tuple(t.shape)) for name, t in tensors.items()}
            )
    return renamed(found, folder)


def renamed(found: Mapping[str, T], folder: Path) -> dict[str, T]:
    """Return what is found of weights under their names of today. Raises `CheckpointError` where two have one name."""
    return {new: found[name] for name, new in _names(found, folder).items()}


def read(folder: Path) -> dict[str, torch.Tensor]:
    """Return each weight by its name of today, in the type it was kept in. Raises `CheckpointError` as `shapes`."""
    found: dict[str, torch.Tensor] = {}
    for path in files(folder):
        if path.suffix == ".safetensors":
            _header(path)  # says of a file that is cut off how much of it is there
            try:
                with safe_open(path, framework="pt") as file:
                    found.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path} is damaged ({error}): download it again") from error
        else:
            found.update(_unpickled(path, "cpu"))
    return renamed(found, folder)


def shards(index: Path) -> list[str]:
    """Return the names of the files that an index lists. Raises `CheckpointError` where it lists none of its folder."""
    try:
        named = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        plain = all(isinstance(name, str) and name == Path(name).name for name in named)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} lists no files of weights: download it again") from error
    if not named or not plain:
        raise CheckpointError(f"{index} names files that are not in its folder")
    return named


def _there(index: Path) -> list[Path]:
    """The files that an index lists, all of them."""
    named = shards(index)
    missing = [name for name in named if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{index.parent} has {len(named) - len(missing)} of the {len(named)} files of weights that {index.name} "
            f"names: download {', '.join(missing[:3])}"
        )
    for name in named:
        folders.check_content(index.parent / name)
    return [index.parent / name for name in named]


def _header(path: Path) -> dict[str, Shape]:
    """The shapes that a safetensors file begins with: 8 bytes of length, then JSON.

    Raises:
        CheckpointError: it is no such file, or not as long as its header says.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if 2 <= length <= size - 8 else b""
    if not text and size > 8 and length < 1 << 30:
        raise CheckpointError(f"{path} is cut off within its header, at {size:,} bytes: download it again")
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        found = {name: Shape(each["dtype"], tuple(each["shape"])) for name, each in header.items()}
        end = 8 + length + max((each["data_offsets"][1] for each in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{path} is no safetensors file ({size:,} bytes): download it again") from error
    if size < end:
        raise CheckpointError(f"{path} is cut off: it has {size:,} of {end:,} bytes; download it again")
    return found


def _unpickled(path: Path, device: str) -> dict[str, torch.Tensor]:
    """The tensors of a file in torch's format; those on "meta" have no numbers.

    Raises:
        CheckpointError: it holds more than tensors, or is cut off or damaged.
    """
    # Files from before torch 1.6 are no archives, and cannot be mapped into memory.
    mapped = zipfile.is_zipfile(path)
    try:
        found: Any = torch.load(path, weights_only=True, mmap=mapped, map_location=device)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted is None:
            raise _damaged(path) from error
        raise CheckpointError(
            f"{path} wants {wanted[1]}, which could run code of its own, and is never done: it holds more than "
            "weights. Where you trust it, save its state_dict() alone, with safetensors.torch.save_file"
        ) from error
    except Exception as error:  # of a broken pickle, anything
        raise _damaged(path) from error
    return _tensors(path, found)


def _tensors(path: Path, found: Any) -> dict[str, torch.Tensor]:
    for key in NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{path} holds one {type(found).__name__}, no weights by their names")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{path}: {name!r} is no weight but a {type(value).__name__}; save weights alone")
    return dict(found)


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is cut off or damaged, at {path.stat().st_size:,} bytes: download it again")


def _names(old: Iterable[str], folder: Path) -> dict[str, str]:
    """Today's names of weights by those in the files."""
    names = {name: name for name in old}
    for prefix in PREFIXES:
        if names and all(name.startswith(prefix) for name in names.values()):
            names = {name: new.removeprefix(prefix) for name, new in names.items()}
    for old_end, end in OLD_NAMES.items():
        names = {n: new.removesuffix(old_end) + end if new.endswith(old_end) else new for n, new in names.items()}
    if len(set(names.values())) < len(names):
        twice = next(new for new in names.values() if list(names.values()).count(new) > 1)
        raise CheckpointError(f"{folder}: two weights are called {twice}, one by its old name")
    return names
