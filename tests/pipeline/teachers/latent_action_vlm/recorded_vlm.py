"""The recorded vectors of a Qwen2.5-VL of tiny width, and the model that they were recorded from."""

import functools
import json
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from pipeline.teachers.latent_action_vlm.images import grid_of
from pipeline.teachers.latent_action_vlm.network import build, complete, place
from pipeline.teachers.latent_action_vlm.sequences import Sequences, sequences
from tests.paths import GOLDEN


class Recorded(NamedTuple):
    meta: dict[str, Any]
    tensors: dict[str, Tensor]
    model: Qwen2_5_VLForConditionalGeneration

    @property
    def images(self) -> Tensor:
        return self.tensors["in.images"]

    @property
    def grid(self) -> tuple[int, int]:
        return grid_of((self.images.shape[-1], self.images.shape[-2]))

    @property
    def code_ids(self) -> range:
        first, last = self.meta["code_token_ids"]
        return range(first, last + 1)

    @property
    def count(self) -> int:
        return self.tensors["in.codes"].shape[1]

    def prompts(self, *, padding: int = 0) -> Sequences:
        ids = self.tensors["in.input_ids"][:, : -self.count]
        image_token = self.model.config.image_token_id
        return sequences(ids.tolist(), ids.shape[1] + padding, image_token, self.grid)


@functools.cache
def recorded() -> Recorded:
    folder = GOLDEN / "latentvla"
    meta = json.loads((folder / "vlm.meta.json").read_text())
    tensors = load_file(folder / "vlm.safetensors")
    model = build(Qwen2_5_VLConfig(**meta["config"]))
    for name, weight in tensors.items():
        if name.startswith("weights."):
            place(model, name.removeprefix("weights."), weight, "cpu", weight.dtype)
    complete(model, "cpu")
    return Recorded(meta, tensors, model)
