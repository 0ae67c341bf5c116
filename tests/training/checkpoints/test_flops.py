"""The formula against torch's own counter."""

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from tests.training import tiny
from training.checkpoints import flops


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


def test_served_by_hand() -> None:
    """4 tokens, H 2, I 3, one layer: behind the attention 3 tokens fewer, and 2 of 4 do not ask."""
    config = transformers.BertConfig(hidden_size=2, intermediate_size=3, num_hidden_layers=1, num_attention_heads=1)
    assert flops.forward(config, 4) - flops.served(config, 4) == 3 * (2 * 4 + 4 * 6) + 2 * (4 * 4 * 2)


def test_served_is_less_in_the_last_layer_alone() -> None:
    config_class, settings = tiny.FAMILIES["Bert"]
    one, two = (config_class(**tiny.SHAPE | settings | {"num_hidden_layers": n}) for n in (1, 2))
    assert flops.served(two, 16) - flops.served(one, 16) == flops.forward(two, 16) - flops.forward(one, 16)
    assert flops.served(one, 1) == flops.forward(one, 1)
