"""LAMB against its paper's algorithm written out, the learning rate's course, and moments that come back."""

import numpy as np
import pytest
import torch

from tests.training.pretrain.materials import recipe
from training.pretrain import optimizers
from training.pretrain.optimizers import Lamb


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))


def descend(module: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int, start: int = 0) -> None:
    for step in range(start, start + steps):
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (module(inputs) - inputs[:, :3]).square().mean().backward()
        optimizer.step()


def written_out(weights: np.ndarray, gradients: list[np.ndarray], rate: float, decay: float, adapt: bool) -> np.ndarray:
    """Algorithm 2 of arXiv 1904.00962, beta 0.9 and 0.999, epsilon 1e-6."""
    mean, square = np.zeros_like(weights), np.zeros_like(weights)
    for count, gradient in enumerate(gradients, start=1):
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        update = (mean / (1 - 0.9**count)) / (np.sqrt(square / (1 - 0.999**count)) + 1e-6) + decay * weights
        trust = np.linalg.norm(weights) / np.linalg.norm(update) if adapt else 1.0
        weights = weights - rate * trust * update
    return weights


@pytest.mark.parametrize(("adapt", "decay"), [(True, 0.01), (True, 0.0), (False, 0.0)])
def test_lamb_is_its_algorithm(adapt: bool, decay: float) -> None:
    generator = np.random.default_rng(0)
    start = generator.normal(size=(5, 4))
    gradients = [generator.normal(size=(5, 4)) for _ in range(4)]
    weights = torch.nn.Parameter(torch.tensor(start))
    optimizer = Lamb([{"params": [weights], "adapt": adapt}], lr=0.02, weight_decay=decay)
    for gradient in gradients:
        weights.grad = torch.tensor(gradient)
        optimizer.step()
    assert weights.detach().numpy() == pytest.approx(written_out(start, gradients, 0.02, decay, adapt), rel=1e-6)


def test_lamb_leaves_zeros_able_to_move() -> None:
    weights = torch.nn.Parameter(torch.zeros(3, 3))
    optimizer = Lamb([weights], lr=0.1)
    weights.grad = torch.ones(3, 3)
    optimizer.step()
    assert torch.allclose(weights, torch.full((3, 3), -0.1), atol=1e-5)  # a trust ratio of 1, not of 0
    weights.grad = torch.zeros(3, 3)
    optimizer.step()
    assert weights.isfinite().all()


@pytest.mark.parametrize("name", ["lamb", "adamw"])
def test_vectors_are_spared(name: str) -> None:
    made = optimizers.make(recipe(optimizer=name, weight_decay=0.3), model())
    matrices, vectors = made.param_groups
    assert [p.ndim for p in matrices["params"]] == [2]
    assert [p.ndim for p in vectors["params"]] == [1, 1, 1]
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    if name == "lamb":
        assert (matrices["adapt"], vectors["adapt"]) == (True, False)


@pytest.mark.parametrize("name", ["lamb", "adamw"])
def test_moments_come_back(name: str) -> None:
    whole, cut = model(), model()
    first = optimizers.make(recipe(optimizer=name), whole)
    descend(whole, first, 3)
    saved = {key: value.clone() for key, value in optimizers.moments(first, whole).items()}
    assert "0.weight:exp_avg" in saved
    cut.load_state_dict(whole.state_dict())
    second = optimizers.make(recipe(optimizer=name), cut)
    optimizers.restore(second, cut, saved)
    descend(whole, first, 3, start=3)
    descend(cut, second, 3, start=3)
    for ours, theirs in zip(whole.parameters(), cut.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_rate_rises_and_decays() -> None:
    linear = recipe(learning_rate=1.0, steps=10, warmup_steps=2)
    assert [optimizers.rate(linear, step) for step in (0, 1, 2, 6, 9)] == pytest.approx([0.5, 1, 1, 0.5, 0.125])
    assert optimizers.rate(linear, 10) == 0
    square = recipe(learning_rate=1.0, steps=10, warmup_steps=2, decay="polynomial", decay_power=2.0)
    assert [optimizers.rate(square, step) for step in (2, 6, 9)] == pytest.approx([1, 0.25, 1 / 64])
    constant = recipe(learning_rate=1.0, steps=10, warmup_steps=2, decay="constant")
    assert [optimizers.rate(constant, step) for step in (0, 5, 9)] == pytest.approx([0.5, 1, 1])
