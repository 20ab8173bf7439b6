import torch

from pipeline.teachers.latent_action_vlm.making.code_restart import CodeRestart
from pipeline.teachers.latent_action_vlm.making.latent_action_model import VectorQuantiser
from pipeline.teachers.latent_action_vlm.making.training_loop import join_processes
from tests.pipeline.teachers.latent_action_vlm.making.conftest import few

CONFIG = few(restart_every="2", restart_until="0.5")


def watched():
    quantiser = VectorQuantiser(4, 2)
    with torch.no_grad():
        quantiser.codebook.weight[:] = torch.tensor([[0.0, 0], [1, 1], [50, 50], [90, 90]])
    restart = CodeRestart(quantiser.codebook.weight, CONFIG, 8, join_processes(CONFIG, "cpu"))
    latent = torch.tensor([[[0.1, 0], [0.9, 1]], [[0.2, 0], [1.1, 1]]])
    return quantiser, restart, quantiser(latent)


def test_unused_codes_become_outputs_of_the_encoder_and_others_stay():
    quantiser, restart, found = watched()
    before = quantiser.codebook.weight.detach().clone()
    restart.after(found, 0)
    assert torch.equal(quantiser.codebook.weight, before)
    assert restart.counts.tolist() == [2, 2, 0, 0]
    restart.after(found, 1)
    after = quantiser.codebook.weight.detach()
    assert torch.equal(after[:2], before[:2])
    outputs = found.latent.flatten(0, 1)
    assert all((outputs == row).all(1).any() for row in after[2:])
    assert restart.counts.sum() == 0


def test_late_in_a_stage_codes_stay_where_they_are():
    quantiser, restart, found = watched()
    before = quantiser.codebook.weight.detach().clone()
    for step in range(4, 8):
        restart.after(found, step)
    assert torch.equal(quantiser.codebook.weight, before)
