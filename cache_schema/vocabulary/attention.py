"""Questions about images, as token sequences, and the attention that a vision-language model pays to them.

A clip is everything that is asked about one scene; its *frame* axis counts questions. Questions about the
same images come one after the other, and what they share is stored once.

Dimension letters: N token of a sequence, n image, T token that stands for no image, V token that does, L
group of layers, P token of the prefix that questions about the same images share, S token behind it (N - P).
"""

from __future__ import annotations

from cache_schema.format.features import DType, FeatureSpec

CAPABILITIES = ("perception", "reasoning", "planning")
"""What a question asks for; ``capability`` is the index."""

TOKEN_IDS = "token_ids"
ANSWER_START = "answer_start"
IMAGE_RUNS = "image_runs"
CAPABILITY = "capability"
FRAME_INDEX = "frame_index"
QUESTION_ID = "question_id"
IMAGE_DIGESTS = "image_digests"
PREFIX_SAMPLE = "prefix_sample"
ATTENTION_FIRST = "attention_first"
ATTENTION_PENULTIMATE = "attention_penultimate"
ATTENTION_GROUPS = "attention_groups"
ATTENTION_GROUPS_TO_PREFIX = "attention_groups_to_prefix"
ATTENTION_GROUPS_PREFIX = "attention_groups_prefix"
IMAGES_SAMPLE = "images_sample"
IMAGE_EMBEDDINGS = "image_embeddings"
IMAGE_PIXELS = "image_pixels"

TURN_BEGIN, TURN_END = "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (TURN_BEGIN, TURN_END, "<img>", "</img>", "<IMG_CONTEXT>")
"""Of InternVL3: begin and end of a turn, begin and end of an image, placeholder of an image's tokens."""
USER, ASSISTANT = "user\n", "assistant\n"
"""What the text of a turn begins with."""
PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue in ImageNet, by which InternVL3 normalises pixels between 0 and 1."""

TOKENIZER = "tokenizer"
"""Asset whose tensor ``tokenizer_json`` (bytes) is the tokenizer's file, to turn token ids to text again."""
STUDENT = "student"
"""Asset with the weights that a student starts from, under the names of transformers' InternVL."""

QUESTIONS = (
    FeatureSpec(
        name=CAPABILITY,
        shape=(),
        axes=(),
        dtype="int8",
        role="truth",
        description="perception 0, reasoning 1, planning 2.",
    ),
    FeatureSpec(
        name=FRAME_INDEX,
        shape=(),
        axes=(),
        dtype="int32",
        role="truth",
        description="Number of the frame of the scene that is asked about.",
    ),
    FeatureSpec(
        name=QUESTION_ID,
        shape=(),
        axes=(),
        dtype="int32",
        role="truth",
        description="Number of the question where its data set has them, else its place in the file.",
    ),
    FeatureSpec(
        name=IMAGE_DIGESTS,
        shape=(None, 32),
        axes=("image", "byte"),
        dtype="uint8",
        role="input",
        description="sha256 of the file of every image.",
    ),
)
"""What the source knows of every question."""

SEQUENCE = (
    FeatureSpec(
        name=TOKEN_IDS,
        shape=(None,),
        axes=("token",),
        dtype="int32",
        role="input",
        description="Prompt and answer; tokens that stand for an image have the placeholder's id.",
    ),
    FeatureSpec(
        name=ANSWER_START,
        shape=(),
        axes=(),
        dtype="int32",
        role="input",
        description="Place of the first token that is learned: the header of the assistant's turn.",
    ),
    FeatureSpec(
        name=IMAGE_RUNS,
        shape=(None, 2),
        axes=("image", "begin_end"),
        dtype="int32",
        role="input",
        description="Places of every image's tokens, from the first to behind the last.",
    ),
)
"""What a tokenizer makes of every question and its answer."""


def attention_features(
    groups: int, capabilities: tuple[str, ...] = CAPABILITIES, dtype: DType = "float16"
) -> tuple[FeatureSpec, ...]:
    """Return the features of attention, averaged over heads, that teach some capabilities.

    Args:
        groups: Layers of the student that learn reasoning, L; each from the mean of a group of layers.
        capabilities: Which of ``CAPABILITIES``.
        dtype: float16, or float32 to tell rounding from everything else.
    """
    blocks = {
        "perception": (ATTENTION_FIRST, "the first layer"),
        "planning": (ATTENTION_PENULTIMATE, "the last layer but one"),
    }
    found = [
        FeatureSpec(
            name=name,
            shape=(None, None),
            axes=("text", "vision"),
            dtype=dtype,
            role="target",
            description=f"(T, V) attention of {layer} from every other token to the tokens of images.",
        )
        for capability, (name, layer) in blocks.items()
        if capability in capabilities
    ]
    if "reasoning" not in capabilities:
        return tuple(found)
    return (
        *found,
        FeatureSpec(
            name=PREFIX_SAMPLE,
            shape=(),
            axes=(),
            dtype="int32",
            role="target",
            description="Place in the clip of the sample that holds this one's prefix.",
        ),
        FeatureSpec(
            name=ATTENTION_GROUPS,
            shape=(groups, None, None),
            axes=("group", "to", "from"),
            dtype=dtype,
            role="target",
            encoding="lower-triangle",
            description="(L, S, S) attention among the tokens behind the prefix, mean of a group of layers.",
        ),
        FeatureSpec(
            name=ATTENTION_GROUPS_TO_PREFIX,
            shape=(groups, None, None),
            axes=("group", "to", "from"),
            dtype=dtype,
            role="target",
            description="(L, S, P) attention of the tokens behind the prefix to the prefix.",
        ),
        FeatureSpec(
            name=ATTENTION_GROUPS_PREFIX,
            shape=(groups, None, None),
            axes=("group", "to", "from"),
            dtype=dtype,
            role="target",
            encoding="lower-triangle",
            description="(L, P, P) attention within the prefix: beginning of the prompt, and images.",
            stored_at=PREFIX_SAMPLE,
        ),
    )


_IMAGES_SAMPLE = FeatureSpec(
    name=IMAGES_SAMPLE,
    shape=(),
    axes=(),
    dtype="int32",
    role="input",
    description="Place in the clip of the sample that holds this one's images.",
)


def embedding_features(tokens: int, width: int, dtype: DType = "float16") -> tuple[FeatureSpec, ...]:
    """Return the features of images that a frozen vision tower has seen: so many tokens of a width each."""
    return (
        _IMAGES_SAMPLE,
        FeatureSpec(
            name=IMAGE_EMBEDDINGS,
            shape=(None, tokens, width),
            axes=("image", "token", "channel"),
            dtype=dtype,
            role="input",
            description="Tokens of every image behind the projector: what the language model reads.",
            stored_at=IMAGES_SAMPLE,
        ),
    )


def pixel_features(side: int) -> tuple[FeatureSpec, ...]:
    """Return the features of images that a student sees itself, resized to a square of ``side`` pixels."""
    return (
        _IMAGES_SAMPLE,
        FeatureSpec(
            name=IMAGE_PIXELS,
            shape=(None, side, side, 3),
            axes=("image", "row", "column", "rgb"),
            dtype="uint8",
            role="input",
            description="Images, resized, before normalisation.",
            stored_at=IMAGES_SAMPLE,
        ),
    )
