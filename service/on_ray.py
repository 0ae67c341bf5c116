"""The service on Ray Serve: `serve run service.on_ray:app`, or `serve deploy deploy/ray/serve.yaml`.

A replica is the whole service: the same application, with its own queue and its own batches. Ray chooses the replica,
counts the replicas, and ends them. Settings are the environment's, as without Ray; see `runtime_env` of a Serve config.
"""

from __future__ import annotations

import math
import os
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy, BackpressureConfig

from service.app import create_app
from service.metrics import Metrics
from service.settings import Settings

WAIT = "wait_seconds"
"""What a replica reports to Ray: how long a request would wait in its queue, by its tokens and the measured rate."""
TARGET_SECONDS = 0.1


class EstimatedWait:
    """An autoscaling policy: as many replicas as keep the estimated wait near a target.

    Over the target, the replicas are multiplied by how far over, at most by two; the backlog goes by the time that they
    have started, so more would be too many. A tenth of it for `downscale_delay_s` costs a replica.
    """

    def __init__(self, target_seconds: float = TARGET_SECONDS) -> None:
        self.target_seconds = target_seconds

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Get how many replicas there should be, and what to remember."""
        waits = list((context.aggregated_metrics or {}).get(WAIT, {}).values())
        replicas, now = context.target_num_replicas, context.current_time
        if not waits or context.current_num_replicas < replicas:  # those that were asked for are to come first
            return replicas, {}
        wait = sum(waits) / len(waits)
        idle_since = None
        if wait > self.target_seconds:
            replicas = math.ceil(replicas * min(2.0, wait / self.target_seconds))
        elif wait <= self.target_seconds / 10:
            idle_since = context.policy_state.get("idle_since", now)
            if now - idle_since >= context.config.downscale_delay_s:
                replicas, idle_since = replicas - 1, now
        least, most = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
        return max(least, min(replicas, most)), {} if idle_since is None else {"idle_since": idle_since}


@serve.deployment(
    name="bertie",
    # Ray's queue would know neither tokens nor clients: ours sees every request, and refuses before Ray does.
    max_ongoing_requests=2 * Settings.model_fields["max_requests"].default,
    max_queued_requests=256,
    backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
    max_surge_percent=50,  # of an update: the new ones answer before the old ones end
    graceful_shutdown_timeout_s=30.0,
    graceful_shutdown_wait_loop_s=0.5,
    health_check_period_s=5.0,
    health_check_timeout_s=10.0,
    ray_actor_options={"num_cpus": 1},
    autoscaling_config=AutoscalingConfig(
        min_replicas=1,
        max_replicas=4,
        downscale_delay_s=300.0,
        policy=AutoscalingPolicy(policy_function=EstimatedWait),
    ),
)
@serve.ingress()
class Replica:
    """The service in a replica."""

    def __init__(self) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._metrics = Metrics()
        self._app: FastAPI | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Make the application; its lifespan loads the models, and drains them when the replica ends."""
        settings = Settings()
        if not settings.workers:  # a replica has the cores that Ray gave it, not the machine's
            cores = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
            settings = settings.model_copy(update={"workers": max(1, int(cores))})
        self._app = create_app(settings, metrics=self._metrics)
        return self._app

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell how long a request would wait, in seconds."""
        (gauge,) = self._metrics.queue_wait.collect()
        return {WAIT: gauge.samples[0].value}

    def check_health(self) -> None:
        """Raise RuntimeError where the replica cannot come to answer again by itself; Ray replaces it."""
        predictor = None if self._app is None else self._app.state.gate.predictor
        if predictor is None or not predictor.alive:
            raise RuntimeError("the models' workers are dead")


app = Replica.bind()  # type: ignore[attr-defined]
