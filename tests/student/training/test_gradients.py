"""Gradients of single terms, as rules combine them."""

import torch
from torch import nn

from student.training.gradients import separate_gradients


def test_a_gradient_lies_in_memory_as_its_weight_does():
    """Fused AdamW reads both in the order of memory. Torch gives this convolution's gradient in another."""
    patches = nn.Conv2d(3, 8, 4, stride=4)
    images = torch.rand(2, 12, 12, 3).permute(0, 3, 1, 2)
    loss = patches(images).square().mean()
    (as_torch_gives_it,) = torch.autograd.grad(loss, [patches.weight], retain_graph=True)
    gradients = separate_gradients({"loss": loss}, [patches.weight], lambda term: term)
    (gradient,) = gradients["loss"]
    assert gradient is not None
    assert as_torch_gives_it.stride() != patches.weight.stride()
    assert gradient.stride() == patches.weight.stride()
    assert torch.equal(gradient, as_torch_gives_it)


def test_what_a_term_does_not_reach_has_no_gradient():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    losses = {"one": used.sum(), "nothing": torch.zeros(())}
    gradients = separate_gradients(losses, [used, unused], lambda term: 2 * term)
    assert torch.equal(gradients["one"][0], torch.full((2,), 2.0))
    assert gradients["one"][1] is None
    assert gradients["nothing"] == [None, None]
