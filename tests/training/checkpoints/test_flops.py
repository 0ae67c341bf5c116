"""The formula against torch's own counter."""

import pytest
import transformers
from torch.utils.flop_counter import FlopCounterMode

from tests.training import tiny
from training.checkpoints import flops


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
@pytest.mark.parametrize("tokens", [2, 40])
def test_forward_is_what_torch_counts(family: str, tokens: int) -> None:
    model = tiny.tiny(family, "SequenceClassification", attn_implementation="eager")
    counter = FlopCounterMode(display=False)
    with counter:
        tiny.torch_logits(model, tiny.rows(model, 1, tokens))
    assert flops.forward(model.config, tokens) == counter.get_total_flops()


def test_of_distances_those_of_the_row_are_multiplied_with() -> None:
    config_class, settings = tiny.FAMILIES["DebertaV2"]
    config = config_class(**tiny.SHAPE | settings)
    more = flops.attention(config, 40) - config.num_hidden_layers * 4 * 40**2 * config.hidden_size
    assert more == config.num_hidden_layers * 2 * (2 * 40 * 79 * config.hidden_size)
    assert flops.weighted(config, 40) + flops.attention(config, 40) < flops.forward(config, 40)


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
