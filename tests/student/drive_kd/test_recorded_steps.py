"""Steps of the released optimiser loop, taken by the system, its rule and AdamW."""

import numpy as np
import pytest
import torch

from student.drive_kd.rule import DriveKdRule
from student.drive_kd.system import DriveKdSystem
from student.runs.config import TrainingConfig
from student.step import StepContext
from student.training.optim import adamw
from tests.student.drive_kd.recorded import (
    META,
    SAMPLES,
    SLOTS,
    TERMS,
    batch,
    comparable,
    flat,
    names_of,
    pi_rows,
    relative,
    student,
    tensors,
)

ACCUMULATED = META["grad_accum_steps"]
PER_SAMPLE = [name for name in tensors("gradients") if ".agp" in name]


class Reference:
    """The released loop around our parts: a window of samples is a step, the last may be smaller."""

    def __init__(self, weights, permutations, **options):
        losses = {TERMS[term]: {"weight": weight} for term, weight in META[weights].items()}
        self.system = DriveKdSystem({"pi": pi_rows(), **options}, losses)
        draws = iter(permutations)
        slots = list(SLOTS.values())

        def recorded(rng, followers):
            order = [slots[number] for number in next(draws)]
            return [name for name in order if name in followers]

        self.system.gradients = DriveKdRule(self.system.student, self.system.losses, order=recorded)
        self.model = student(self.system.student.trainable).train()
        training = TrainingConfig(learning_rate=META["lr"], weight_decay=META["weight_decay"])
        self.adamw = adamw(self.model, training)
        for group in self.adamw.param_groups:
            group["betas"], group["eps"] = tuple(META["betas"]), META["adam_eps"]
        self.weights = list(self.model.parameters())

    def micro(self, key, position=0, samples=1):
        """Add a sample's gradient; return its unweighted losses and their weighted sum."""
        context = self.context([position], samples)
        trainable = self.system.student.trainable
        output = self.system.training_step(self.model, batch(key, trainable, shared=13), context)
        self.system.gradients(output.losses, self.weights, lambda loss: loss / ACCUMULATED, context)
        unweighted = {
            term: (output.losses[name] / context.factors[name]).item() for term, name in TERMS.items()
        }
        return unweighted, sum(loss.item() for loss in output.losses.values())

    def context(self, positions, samples):
        return StepContext(0, 0, samples=samples, positions=np.array(positions), device=torch.device("cpu"))

    def step(self, samples):
        context = self.context(range(samples), samples)
        self.system.gradients.end_step(self.weights, lambda value: value, context)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)

    def gradient(self):
        return {
            name: weight.grad for name, weight in self.model.named_parameters() if weight.grad is not None
        }


@pytest.mark.parametrize("name", PER_SAMPLE)
def test_projected_gradients_are_the_recorded_ones(name):
    key, number = name.split(".agp")
    permutation = SAMPLES[key]["permutations"][int(number)]
    reference = Reference("static_weights_per_sample", [permutation], trainable="all")
    reference.micro(key)
    assert relative(flat(reference.gradient()), tensors("gradients")[name]) <= 1e-5


def test_the_plain_sum_is_the_recorded_one():
    keys = [name.removesuffix(".sum") for name in tensors("gradients") if name.endswith(".sum")]
    assert keys
    for key in keys:
        reference = Reference("static_weights_per_sample", [], trainable="all", combination="sum")
        reference.micro(key)
        assert relative(flat(reference.gradient()), tensors("gradients")[f"{key}.sum"]) <= 1e-5


def test_the_optimiser_s_step_is_the_recorded_one():
    (name,) = (name for name in tensors("trajectory") if name.startswith("adamw"))
    recorded = tensors("gradients")[name.split("from_")[1]]
    reference = Reference("static_weights_per_sample", [], trainable="all")
    named, begin = dict(reference.model.named_parameters()), 0
    for remote, shape in META["parameters"]:
        size = int(np.prod(shape))
        part, begin = recorded[begin : begin + size], begin + size
        ours = names_of(remote)
        for weight, gradient in zip(ours, part.chunk(len(ours)), strict=True):
            named[weight].grad = gradient.view_as(named[weight]).clone()
    reference.adamw.step()
    assert relative(flat(named), tensors("trajectory")[name]) <= 1e-6


@pytest.mark.parametrize("name", META["runs"])
def test_a_run_of_some_steps_is_the_recorded_one(name):
    run = META["runs"][name]
    permutations = [micro["permutation"] for micro in run["micro"] if micro["permutation"] is not None]
    reference = Reference(
        run["static_weights"],
        permutations,
        trainable="all" if run["trainable"] == "all" else "language",
        combination="agp" if run["agp"] else "sum",
        weighting="gradnorm" if run["dynamic_weights"] else "static",
        weight_learning_rate=META["dynamic_weight_lr"],
        alpha=META["reweight_alpha"],
    )
    keys = {SAMPLES[key]["dataset_index"]: key for key in reversed(SAMPLES)}
    steps, checked = 0, 0
    for number, micro in enumerate(run["micro"]):
        weights = reference.system.gradients.weights
        assert {term: weights[TERMS[term]] for term in TERMS} == pytest.approx(
            micro["weights_used"], rel=1e-4
        )
        place = number % ACCUMULATED
        window = min(ACCUMULATED, len(run["micro"]) - number + place)
        losses, total = reference.micro(keys[micro["sample"]], place, window)
        assert losses == pytest.approx(micro["losses"], rel=1e-4)
        assert total == pytest.approx(micro["reported_loss"], rel=1e-4)
        if place == window - 1:
            reference.step(window)
            steps += 1
            if f"{name}.step{steps}" in tensors("trajectory"):
                _check_weights(reference.model, tensors("trajectory")[f"{name}.step{steps}"])
                checked += 1
        if "weights_after" in micro:
            weights = reference.system.gradients.weights
            after = {term: weights[TERMS[term]] for term in TERMS}
            assert after == pytest.approx(micro["weights_after"], rel=1e-4)
    assert (steps, checked) == (run["optimizer_steps"], 2)


def _check_weights(model, recorded):
    # What is not trained keeps its first values.
    named = {**tensors("student_hf_names"), **dict(model.named_parameters())}
    assert (flat(named) - recorded)[comparable()].abs().max() <= 2e-6
