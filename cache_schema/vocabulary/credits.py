"""Papers and terms behind known teachers and data, for the card of a dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from cache_schema.format.manifest import DataIdentity, TeacherIdentity


class Term(NamedTuple):
    """A licence that binds what is derived from something."""

    what: str
    licence: str
    why: str


class Credits(NamedTuple):
    """What a dataset is built on."""

    papers: tuple[str, ...]
    """References, in Markdown."""
    terms: tuple[Term, ...]


ORION = Credits(
    papers=(
        "Fu et al., *ORION: A Holistic End-to-End Autonomous Driving Framework by Vision-Language Instructed "
        "Action Generation*, arXiv 2503.19755",
    ),
    terms=(
        Term("ORION", "Apache-2.0", "the teacher's code and weights"),
        Term(
            "Vicuna 1.5",
            "Llama 2 Community License Agreement",
            "the language model that the teacher was trained from",
        ),
    ),
)
_QWEN2_5_VL = "Bai et al., *Qwen2.5-VL Technical Report*, arXiv 2502.13923"
_QWEN2_5_VL_TERM = Term(
    "Qwen2.5-VL",
    "of the 3B: Qwen Research License Agreement, not for commercial use; of others see their model cards",
    "the model that the teacher was tuned from",
)
LATENT_ACTIONS = Credits(
    papers=("*LatentVLA*, arXiv 2601.05611v1, of which this is a reconstruction (LatentVLA-R)", _QWEN2_5_VL),
    terms=(_QWEN2_5_VL_TERM,),
)
AUTOVLA = Credits(
    papers=(
        "Zhou et al., *AutoVLA: A Vision-Language-Action Model for End-to-End Autonomous Driving with "
        "Adaptive Reasoning and Reinforcement Fine-Tuning*, arXiv 2506.13757",
        _QWEN2_5_VL,
    ),
    terms=(Term("AutoVLA", "see its model card", "the teacher's weights"), _QWEN2_5_VL_TERM),
)
INTERNVL3 = Credits(
    papers=(
        "Zhu et al., *InternVL3: Exploring Advanced Training and Test-Time Recipes for Open-Source "
        "Multimodal Models*, arXiv 2504.10479",
        "*Drive-KD*, arXiv 2601.21288, whose attention of a teacher this is",
    ),
    terms=(
        Term("InternVL3", "MIT", "the teacher's code and weights"),
        Term("Qwen2.5", "Apache-2.0", "the language model that the teacher was trained from"),
    ),
)
BENCH2DRIVE = Credits(
    papers=(
        "Jia et al., *Bench2Drive: Towards Multi-Ability Benchmarking of Closed-Loop End-To-End Autonomous "
        "Driving*, NeurIPS 2024 Datasets and Benchmarks",
    ),
    terms=(),
)
TINY_ORION = Credits(papers=ORION.papers, terms=())
"""Trained on synthetic clips alone."""
TEACHERS = {
    "orion-tiny": TINY_ORION,
    "orion-": ORION,
    "internvl3": INTERNVL3,
    "latentvla": LATENT_ACTIONS,
    "autovla": AUTOVLA,
}
"""Credits by the beginning of a teacher's name; the first that fits counts."""
DATA = {"Bench2Drive": BENCH2DRIVE}
"""Credits by the name of the raw data. Their licence is in the manifest."""


def credits_of(teacher: TeacherIdentity, data: DataIdentity) -> Credits:
    """Return the papers and terms behind a dataset; the terms of weights do not bind random ones."""
    known = [DATA[data.name]] if data.name in DATA else []
    known += [found for prefix, found in TEACHERS.items() if teacher.name.startswith(prefix)][:1]
    random = teacher.weights.startswith("random:")
    return Credits(
        papers=tuple(paper for found in known for paper in found.papers),
        terms=() if random else tuple(term for found in known for term in found.terms),
    )
