"""Unit costs with round numbers: a row of 100 tokens takes 10 ms of a core, a request 1 ms of the event loop."""

from bench.capacity.costs import Costs, Curve, ModelCosts

MODEL = ModelCosts(batch=Curve(0.0, 1e-4, 0.0), wide=Curve(0.0, 6e-5, 0.0), batch_tokens=256, low_latency_tokens=8)
COSTS = Costs(
    machine={}, cores=2, busy=0.8, request=1e-3, text_token=0.0, refusal=1e-4, wake=0.0, client=0.0,
    client_wake=0.0, memory=10**8, models={"m": MODEL},
)  # fmt: skip
