"""Teachers of latent actions by name: Qwen2.5-VL-3B that was taught codes, AutoVLA, and a tiny one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from cache_schema.errors import RequestError
from cache_schema.progress import SILENT
from pipeline.teachers.latent_action_vlm.options import LatentActionOptions
from pipeline.teachers.options import changed
from pipeline.teachers.precision import check_supported
from pipeline.teachers.weights import not_converted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cache_schema.format.features import FeatureSpec
    from cache_schema.progress import Progress
    from pipeline.teachers.latent_action_vlm.teacher import LatentActionTeacher


@dataclass(frozen=True)
class LatentActionPreset:
    """A teacher of latent actions before its weights are read; implements ``TeacherPreset``."""

    kind: ClassVar[str] = "driving"
    name: str
    """Part of the teacher's identity."""
    sizes: Mapping[str, Any]
    """Arguments of transformers' ``Qwen2_5_VLConfig``. A checkpoint may have others: it states its own."""
    options: LatentActionOptions = field(default_factory=LatentActionOptions)
    random_seed: int | None = None
    """Seed of the weights where no checkpoint is given; None: a checkpoint must be given."""
    random_device: str = "cpu"
    """Where these weights are drawn. Another kind of device draws other weights, as the identity records."""

    @property
    def features(self) -> tuple[FeatureSpec, ...]:
        """Features of every frame, by a model of these sizes."""
        return self.options.features(self.sizes["text_config"]["hidden_size"])

    def configured(self, options: Mapping[str, str]) -> LatentActionPreset:
        """Return the preset with some of its options changed; see ``LatentActionOptions``.

        Raises:
            RequestError: There is no such option, or it cannot have that value.
        """
        return replace(self, options=changed(self.options, options, self.name))

    def load(
        self,
        checkpoint: Path | None,
        *,
        device: str,
        precision: str = "fp32",
        quantize: str | None = None,
        compile: bool = False,
        progress: Progress = SILENT,
    ) -> LatentActionTeacher:
        """Build the teacher; see ``TeacherPreset``. Nothing of it is compiled.

        Raises:
            CheckpointError: The checkpoint is no Qwen2.5-VL, or has no free rows for the codes.
            RequestError: No checkpoint is given, and this preset has no random weights; or it does not come
                in this precision or quantisation.
        """
        del compile
        check_supported(self.name, precision, quantize)
        weights = self.random_seed if checkpoint is None else checkpoint
        if weights is None:
            raise RequestError(
                f"the teacher {self.name} needs a checkpoint",
                expected="--checkpoint with the folder of a Qwen2.5-VL that was taught its codes",
                repair="make one from Qwen2.5-VL-3B by `teachonce tune-vlm`, or try latentvla-tiny",
            )
        # transformers takes seconds to import, and a preset's features are read without loading it.
        from pipeline.teachers.latent_action_vlm.loading import load

        return load(
            self.name,
            self.options,
            weights,
            self.sizes,
            random_device=self.random_device,
            device=device,
            precision=precision,
            progress=progress,
        )

    def convert(self, checkpoint: Path, folder: Path, *, progress: Progress = SILENT) -> None:
        """Refuse: there is nothing to convert.

        Raises:
            RequestError: Always.
        """
        raise not_converted(self.name, checkpoint)


QWEN2_5_VL_3B: Mapping[str, Any] = {
    "text_config": {
        "vocab_size": 151_936,
        "hidden_size": 2048,
        "intermediate_size": 11_008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 2048,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "window_size": 112,
    },
    "image_token_id": 151_655,
    "video_token_id": 151_656,
    "vision_start_token_id": 151_652,
    "vision_end_token_id": 151_653,
    "tie_word_embeddings": True,
}
"""Sizes of Qwen/Qwen2.5-VL-3B-Instruct: 3,754,622,976 weights."""

LATENTVLA_3B = LatentActionPreset("latentvla-3b", QWEN2_5_VL_3B)
"""A folder of a Qwen2.5-VL that was taught 16 latent actions. LatentVLA's own weights are not published."""

AUTOVLA_3B = LatentActionPreset(
    "autovla-3b",
    {**QWEN2_5_VL_3B, "text_config": {**QWEN2_5_VL_3B["text_config"], "vocab_size": 151_665 + 2048}},
    LatentActionOptions(positions=10, codes=2048, code_token="<action_{}>"),
)
"""AutoVLA's actions: one of 2048 motions for each 0.5 s of 5 s. Its own prompt shows four frames of each
camera, of which a sample has one: ``code_mass`` tells whether it answers this one."""

LATENTVLA_TINY = LatentActionPreset(
    "latentvla-tiny",
    {
        "text_config": {
            "vocab_size": 256,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
            "bos_token_id": 244,
            "eos_token_id": 245,
        },
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
            "window_size": 112,
        },
        "image_token_id": 240,
        "video_token_id": 243,
        "vision_start_token_id": 241,
        "vision_end_token_id": 242,
        "tie_word_embeddings": True,
    },
    LatentActionOptions(image_width=112, image_height=56, cell_rows=1, cell_columns=2, first_code=224),
    random_seed=0,
)
"""The same code with small numbers and random weights, and a tokenizer of bytes."""
