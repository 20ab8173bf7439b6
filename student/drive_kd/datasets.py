"""What the joined datasets say about the student, and whether they fit each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from safetensors.torch import load

from cache_schema.errors import IdentityError, RequestError
from cache_schema.vocabulary.attention import (
    ATTENTION_FIRST,
    ATTENTION_GROUPS,
    ATTENTION_PENULTIMATE,
    IMAGE_EMBEDDINGS,
    IMAGE_PIXELS,
    PIXEL_MEAN,
    PIXEL_STD,
    STUDENT,
)
from student.drive_kd.model import DriveKd
from student.drive_kd.sample import image_feature
from student.flatten import flatten
from student.runs.weights import load_strictly

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from cache_schema.dataset.reader import LatentDataset
    from student.drive_kd.model import Trainable
    from student.loading.dataset import Dataset

ATTENTION = (ATTENTION_FIRST, ATTENTION_GROUPS, ATTENTION_PENULTIMATE)
IMAGE_TOKENS = ("image_token_id", "image_seq_length")
"""Sizes of a model that decide which tokens stand for an image."""
SEES = ("model.vision_tower.", "model.multi_modal_projector.")
"""Beginnings of the names of weights that only a student with ``trainable = all`` has."""


def build_student(dataset: Dataset, trainable: Trainable, features: Sequence[str]) -> DriveKd:
    """Return the student that a dataset holds, with the weights that it starts from.

    Args:
        dataset: The teacher's and the student's, joined.
        trainable: As of ``DriveKd``.
        features: What training reads.

    Raises:
        RequestError: No dataset holds a student, or images as it sees them, or what losses need; or the
            teacher's attention was made for a student of another depth.
        IdentityError: The datasets were not made from the same prompts and pixels.
        CheckpointError: The student's weights do not fit its sizes.
    """
    from transformers import InternVLConfig

    own = student_dataset(dataset)
    _refuse_other_images(dataset, own, trainable)
    dataset.require(features)
    teachers = {
        id(holder): holder for name in ATTENTION if name in features for holder in [dataset.holder(name)]
    }
    for teacher in teachers.values():
        _refuse_other_inputs(own, teacher)
    config = InternVLConfig(**_model_arguments(own))
    model = DriveKd(config, trainable)
    if ATTENTION_GROUPS in features:
        model.group_layers = _group_layers(dataset, own, model.depth)
    weights = starting_weights(own)
    if trainable == "language":
        weights = {name: value for name, value in weights.items() if not name.startswith(SEES)}
    load_strictly(model, weights)
    return model


def student_dataset(dataset: Dataset) -> LatentDataset:
    """Return the one of the joined datasets that holds the student.

    Raises:
        RequestError: None does, or several do.
    """
    own = [one for one in dataset.datasets if one.manifest.asset(STUDENT) is not None]
    if len(own) != 1:
        raise RequestError(
            f"{len(own)} of the datasets {dataset} hold a student",
            expected=f"one with an asset {STUDENT!r}: weights to start from, and images as it sees them",
            repair="extract the same clips with the student's own checkpoint, as by --teacher "
            "internvl3-1b-vision, and join that with --with",
        )
    return own[0]


def starting_weights(own: LatentDataset) -> dict[str, Tensor]:
    """Return the weights that a student starts from, of the dataset that holds it."""
    spec = own.manifest.asset(STUDENT)
    assert spec is not None
    return load(own.asset_bytes(spec))


def _model_arguments(own: LatentDataset) -> dict[str, Any]:
    arguments = own.manifest.teacher.architecture.get("model")
    if not isinstance(arguments, dict):
        raise RequestError(
            f"{own} does not say of which sizes its student is",
            expected="an architecture 'model' in the manifest: arguments of transformers' InternVLConfig",
            repair="extract it again with this version",
        )
    return cast("dict[str, Any]", arguments)


def _refuse_other_images(dataset: Dataset, own: LatentDataset, trainable: Trainable) -> None:
    """Check that images are there in the form that the student reads, by the student's own checkpoint."""
    wanted = image_feature(trainable)
    if own.manifest.feature(wanted) is None:
        other = {IMAGE_EMBEDDINGS: IMAGE_PIXELS, IMAGE_PIXELS: IMAGE_EMBEDDINGS}[wanted]
        raise RequestError(
            f"{own} has no {wanted}, which a student reads whose trainable part is {trainable!r}"
            + (f"; it has {other}" if own.manifest.feature(other) else ""),
            expected="embeddings (internvl3-*-vision) to train the language model, pixels "
            "(internvl3-*-pixels) to train everything",
            repair="join the other dataset, or use --set student.trainable="
            + ("all" if trainable == "language" else "language"),
        )
    recipe = own.manifest.teacher.preprocessing.get("image", {})
    normalised = recipe.get("mean"), recipe.get("std")
    expected = list(PIXEL_MEAN), list(PIXEL_STD)
    if trainable == "all" and tuple(list(numbers or ()) for numbers in normalised) != expected:
        raise RequestError(
            f"{own} normalises pixels by mean {normalised[0]} and deviation {normalised[1]}",
            expected=f"{expected[0]} and {expected[1]}, as every InternVL3",
            repair="use a student that was trained with these",
        )


