"""The attention written for bf16 computes, in fp32, what torch's own does: forward and backward."""

import pytest
import torch

from tests.training.samples import make_model
from training.checkpoints import attention


def run(implementation: str, family: str, masked: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    attention.register()
    sizes = {"embedding_size": 16} if family in ("Albert", "Electra") else {}
    positions = {"max_position_embeddings": 90, "pad_token_id": 1} if family == "Roberta" else {}
    model = make_model("ForQuestionAnswering", family, attn_implementation=implementation, **sizes, **positions)
    assert model.config._attn_implementation == implementation
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 100, (3, 21), generator=generator)
    mask = (torch.arange(21) < torch.tensor([[21], [13], [2]])).long() if masked else None
    output = model(input_ids=ids, attention_mask=mask)
    real = mask.bool() if mask is not None else torch.ones_like(ids).bool()
    logits = torch.stack([output.start_logits, output.end_logits])[:, real]
    (logits**2).mean().backward()
    return logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("family", ["Bert", "Albert", "Roberta", "Electra"])
def test_equals_sdpa_in_fp32(family: str, masked: bool) -> None:
    logits, gradients = run(attention.NAME, family, masked)
    expected, expected_gradients = run("sdpa", family, masked)
    assert logits.std() > 0.01
    assert (logits - expected).abs().max() <= 1e-5
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        assert (gradient - expected_gradients[name]).abs().max() <= 1e-5, name
    assert max(gradient.abs().max() for gradient in gradients.values()) > 1e-3


def test_padding_is_not_attended_to() -> None:
    attention.register()
    model = make_model("ForSequenceClassification", attn_implementation=attention.NAME)
    ids = torch.randint(5, 100, (1, 12), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(12) < 7).long()[None]
    other = torch.where(mask.bool(), ids, 3)
    with torch.no_grad():
        assert torch.allclose(model(ids, mask).logits, model(other, mask).logits, atol=1e-6)
        assert torch.allclose(model(ids, mask).logits, model(ids[:, :7]).logits, atol=1e-6)
        assert not torch.allclose(model(ids).logits, model(other).logits, atol=1e-3)


def test_drops_out_in_training_alone() -> None:
    attention.register()
    module = torch.nn.Module()
    query, key, value = (torch.randn(2, 4, 9, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))

    def once() -> torch.Tensor:
        return attention._attention(module, query, key, value, None, scaling=8**-0.5, dropout=0.5)[0]

    module.eval()
    assert once().shape == (2, 9, 4, 8)
    assert torch.equal(once(), once())
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
    assert torch.allclose(once(), expected, atol=1e-6)
    module.train()
    assert not torch.equal(once(), once())


def test_stays_in_bf16() -> None:
    query = torch.randn(1, 2, 5, 8, dtype=torch.bfloat16)
    output, weights = attention._attention(torch.nn.Module().eval(), query, query, query, None, scaling=1.0)
    assert output.dtype == torch.bfloat16
    assert weights is None
