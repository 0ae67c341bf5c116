"""LAMB, AdamW, and the learning rate of a step. Knows nothing of data and objectives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from training.pretrain.recipe import PretrainRecipe

NEAR_ZERO = 1e-12


class Lamb(torch.optim.Optimizer):
    """LAMB (You et al., arXiv 1904.00962, algorithm 2): Adam's step, scaled layer by layer to the norm of the weights.

    Groups with `adapt` False (biases and LayerNorm weights) take Adam's step as it is.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "adapt": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step from the gradients at hand."""
        assert closure is None, "LAMB evaluates nothing again"
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for weights in group["params"]:
                if weights.grad is None:
                    continue
                state = self.state[weights]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float32)
                    state["exp_avg"] = torch.zeros_like(weights)
                    state["exp_avg_sq"] = torch.zeros_like(weights)
                state["step"] += 1
                count = int(state["step"])
                mean = state["exp_avg"].lerp_(weights.grad, 1 - beta1)
                square = state["exp_avg_sq"].mul_(beta2).addcmul_(weights.grad, weights.grad, value=1 - beta2)
                root = (square / (1 - beta2**count)).sqrt_().add_(group["eps"])
                update = mean / (1 - beta1**count) / root
                if group["weight_decay"]:
                    update.add_(weights, alpha=group["weight_decay"])
                if group["adapt"]:
                    size, step = weights.norm(), update.norm()
                    usable = (size > NEAR_ZERO) & (step > NEAR_ZERO)
                    update.mul_(torch.where(usable, size / step.clamp_min(NEAR_ZERO), torch.ones_like(size)))
                weights.add_(update, alpha=-group["lr"])


def make(recipe: PretrainRecipe, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimizer. Biases and LayerNorm weights, of one dimension, are neither decayed nor adapted."""
    named = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in named if parameter.ndim > 1]
    vectors = [parameter for parameter in named if parameter.ndim <= 1]
    options: dict[str, Any] = {"lr": recipe.learning_rate, "betas": (0.9, recipe.beta2), "eps": recipe.epsilon}
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True, **options)
    groups[0]["adapt"], groups[1]["adapt"] = True, False
    return Lamb(groups, **options)


def rate(recipe: PretrainRecipe, step: int) -> float:
    """The learning rate of a step, counted from 0: it rises in a line, then decays to zero at `steps`."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    if recipe.decay == "constant":
        return recipe.learning_rate
    left = (recipe.steps - step) / (recipe.steps - recipe.warmup_steps)
    return recipe.learning_rate * float(max(0.0, left) ** recipe.decay_power)


def moments(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The optimizer's state by name of the weights, as `restore` takes it."""
    return {
        f"{name}:{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore(optimizer: torch.optim.Optimizer, model: torch.nn.Module, saved: dict[str, torch.Tensor]) -> None:
    """Put back what `moments` gave. The weights must be those of the same model, in any order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ordered = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in saved.items():
        name, _, part = key.rpartition(":")
        state.setdefault(ordered.index(name), {})[part] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
