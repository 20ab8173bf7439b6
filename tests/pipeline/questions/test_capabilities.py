"""Words of data sets for what a question asks for. The expected values are the spec's."""

import pytest

from cache_schema.errors import RequestError
from cache_schema.vocabulary.attention import CAPABILITIES
from pipeline.questions.capabilities import CAPABILITY_OF, capability_of

SPEC = {
    "perception": "perception perceptual perceive per p Perception visual-perception percept",
    "reasoning": "reasoning reason logical_reasoning logical-reasoning infer r prediction behavior behaviour "
    "Behaviour my_reasons",
    "planning": "planning plan pl d decision motion-planning Planner",
}


def test_the_table_is_of_the_vocabulary():
    assert tuple(CAPABILITY_OF) == CAPABILITIES


@pytest.mark.parametrize(
    ("capability", "word"),
    [(capability, word) for capability, words in SPEC.items() for word in words.split()],
)
def test_words(capability, word):
    assert capability_of(word, "entry 0") == capability


def test_the_first_part_decides_and_a_space_is_a_line():
    assert capability_of("planning for perception", "entry 0") == "perception"
    assert capability_of("Logical Reasoning", "entry 0") == "reasoning"


@pytest.mark.parametrize("word", ["", "vqa", "e", "per-ception", None, 3, ["planning"]])
def test_an_unknown_word_lists_the_mapping(word):
    with pytest.raises(RequestError) as caught:
        capability_of(word, "entry 7 of data.json")
    message = str(caught.value)
    assert "entry 7 of data.json" in message
    for capability, words in CAPABILITY_OF.items():
        assert f"{', '.join(words)} -> {capability}" in message
