"""Bertie's service: question answering, natural-language inference and sentiment over HTTP, through ONNX Runtime.

`load` opens a bundle without a server. It imports neither `training` nor torch nor transformers; a test holds it to
that.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.inprocess import Pipeline

# onnxruntime reports its use to its makers unless this is set before it is imported. What is served here is private.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"


def load(folder: str | os.PathLike[str], *, device: str = "auto", threads: int = 0) -> Pipeline:
    """Open a bundle to be called in this process, without a server: `load("models/qa")(question=..., context=...)`.

    See `service.inprocess`, which is imported with the first call: importing `service` costs nothing.
    """
    from service import inprocess

    return inprocess.load(folder, device=device, threads=threads)
