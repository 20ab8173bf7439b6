"""A tuned model as a folder of Qwen2.5-VL, adapters merged, for ``extract --checkpoint``."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE

from cache_schema.storage.atomic_io import follow_umask, rename_durably, sync_tree
from pipeline.teachers.latent_action_vlm.checkpoint import TOKENIZER
from pipeline.teachers.latent_action_vlm.making.lora import adapters
from pipeline.teachers.latent_action_vlm.network import HEAD
from pipeline.teachers.latent_action_vlm.prompt import ByteTokenizer
from pipeline.teachers.safetensors_folder import INDEX, SINGLE

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from pipeline.teachers.latent_action_vlm.making.forced_codes import CodeRows
    from pipeline.teachers.latent_action_vlm.teacher import LatentActionTeacher


def write_merged(folder: Path, teacher: LatentActionTeacher, rows: CodeRows, checkpoint: Path | None) -> None:
    """Write a folder in one move; what was there before is replaced.

    Args:
        folder: Where it is to be.
        teacher: With adapters in its language model.
        rows: The trained rows of codes.
        checkpoint: Folder that it began with, whose configuration and tokenizer are kept.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    save_file(merged(teacher, rows), partial / SINGLE, {"format": "pt"})
    if checkpoint is None:
        teacher.model.config.save_pretrained(partial)
        tokenizer = teacher.prompt.tokenizer
        assert isinstance(tokenizer, ByteTokenizer), "random weights read bytes"
        (partial / TOKENIZER).write_text(as_file(tokenizer), encoding="utf-8")
    else:
        for file in sorted(checkpoint.iterdir()):
            if file.suffix in (".json", ".txt", ".jinja") and file.name != INDEX:
                shutil.copyfile(file, partial / file.name)
    follow_umask(partial)
    sync_tree(partial)
    shutil.rmtree(folder, ignore_errors=True)
    rename_durably(partial, folder)


@torch.no_grad()
def merged(teacher: LatentActionTeacher, rows: CodeRows) -> dict[str, Tensor]:
    """Return all weights of an adapted model, by the names of one that has no adapters."""
    model = teacher.model
    weights = {
        name.replace(".layer.", "."): weight.detach()
        for name, weight in model.named_parameters()
        if not name.endswith((".down", ".up"))
    }
    for name, adapter in adapters(model):
        weights[f"{name}.weight"] = adapter.merged
    embedding = "model.language_model.embed_tokens.weight"
    for name, trained in ((embedding, rows.read), *(() if rows.tied else ((HEAD, rows.said),))):
        weights[name] = weights[name].clone()
        weights[name][rows.code_ids.start : rows.code_ids.stop] = trained.to(weights[name].dtype)
    return {name: weight.cpu().contiguous() for name, weight in weights.items()}


def as_file(tokenizer: ByteTokenizer) -> str:
    """Return a tokenizer of ASCII and special tokens as the text of a tokenizer.json."""
    vocabulary = {chr(byte): byte for byte in range(128)} | dict(tokenizer.special)
    written = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    written.add_special_tokens([AddedToken(token, normalized=False) for token in tokenizer.special])
    return written.to_str()
