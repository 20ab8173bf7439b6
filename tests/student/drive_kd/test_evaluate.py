"""Held-out questions: recorded losses, and the replies of students that know the answers or do not."""

import copy
import importlib.util
import io

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.numpy import load, save

from cache_schema.dataset.join import open_dataset
from cache_schema.errors import DatasetError
from student.drive_kd.evaluation import evaluate_questions
from student.drive_kd.evaluation.overlap import BLEU_4, CIDER_D, ROUGE_L
from student.drive_kd.losses import AnswerCe
from student.drive_kd.sample import samples_of
from student.loading.batches import LatentSamples
from tests.student.drive_kd.question_sets import QUESTIONS_ASKED, asked_rows, recorded_rows, write_pair
from tests.student.drive_kd.recorded import SAMPLES, TERMS, answer_start, student, tensors

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("sacrebleu") is None, reason="needs teachonce[evaluate]"
)
CPU = torch.device("cpu")
TRAIN = [question for question in QUESTIONS_ASKED if question.split == "train"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return open_dataset(*write_pair(tmp_path_factory.mktemp("asked"), asked_rows()))


@pytest.fixture(scope="module")
def learned(pair):
    """The student after it has learned the training answers by heart."""
    model = student("language")
    features = ("token_ids", "image_runs", "answer_start", "capability", "image_embeddings")
    samples = LatentSamples(pair, "train", features, device=CPU)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch = samples.read(np.arange(len(samples)))
    for _ in range(300):
        loss = sum(AnswerCe()(model(*s[:3]), s, model) for s in samples_of(batch, "language"))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if loss < 0.02 * len(samples):
            break
    return model.eval()


def test_losses_are_the_recorded_ones(tmp_path):
    keys = [key for key in SAMPLES if f"{key}.r.groups" in tensors("maps")]
    dataset = open_dataset(*write_pair(tmp_path, recorded_rows(keys)))
    model = student("language").eval()
    found, arrays = evaluate_questions(model, dataset, "val", device=CPU, longest_reply=2)
    for term, name in TERMS.items():
        recorded = np.array([SAMPLES[key]["losses"][term] for key in keys])
        assert arrays[f"loss.{name}"] == pytest.approx(recorded, rel=1e-5)
        assert found.groups["all"].losses[name].value == pytest.approx(recorded.mean(), rel=1e-5)
        for place, key in enumerate(keys):
            group = found.groups[SAMPLES[key]["capability"]]
            if group.questions == 1:
                assert group.losses[name].value == pytest.approx(recorded[place], rel=1e-5)
    entropy = np.array([SAMPLES[key]["losses"]["ce"] for key in keys])
    tokens = np.array([SAMPLES[key]["N"] - answer_start(key) for key in keys])
    assert arrays["answer_tokens"].tolist() == tokens.tolist()
    expected = np.exp((entropy * tokens).sum() / tokens.sum())
    assert found.groups["all"].perplexity.value == pytest.approx(expected, rel=1e-5)
    assert arrays["question_id"].tolist() == [20 + place for place in range(len(keys))]
    assert found.longest_reply == 2
    assert found.groups["all"].cut == arrays["cut"].sum() == len(keys)


def test_a_student_that_knows_the_answers_gives_them(pair, learned):
    found, arrays = evaluate_questions(learned, pair, "train", device=CPU)
    ends = arrays["reply_ends"].tolist()
    text = arrays["replies"].tobytes()
    replies = [text[begin:end].decode() for begin, end in zip([0, *ends], ends, strict=False)]
    assert replies == [question.answer for question in TRAIN]
    everything = found.groups["all"]
    assert (everything.clips, everything.questions, everything.cut) == (2, 5, 0)
    assert [*found.groups] == ["all", "perception", "reasoning", "planning"]
    choice = everything.multiple_choice
    assert choice.questions == 3
    assert (choice.accuracy.value, choice.unparsed.value) == (1.0, 0.0)
    assert choice.majority.value == pytest.approx(2 / 3)  # B, B and A
    assert found.groups["reasoning"].multiple_choice.majority.value == 1.0
    assert found.groups["planning"].multiple_choice is None
    assert arrays["choice"].tolist() == [1, 1, -2, 1, -2]
    assert everything.overlap[BLEU_4].value == pytest.approx(100)
    assert everything.overlap[ROUGE_L].value == pytest.approx(1)
    assert 0 < everything.overlap[CIDER_D].value <= 10
    assert (everything.objects.questions, everything.objects.f1.value) == (1, 1.0)
    assert everything.perplexity.value < 1.5
    numbers, intervals = found.numbers(), found.intervals()
    assert (numbers["objects F1"], numbers["accuracy"], numbers["accuracy, reasoning"]) == (1.0, 1.0, 1.0)
    assert intervals["majority"] == choice.majority.interval
    assert "objects F1" not in intervals  # all in one clip


def test_one_that_does_not_know_them_is_wrong(pair, learned):
    # Nothing of this clip was learned: the letter is that of other questions.
    found, arrays = evaluate_questions(learned, pair, "val", device=CPU)
    assert found.groups["all"].multiple_choice.accuracy.value == 0
    assert arrays["choice"].tolist() in ([0], [-1])
    assert found.groups["all"].overlap[BLEU_4].interval is None  # one clip
    silent = copy.deepcopy(learned)
    with torch.no_grad():
        silent.lm_head.weight.zero_()
    found, arrays = evaluate_questions(silent, pair, "train", device=CPU, longest_reply=3)
    choice = found.groups["all"].multiple_choice
    assert (choice.accuracy.value, choice.unparsed.value) == (0.0, 1.0)
    assert arrays["choice"].tolist() == [-1, -1, -2, -1, -2]
    assert found.groups["all"].cut == 5


def test_the_size_of_batches_changes_nothing(pair, learned):
    runs = [evaluate_questions(learned, pair, "all", device=CPU, batch_size=size) for size in (1, 4)]
    assert runs[0][0] == runs[1][0]
    assert save(runs[0][1]) == save(runs[1][1])
    assert load(save(runs[0][1])).keys() == runs[0][1].keys()


def test_terms_that_the_dataset_has_no_signal_for_are_left_out(learned, tmp_path):
    some = open_dataset(*write_pair(tmp_path, asked_rows(TRAIN[:2]), signals=("planning",)))
    found, arrays = evaluate_questions(learned, some, "train", device=CPU)
    assert found.groups["all"].losses.keys() == {"answer_ce", "planning"}
    assert "loss.perception" not in arrays


def test_reasoning_of_groups_for_another_student_is_left_out(learned, pair):
    other = copy.copy(learned)
    other.group_layers = learned.group_layers[:1]
    found, _ = evaluate_questions(other, pair, "val", device=CPU, longest_reply=1)
    assert found.groups["all"].losses.keys() == {"answer_ce", "perception", "planning"}


def test_a_signal_that_questions_of_other_capabilities_lack_is_averaged_over_those_that_have_it(
    learned, pair, tmp_path
):
    clips = asked_rows()
    for rows in clips.values():
        for row in rows:
            if row["capability"] != 0:
                row["attention_first"] = row["attention_first"][:0, :0]
    some = open_dataset(*write_pair(tmp_path, clips))
    found, arrays = evaluate_questions(learned, some, "train", device=CPU)
    whole = evaluate_questions(learned, pair, "train", device=CPU)[1]["loss.perception"]
    assert np.isnan(arrays["loss.perception"]).tolist() == [False, False, True, True, True]
    assert found.groups["all"].losses["perception"].value == pytest.approx(whole[:2].mean())
    assert "perception" not in found.groups["planning"].losses


def test_it_is_shown_in_eighty_columns_as_proxies(pair, learned):
    found, _ = evaluate_questions(learned, pair, "train", device=CPU)
    console = Console(width=80, file=io.StringIO())
    console.print(found)
    shown = console.file.getvalue()
    assert "proxies, not DriveBench scores" in shown
    assert "…" not in shown
    (row,) = (line.split() for line in shown.splitlines() if line.startswith("accuracy"))
    assert row == ["accuracy", "1.000", "1.000..1.000", "1.000", "1.000", "-"]


def test_a_tokenizer_of_another_kind_is_refused(pair, learned, tmp_path):
    clips = asked_rows(TRAIN[:1])
    for rows in clips.values():
        rows[0]["answer_start"] += 1  # the turn then begins without its first token
    other = open_dataset(*write_pair(tmp_path, clips))
    with pytest.raises(DatasetError, match="does not fit its token ids: the assistant's turn begins with"):
        evaluate_questions(learned, other, "train", device=CPU)
