"""Bertie's service: question answering, natural-language inference and sentiment over HTTP, through ONNX Runtime.

It imports neither `training` nor torch nor transformers; a test holds it to that.
"""

import os

# onnxruntime reports its use to its makers unless this is set before it is imported. What is served here is private.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
