"""Attention with shortcuts, against attention without."""

import torch

from pipeline.teachers.orion.network.attention import CrossDecoder
from pipeline.teachers.orion.network.backbone import (
    ALIGNED,
    Attention,
    Block,
    GatedMLP,
    rotary_table,
    window_partition,
    window_unpartition,
)
from pipeline.teachers.orion.network.config import BackboneConfig


def randomised(module):
    draw = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw) / parameter.shape[-1] ** 0.5
    return module.double()


def test_a_memory_of_sums_is_attended_to_by_its_summands():
    decoder = randomised(CrossDecoder(8, heads=2, ffn_width=16))
    draw = torch.Generator().manual_seed(1)
    queries, one, other = (torch.randn(2, rows, 8, dtype=torch.float64, generator=draw) for rows in (3, 5, 4))
    sums = (one[:, :, None] + other[:, None]).flatten(1, 2)
    torch.testing.assert_close(decoder(queries, one, plus=other), decoder(queries, sums))


def test_windows_are_padded_with_zeros_and_undone():
    image = torch.arange(1, 16).view(1, 3, 5, 1)
    windows = window_partition(image, 2)
    assert windows.shape == (1, 2, 3, 2, 2, 1)
    assert windows[0, 0, 0].flatten().tolist() == [1, 2, 6, 7]
    assert windows[0, 1, 2].flatten().tolist() == [15, 0, 0, 0]
    assert window_unpartition(windows, 3, 5).equal(image)


def test_hidden_channels_padded_with_zeros_change_nothing():
    mlp = randomised(GatedMLP(6, ALIGNED + 5))
    mlp.ffn_ln.bias.data += 1  # it must not reach the padding
    wide = GatedMLP(6, ALIGNED + 5).double()
    for name, weight in mlp.named_parameters():
        path, _, leaf = name.rpartition(".")
        setattr(wide.get_submodule(path), leaf, torch.nn.Parameter(wide.padded(name, weight)))
    assert {name: max(weight.shape) for name, weight in wide.named_parameters()} == {
        **dict.fromkeys(("w1.weight", "w1.bias", "w2.weight", "w2.bias", "w3.weight"), 2 * ALIGNED),
        **dict.fromkeys(("ffn_ln.weight", "ffn_ln.bias"), ALIGNED + 5),
        "w3.bias": 6,
    }
    x = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(wide(x), mlp(x), rtol=0, atol=1e-13)


def test_the_padding_of_a_window_has_the_bias_of_its_values():
    """One token in a window of four: three of them have key 0 and their values' bias."""
    attention = randomised(Attention(4, heads=1, window=2))
    cos, sin = (table.double() for table in rotary_table(1, 2, 4))  # position 0: nothing turns
    token = torch.tensor([0.3, -1.2, 0.8, 0.5], dtype=torch.float64)
    query = attention.q_proj.weight @ token + attention.q_bias
    score = (query @ (attention.k_proj.weight @ token)) / 2
    weight = score.exp() / (score.exp() + 3)
    mixed = weight * (attention.v_proj.weight @ token + attention.v_bias) + (1 - weight) * attention.v_bias
    expected = attention.proj.weight @ mixed + attention.proj.bias
    torch.testing.assert_close(attention(token.view(1, 1, 1, 4), (cos, sin)).flatten(), expected)


def test_a_block_in_place_adds_what_a_block_adds():
    block = randomised(Block(BackboneConfig(width=8, heads=2, mlp_width=10), window=2))
    rotation = tuple(table.double() for table in rotary_table(3, 2, 4))
    draw = torch.Generator().manual_seed(1)
    x, bias = (torch.randn(*shape, dtype=torch.float64, generator=draw) for shape in ((2, 3, 3, 8), (8,)))
    expected = block(x + bias, rotation)
    with torch.inference_mode():
        bias = block.add_to(x, bias, rotation)
    torch.testing.assert_close(x + bias, expected, rtol=0, atol=1e-13)
