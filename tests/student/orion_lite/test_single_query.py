import pytest
import torch
from torch import nn

from student.orion_lite.single_query import decode


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    layer = nn.TransformerDecoderLayer(
        24, 4, 48, dropout=0.3, activation="gelu", batch_first=True, norm_first=True
    )
    decoder = nn.TransformerDecoder(layer, 2)
    for weight in decoder.parameters():  # biases start at 0, and would prove nothing
        nn.init.normal_(weight, std=0.2)
    return decoder.double()


def gradients(decoder, outcome):
    decoder.zero_grad()
    outcome.square().sum().backward()
    return {name: weight.grad.clone() for name, weight in decoder.named_parameters()}


def test_it_equals_torchs_own_decoder_and_so_do_all_gradients(decoder):
    query, memory = torch.randn(3, 24).double(), torch.randn(3, 7, 24).double()
    decoder.eval()
    ours, theirs = decode(decoder, query, memory), decoder(query[:, None], memory)[:, 0]
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    mine, other = gradients(decoder, ours), gradients(decoder, theirs)
    for name in mine:
        torch.testing.assert_close(mine[name], other[name], rtol=1e-9, atol=1e-9)


def test_weights_without_effect_have_no_gradient_at_all(decoder):
    gradient = gradients(
        decoder, decode(decoder, torch.randn(3, 24).double(), torch.randn(3, 7, 24).double())
    )
    for layer in ("layers.0", "layers.1"):
        assert not gradient[f"{layer}.self_attn.in_proj_weight"][:48].any()
        assert not gradient[f"{layer}.multihead_attn.in_proj_bias"][24:48].any()


def test_dropout_drops_as_much_as_torchs_own(decoder):
    """Over many draws the output has the mean and the spread of the module's."""
    query, memory = torch.randn(1, 24).double(), torch.randn(1, 7, 24).double()
    many = (query.expand(10_000, -1), memory.expand(10_000, -1, -1))
    with torch.no_grad():
        ours, theirs = decode(decoder, *many), decoder(many[0][:, None], many[1])[:, 0]
    spread = theirs.std(0)
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 6 * spread / 10_000**0.5 * 2**0.5).all()
    torch.testing.assert_close(ours.std(0), spread, rtol=0.05, atol=0)
