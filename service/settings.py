"""The settings: every one an environment variable `BERTIE_*`, with a default fit for a laptop.

Owns names, defaults and bounds. The README's table is held to this file by a test.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
CGROUP_V1 = Path("/sys/fs/cgroup/cpu")


class Settings(BaseSettings):
    """The process's settings."""

    model_config = SettingsConfigDict(env_prefix="BERTIE_", env_ignore_empty=True, extra="ignore", frozen=True)

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on.")
    models_dir: Path = Field(default=Path("models"), description="Folder of the bundles, one folder each.")
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Bundles to load, comma-separated; all of the folder when empty."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto",
        description="Where to run: `auto` is CUDA where there is a GPU and a graph for it, else the CPU.",
    )
    workers: int = Field(
        default=0, ge=0, description="Engine calls side by side for each model; 0: one a core (one on CUDA)."
    )
    intra_op_threads: int = Field(
        default=0, ge=0, description="Threads inside an engine call; 0: the cores over the workers."
    )
    lone_session: bool = Field(
        default=True,
        description="On the CPU, a second session with all cores for a request that is alone, where that is measured "
        "to be quicker. It holds the weights once more.",
    )
    max_batch_tokens: int = Field(
        default=0,
        ge=0,
        description="Tokens of a batch, padding included; 0: measured at warm-up, the fewest that run at full speed.",
    )
    max_queue_tokens: int = Field(
        default=65536, ge=1, description="Tokens waiting for each model before requests get 429."
    )
    timeout_seconds: float = Field(
        default=30.0, gt=0, allow_inf_nan=False, description="Deadline of a request; past it the answer is 504."
    )
    drain_seconds: float = Field(
        default=20.0, ge=0, allow_inf_nan=False, description="How long SIGTERM waits for what was admitted."
    )
    max_body_bytes: int = Field(
        default=2_000_000, ge=1024, description="Largest request body; over it the answer is 413."
    )
    max_inputs: int = Field(default=128, ge=1, description="Most `inputs` of a request; over it the answer is 413.")
    max_documents: int = Field(default=64, ge=1, description="Most documents of a question; over it the answer is 413.")
    max_candidate_labels: int = Field(default=64, ge=1, description="Most candidate labels; over it the answer is 413.")
    max_options: int = Field(default=64, ge=2, description="Most options of a question; over it the answer is 413.")
    max_request_rows: int = Field(
        default=4096, ge=1, description="Most model rows of a request; over it the answer is 413."
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(), description="Bearer tokens, comma-separated; when set, `/qa`, `/classify` and `/models` want one."
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="`console` for eyes, `json` for machines."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level to log.")

    @field_validator("models", "api_keys", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        parts = tuple(part.strip() for part in value.split(",") if part.strip())
        if not parts:  # "," for keys must not mean a service that is open to all
            raise ValueError("it is set and holds nothing; unset it or name something")
        return parts


def cpu_quota() -> int:
    """Cores that this process may use: the scheduler's affinity, bounded by the container's CPU quota.

    A container limited to 2 CPUs on a machine of 64 sees 64 cores; as many threads would spend their time throttled.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        if CGROUP_V2.is_file():
            quota, period = CGROUP_V2.read_text(encoding="ascii").split()
        else:
            quota = (CGROUP_V1 / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (CGROUP_V1 / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return cores
    if not quota.isdigit():  # "max", or -1: no limit
        return cores
    return max(1, min(cores, math.ceil(int(quota) / int(period))))
