"""The formula against torch's own counter."""

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from tests.training import tiny
from training.compare import flops


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
@pytest.mark.parametrize("tokens", [1, 40])
def test_forward_is_what_torch_counts(family: str, tokens: int) -> None:
    config_class, settings = tiny.FAMILIES[family]
    config = config_class(**tiny.SHAPE | settings, attn_implementation="eager")
    with torch.device("meta"):
        model = getattr(transformers, f"{family}ForSequenceClassification")(config)
        ids = torch.zeros((1, tokens), dtype=torch.int64)
    counter = FlopCounterMode(display=False)
    with counter:
        model(input_ids=ids, position_ids=torch.zeros((1, tokens), dtype=torch.int64, device="meta"))
    assert flops.forward(config, tokens) == counter.get_total_flops()


def test_training_is_three_times_as_much() -> None:
    config_class, settings = tiny.FAMILIES["Bert"]
    config = config_class(**tiny.SHAPE | settings)
    assert flops.train(config, 16) == 3 * flops.forward(config, 16)
