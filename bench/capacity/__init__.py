"""From unit costs measured on one machine to machines and money: a simulation of the service's fleet.

`costs` are what one request takes; `measure` finds them. `replica` is one service: its event loop, workers and cores,
with the queue, the batches and the permits of the service itself. `fleet` is many of them: balancer, autoscaler,
failures. `check` holds it to the real service; `plan` writes the tables of docs/capacity.md.
"""
