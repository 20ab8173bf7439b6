"""LatentVLA-R at the released depths and images, with all widths divided: how fast, how many operations.

Dimension letters: B batch.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.latentvla_set import SetSizes
from cache_schema.vocabulary.driving import TRAJECTORY_STEPS
from pipeline.teachers.latent_action_vlm.options import LatentActionOptions
from pipeline.teachers.latent_action_vlm.presets import LATENTVLA_3B, LATENTVLA_TINY
from student.latentvla.config import LatentVlaConfig
from student.latentvla.model import LatentVla, Sizes
from student.runs.presets import changed, preset
from student.step import StepContext
from student.training.optim import adamw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pipeline.teachers.latent_action_vlm.presets import LatentActionPreset
    from pipeline.teachers.latent_action_vlm.teacher import FrameInputs, LatentActionTeacher
    from student.latentvla.system import LatentVlaSystem
    from student.loading.batches import Batch
    from student.runs.config import RunConfig

STRIP = (1024, 256)
"""Width and height of a strip, pixels."""
CELLS = 36
"""Cells of three images."""
VISION_WINDOW = 4
"""Rows and columns of image tokens that the vision tower's windows hold."""
PATCHES_A_TOKEN = 4
PATCH_VALUES = 3 * 2 * 14 * 14
TRAINED = 3
"""Times the operations of a forward pass that a training step has: forward, and backward to inputs and
weights."""


