"""FastAPI over transformers' pipeline, as in its first tutorials: one call a request, in the server's thread pool."""

from __future__ import annotations

from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline

from bench.peers import order


class Body(BaseModel):
    """A request."""

    text: str


def main() -> None:
    """Serves until it is stopped."""
    ordered = order.read()
    torch.set_num_threads(ordered.configuration.threads)
    classify = pipeline("text-classification", model=ordered.checkpoint, device="cpu")
    app = FastAPI()

    @app.post("/classify")
    def answer(body: Body) -> dict[str, Any]:
        return classify(body.text, truncation=True)[0]

    uvicorn.run(app, host="127.0.0.1", port=ordered.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
