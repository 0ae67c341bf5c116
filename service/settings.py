"""The settings: every one an environment variable `BERTIE_*`, with a default fit for a laptop.

Owns names, defaults and bounds. The README's table is held to this file by a test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MAX_ITEMS = 4096
"""Most values of any list in a request, whatever the settings say."""
Items = Annotated[int, Field(ge=1, le=MAX_ITEMS)]


Protocol = Literal["huggingface", "tei", "classify", "oip", "kserve", "sagemaker", "vertex"]
"""Other servers' contracts, `service.protocols`."""


class Settings(BaseSettings):
    """The process's settings."""

    model_config = SettingsConfigDict(env_prefix="BERTIE_", env_ignore_empty=True, extra="ignore", frozen=True)

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on.")
    ops_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="A second port, with a thread of its own, for `/health` and `/metrics`, so that a flood on the "
        "first one keeps no probe waiting.",
    )
    grpc_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="A port for the Open Inference Protocol over gRPC (install the extra `grpc`).",
    )
    models_dir: Path = Field(default=Path("models"), description="Folder of the bundles, one folder each.")
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Bundles to load, comma-separated: names in the folder, or `NAME=REFERENCE` for one from elsewhere "
        "(`https://`, `hf://`, `oci://`, `s3://`, `gs://`, `file://`; install the extra `remote`); all of the folder "
        "when empty.",
    )
    cache_dir: Path = Field(default=Path("~/.cache/bertie"), description="Where bundles from elsewhere are kept.")
    max_bundle_bytes: int = Field(
        default=20_000_000_000, ge=1, description="Most bytes that come for a bundle from elsewhere."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto",
        description="Where to run: `auto` is CUDA where there is a GPU and a graph for it, else the CPU.",
    )
    processes: int = Field(
        default=1,
        ge=0,
        le=256,
        description="Processes that serve at one port, with the models in memory once for all; 0: one a GPU, or for "
        "every 4 cores. Limits are of all together, `BERTIE_WORKERS` and `BERTIE_INTRA_OP_THREADS` of each.",
    )
    workers: int = Field(
        default=0, ge=0, description="Engine calls side by side, of all models together; 0: one a core (one on CUDA)."
    )
    intra_op_threads: int = Field(
        default=0, ge=0, description="Threads inside an engine call; 0: the cores over the workers."
    )
    low_latency: bool = Field(
        default=True,
        description="On the CPU, a second session on all cores for a request that has the process to itself. It holds "
        "a part of the weights once more.",
    )
    max_batch_tokens: int = Field(
        default=0, ge=0, description="Tokens of a batch, padding included; 0: 256 on the CPU, 16384 on CUDA."
    )
    cache_mb: int = Field(
        default=0,
        ge=0,
        description="Memory in MB for the logits of rows that ran, of all models together: who asks the same again "
        "gets the same answer without a run. 0: none. Only for int8 on the CPU, where no row's logits depend on its "
        "batch.",
    )
    max_requests: int = Field(default=1024, ge=1, description="Requests in flight before others get 429.")
    max_queue_tokens: int = Field(
        default=65536,
        ge=1,
        description="Estimated tokens of the short requests in flight before others get 429; long requests have a "
        "budget of their own, twice as large.",
    )
    timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        allow_inf_nan=False,
        description="Deadline of a request, from its first byte to its answer's last; past it the answer is 504.",
    )
    drain_seconds: float = Field(
        default=20.0, ge=0, allow_inf_nan=False, description="How long SIGTERM waits for what was admitted."
    )
    max_head_bytes: int = Field(
        default=65536, ge=1024, description="Bytes of a request's head; over it the answer is 431."
    )
    max_head_lines: int = Field(default=100, ge=8, description="Lines of a request's head; over it the answer is 431.")
    head_seconds: float = Field(
        default=10.0, gt=0, allow_inf_nan=False, description="Time for a head to be complete; a slower one gets 408."
    )
    max_body_bytes: int = Field(
        default=2_000_000, ge=1024, description="Largest request body; over it the answer is 413."
    )
    max_inputs: int = Field(default=128, description="Most `inputs` of a request; over it the answer is 413.")
    max_documents: int = Field(default=64, description="Most documents of a question; over it the answer is 413.")
    max_candidate_labels: int = Field(default=64, description="Most candidate labels; over it the answer is 413.")
    max_options: int = Field(default=64, ge=2, description="Most options of a question; over it the answer is 413.")
    max_request_rows: int = Field(
        default=4096, ge=1, description="Most model rows of a request; over it the answer is 413."
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(),
        description="Bearer tokens, comma-separated; when set, everything but pages, probes and metrics wants one.",
    )
    keys_file: Path | None = Field(
        default=None,
        description="TOML file of named keys: hashes, limits and models (`python -m service keys`); read again when it "
        "changes.",
    )
    keys: str | None = Field(default=None, description="The same text, in the variable itself.")
    admin_key: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="Bearer token of `/admin`, where versions are added, promoted and rolled back; without it there is "
        "no `/admin`.",
    )
    watch_seconds: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="How often the folder of models is looked at for new versions and plans; 0: never.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Origins whose pages may call from a browser, comma-separated; `*` for all."
    )
    protocols: Annotated[tuple[Protocol, ...], NoDecode] = Field(
        default=get_args(Protocol),
        description="Other servers' contracts that are served beside Bertie's own, comma-separated; or `none`.",
    )
    vertex_predict_route: str = Field(
        default="/vertex",
        pattern="^/",
        description="Where Vertex AI posts instances; it says so itself, in `AIP_PREDICT_ROUTE`.",
    )
    vertex_health_route: str = Field(
        default="/vertex/health",
        pattern="^/",
        description="Where Vertex AI asks after health; it says so itself, in `AIP_HEALTH_ROUTE`.",
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="`console` for eyes, `json` for machines."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level to log.")

    disagreements_file: Path | None = Field(
        default=None,
        description="A file of JSON lines for the inputs on which a shadow disagrees with the stable version, with "
        "both answers. It stores clients' texts: off unless it is set.",
    )
    disagreements_mb: int = Field(
        default=16, ge=1, description="Size of that file, in MB, at which it becomes `FILE.1` and a new one begins."
    )
    traces: bool = Field(
        default=False,
        description="Whether each request is traced, and the spans sent where `OTEL_EXPORTER_OTLP_ENDPOINT` says "
        "(install the extra `otel`).",
    )

    @property
    def wants_keys(self) -> bool:
        """Whether requests need an API key."""
        return bool(self.api_keys) or self.keys is not None or self.keys_file is not None

    @field_validator("models", "api_keys", "cors_origins", "protocols", mode="before")
    @classmethod
    def _split(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str):
            return value
        parts = tuple(part.strip() for part in value.split(",") if part.strip())
        if parts == ("none",) and info.field_name == "protocols":
            return ()
        if not parts:  # "," for keys must not mean a service that is open to all
            raise ValueError("it is set and holds nothing; unset it or name something")
        return parts