def teacher_sizes(narrower: int) -> LatentActionPreset:
    """Return ``latentvla-3b`` with random weights, widths divided, and the tiny teacher's tokenizer."""
    sizes: dict[str, Any] = copy.deepcopy({**LATENTVLA_3B.sizes})
    text, vision = sizes["text_config"], sizes["vision_config"]
    for part, name in (
        (text, "hidden_size"),
        (text, "intermediate_size"),
        (vision, "hidden_size"),
        (vision, "intermediate_size"),
        (vision, "out_hidden_size"),
        (vision, "num_heads"),
    ):
        part[name] //= narrower
    # The language model's heads become narrower, as only two have keys. Half a head is divided among time,
    # row and column as 2 : 3 : 3.
    half = text["hidden_size"] // text["num_attention_heads"] // 2
    text["rope_parameters"]["mrope_section"] = [half * 2 // 8, half * 3 // 8, half * 3 // 8]
    tiny = LATENTVLA_TINY.sizes
    text |= {name: tiny["text_config"][name] for name in ("vocab_size", "bos_token_id", "eos_token_id")}
    sizes |= {name: value for name, value in tiny.items() if name.endswith("_token_id")}
    options = LatentActionOptions(first_code=LATENTVLA_TINY.options.first_code)
    return dataclasses.replace(
        LATENTVLA_3B, name=f"latentvla-3b/{narrower}", sizes=sizes, options=options, random_seed=0
    )


def student_sizes(name: str, narrower: int) -> RunConfig:
    """Return a preset of the released sizes with widths divided."""
    config = LatentVlaConfig()
    planner, decision = config.planner, config.decision
    return changed(
        preset(name),
        {
            "student.planner.widths": [width // narrower for width in planner.widths],
            "student.planner.width": planner.width // narrower,
            "student.planner.inner": planner.inner // narrower,
            "student.planner.bev_channels": planner.bev_channels // narrower,
            "student.decision.width": decision.width // narrower,
            "student.decision.inner": decision.inner // narrower,
        },
    )


def set_sizes(narrower: int) -> SetSizes:
    """Return the sizes of a dataset of strips and of that teacher's states."""
    return SetSizes(STRIP, CELLS, LATENTVLA_3B.sizes["text_config"]["hidden_size"] // narrower)


def teacher_flops(sizes: Mapping[str, Any], options: LatentActionOptions, prompt: int) -> int:
    """Return the operations of one frame: 2 for each weight and token, and attention.

    Args:
        sizes: Of the model.
        options: Its images and codes.
        prompt: Tokens of the prompt, images included.
    """
    text, vision = sizes["text_config"], sizes["vision_config"]
    width, steps = text["hidden_size"], options.positions
    keys = width * text["num_key_value_heads"] // text["num_attention_heads"]
    weights = 2 * width * (width + keys) + 3 * width * text["intermediate_size"]
    seen = prompt**2 + sum(prompt + step for step in range(1, steps))
    language = text["num_hidden_layers"] * (2 * weights * (prompt + steps - 1) + 4 * width * seen)
    # The codes' rows in every step; then the whole head for all of them.
    head = 2 * width * steps * (options.codes + text["vocab_size"])

    rows, columns = options.grid
    tokens = rows * columns
    inner = vision["hidden_size"]
    weights = 4 * inner**2 + 3 * inner * vision["intermediate_size"]
    windows = (
        (PATCHES_A_TOKEN * min(VISION_WINDOW, rows - row) * min(VISION_WINDOW, columns - column)) ** 2
        for row, column in itertools.product(range(0, rows, VISION_WINDOW), range(0, columns, VISION_WINDOW))
    )
    whole = len(vision["fullatt_block_indexes"])
    patches = PATCHES_A_TOKEN * tokens
    attended = whole * patches**2 + (vision["depth"] - whole) * sum(windows)
    merged = PATCHES_A_TOKEN * inner
    tower = 2 * patches * (PATCH_VALUES * inner + vision["depth"] * weights) + 4 * inner * attended
    tower += 2 * tokens * merged * (merged + vision["out_hidden_size"])
    return language + head + len(options.cameras) * tower


def counted(compute: Callable[[], object]) -> int:
    """Return the operations of what is computed, attention included."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        compute()
    return counter.get_total_flops()


def student_flops(config: RunConfig, states: int, codes: tuple[int, int]) -> int:
    """Return the operations of the forward pass of a distilled student in training, for one frame."""
    student = LatentVlaConfig.model_validate(config.student)
    with torch.device("meta"):
        model = LatentVla(student, Sizes(STRIP[::-1], TRAJECTORY_STEPS, codes, states))
        model = model.eval().requires_grad_(False)
        strip = torch.zeros(1, *STRIP[::-1], 3, dtype=torch.uint8)
        pooled = torch.zeros(1, CELLS, states), torch.zeros(1, codes[0], states)
        command, before = torch.zeros(1, dtype=torch.int64), torch.zeros(1, codes[0], dtype=torch.int64)
        return counted(lambda: model.forward(strip, command, torch.zeros(1, 18), states=pooled, codes=before))


def told(teacher: LatentActionTeacher, frames: Sequence[FrameInputs]) -> Batch:
    """Return what the teacher tells of prepared frames, as a dataset would give it."""
    values, _ = teacher.step(teacher.collate(frames), None)
    return {
        name: value.float().clone() if value.is_floating_point() else value.long().clone()
        for name, value in values.items()
    }


def training(
    system: LatentVlaSystem, model: torch.nn.Module, config: RunConfig, batches: Iterable[Batch]
) -> Iterator[int]:
    """Train on batches; yield the number of frames after each step."""
    optimizer = adamw(model, config.training)
    done = 0
    for step, batch in enumerate(batches):
        count = len(batch["command"])
        context = StepContext(0, step, samples=count, positions=np.arange(count), device=torch.device("cpu"))
        losses = system.training_step(model, batch, context).losses
        torch.stack([*losses.values()]).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done += count
        yield done


def rates(steps: Iterator[int], seconds: float) -> dict[str, float]:
    """Return frames per second of as many steps as take so long, at least one, after a first one.

    Of wall time, and of the time that this process computed: a busy machine changes the one more than the
    other.
    """
    clocks = {"wall": time.perf_counter, "CPU": time.process_time}
    first = next(steps)
    begun = {name: now() for name, now in clocks.items()}
    for done in steps:
        passed = {name: now() - begun[name] for name, now in clocks.items()}
        if passed["wall"] >= seconds:
            return {name: (done - first) / took_s for name, took_s in passed.items()}
    raise ValueError("there are too few batches")


def milliseconds(compute: Callable[[], object], seconds: float, at_least: int) -> list[float]:
    """Return the times of repeats, which take so long together, after a first one."""
    compute()
    times: list[float] = []
    while len(times) < at_least or math.fsum(times) < 1000 * seconds:
        begun = time.perf_counter()
        compute()
        times.append(1000 * (time.perf_counter() - begun))
    return times
