"""Bertie's service: question answering, natural-language inference and sentiment over HTTP, through ONNX Runtime.

It imports neither `training` nor torch nor transformers; a test holds it to that.
"""

__version__ = "0.1.0"