def _refuse_other_inputs(own: LatentDataset, teacher: LatentDataset) -> None:
    """Check that teacher and student read the same prompts and pixels.

    That their tokens are the same is known from joining: token ids must be equal.
    """
    inputs = [
        flatten({field: identity.preprocessing.get(field) for field in ("layout", "image")})
        | {field: identity.architecture.get("model", {}).get(field) for field in IMAGE_TOKENS}
        for identity in (teacher.manifest.teacher, own.manifest.teacher)
    ]
    fields = dict.fromkeys((*inputs[0], *inputs[1]))
    found = {field: tuple(one.get(field) for one in inputs) for field in fields}
    differing = {field: both for field, both in found.items() if both[0] != both[1]}
    if differing:
        raise IdentityError(
            f"{teacher} and {own} were made from other inputs: "
            + "; ".join(f"{field} {there!r} and {here!r}" for field, (there, here) in differing.items()),
            expected="one prompt layout and one recipe for pixels, and the same tokens for an image",
            repair="extract one of them again with the other's layout (--set layout=...) and checkpoints of "
            "one family",
        )


def taught_layers(teacher: LatentDataset) -> tuple[int, ...] | None:
    """Return the layers of a student that a teacher's groups of layers teach; None where it has none."""
    attention = teacher.manifest.teacher.architecture.get("attention")
    if not isinstance(attention, dict) or "groups" not in attention:
        return None
    return tuple(int(group[0]) for group in attention["groups"])


def _group_layers(dataset: Dataset, own: LatentDataset, depth: int) -> tuple[int, ...]:
    """Return the layers of the student that learn from groups of the teacher's."""
    teacher = dataset.holder(ATTENTION_GROUPS)
    attention = teacher.manifest.teacher.architecture.get("attention")
    layers = taught_layers(teacher)
    if not isinstance(attention, dict) or layers is None:
        raise RequestError(
            f"{teacher} does not say which layers its {ATTENTION_GROUPS} stand for",
            expected="an architecture 'attention' in the manifest, with the groups of layers",
            repair="extract it again with this version",
        )
    stored = teacher.feature(ATTENTION_GROUPS).shape[0]
    if attention.get("student_layers") != depth or len(layers) != stored or max(layers) >= depth:
        raise RequestError(
            f"the attention in {teacher} was averaged for a student of {attention.get('student_layers')} "
            f"layers, {stored} of which learn; the student in {own} has {depth}",
            expected="groups of the teacher's layers that were made for this student",
            repair=f"extract the teacher again with --set student_layers={depth}, or choose losses without "
            "reasoning",
        )
    return layers
