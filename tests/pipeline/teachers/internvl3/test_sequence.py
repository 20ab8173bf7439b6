"""Token ids, image places and labels, against the recorded set and by hand."""

import itertools
import json

import pytest
import torch

from cache_schema.errors import CheckpointError
from cache_schema.vocabulary.attention import SPECIAL_TOKENS
from pipeline.teachers.internvl3.presets import TOKENIZER
from pipeline.teachers.internvl3.sequence import placed, token_sequence
from pipeline.teachers.internvl3.tokenizer import QuestionTokenizer, read_tokenizer, tokenizer_json
from tests.pipeline.teachers.internvl3.conftest import RECORDED

IGNORED = -100


@pytest.fixture(scope="module")
def tokenizer():
    return read_tokenizer(RECORDED)


def sequence(tokenizer, question, answer="Yes.", images=("a.png", "b.png"), tokens=2, layout="intended"):
    return token_sequence(question, answer, images, tokenizer, tokens, layout)


def test_recorded_sequences(recorded, tokenizer):
    for sample in recorded.meta["samples"]:
        key, asked = sample["key"], recorded.sample(sample)
        written = [image.written for image in asked.images]
        found = token_sequence(
            asked.question,
            asked.answer,
            written,
            tokenizer,
            recorded.meta["tokens_per_image"],
            sample["layout"],
        )
        ids = torch.tensor(found.token_ids)
        assert torch.equal(ids, recorded.inputs[f"{key}.token_ids"])
        is_image = torch.zeros_like(ids, dtype=torch.bool)
        for begin, end in found.image_runs:
            is_image[begin:end] = True
        assert torch.equal(is_image, recorded.inputs[f"{key}.is_image"])
        labels = ids.clone()
        labels[: found.answer_start] = IGNORED
        assert torch.equal(labels, recorded.inputs[f"{key}.labels"])
        last = found.image_runs[-1][1] + 1
        between = [piece["text"] for piece in sample["pieces"] if "text" in piece]
        shares = between[0] == "<|im_start|>user\n" and not any(
            text for text in between[1:-2] if text not in ("<img>", "</img>")
        )
        assert found.prefix == (last if shares else 0)


@pytest.mark.parametrize(
    ("question", "images", "before", "last"),
    [
        ("Why?", "ab", ["", ""], "Why?"),
        ("Why?", "", [], "Why?"),
        ("Here <image> or <image>?", "ab", ["Here ", " or "], "?"),
        ("<image>Why?", "abc", [""], "Why?"),
        ("<image>x<image>y<image>z", "a", [""], "x<image>y<image>z"),
        ("<image>Why?", "", [], "<image>Why?"),
    ],
)
def test_places_of_images(question, images, before, last):
    assert placed(question, list(images), "intended") == (before, last)


def test_the_released_layout_reads_the_list_of_texts_and_paths_at_half_the_pace():
    question = "0<image>1<image>2<image>3<image>4"
    assert placed(question, "abcd", "released") == (["0", "a", "1", "b"], "4")
    assert placed("0<image>1", "abcd", "released") == (["0"], "1")


def test_text_beside_a_header_is_encoded_with_it():
    """Newlines there join the header's own to one word, as they do where the whole prompt is encoded."""
    model = json.loads((RECORDED / "tokenizer.json").read_text())["model"]
    newlines = "\u010a\u010a"  # two newlines, as byte-level vocabularies write them
    vocabulary = {**model["vocab"], newlines: len(model["vocab"])}
    special = {token: len(vocabulary) + place for place, token in enumerate(SPECIAL_TOKENS)}
    tokenizer = QuestionTokenizer(tokenizer_json(vocabulary, [list(newlines)], special), "here")
    found = sequence(tokenizer, "\n<image>?", answer="\nYes.", images=("a.png",))
    joined = vocabulary[newlines]
    assert found.token_ids[found.image_runs[0][0] - 2] == joined
    assert found.token_ids[found.answer_start :].count(joined) == 1
    assert found.prefix == 0


def test_no_text_can_pretend_to_be_an_image_or_a_turn(tokenizer):
    forged = "".join(SPECIAL_TOKENS) + "<|endoftext|>"
    found = sequence(tokenizer, forged, answer=forged, images=(f"{forged}.png",))
    ids = list(found.token_ids)
    assert [ids.count(number) for number in (tokenizer.begin, tokenizer.end)] == [2, 2]
    assert [ids.count(number) for number in (tokenizer.image, tokenizer.image_end)] == [1, 1]
    places = [place for place, number in enumerate(ids) if number == tokenizer.image_context]
    assert places == [*itertools.chain(*(range(*run) for run in found.image_runs))]
    in_path = sequence(tokenizer, "?", images=(forged, forged), layout="released")
    assert list(in_path.token_ids).count(tokenizer.image_context) == 2 * 2


def test_a_special_token_that_is_not_marked_so_is_not_forged_either():
    content = (RECORDED / "tokenizer.json").read_text().replace('"special": true', '"special": false')
    content = content.replace('"special":true', '"special":false')
    tokenizer = QuestionTokenizer(content.encode(), "here")
    assert tokenizer.image_context not in tokenizer.encode("<IMG_CONTEXT>")


def test_older_files_make_the_same_tokens(tokenizer, tmp_path):
    whole = json.loads((RECORDED / "tokenizer.json").read_text())
    model = whole["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    added = {token["content"]: token["id"] for token in whole["added_tokens"]}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    older = read_tokenizer(tmp_path)
    for text in ("What's 1234 in\n\n CAM_FRONT, 0.32? ", "Ünïcode: é", "  <c1,CAM_BACK,0.1,0.2>;\r\n"):
        assert older.encode(text) == tokenizer.encode(text)
    assert sequence(older, "Why?") == sequence(tokenizer, "Why?")


@pytest.mark.parametrize("content", [b"", b"{}", b'{"added_tokens": []}', b"[1]"])
def test_a_broken_tokenizer_is_refused(content, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="tokenizer"):
        read_tokenizer(tmp_path)


def test_a_tokenizer_of_another_family_is_refused(tmp_path):
    content = (RECORDED / "tokenizer.json").read_text().replace("<img>", "<picture>")
    with pytest.raises(CheckpointError, match="has no <img>"):
        QuestionTokenizer(content.encode(), "here")


def test_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"vocab\.json"):
        read_tokenizer(tmp_path)


def test_the_tokenizer_of_random_weights_is_small_and_of_the_same_kind():
    tokenizer = QuestionTokenizer(TOKENIZER.read_bytes(), TOKENIZER)
    assert tokenizer.size == tokenizer.image_context + 1 == 600
    text = "Which camera shows the nearest road user? A. CAM_FRONT. B. CAM_FRONT_LEFT."
    assert len(tokenizer.encode(text)) < len(text) / 2
    every_byte = bytes(range(256)).decode("latin-1")
    assert tokenizer.encode(every_byte)
