"""A student as a folder of transformers' InternVL, through the ordinary command's function."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, InternVLForConditionalGeneration

from cache_schema.dataset.join import open_dataset
from cache_schema.errors import CheckpointError
from cache_schema.storage.atomic_io import new_file
from student.drive_kd import export
from student.drive_kd.model import normalised
from tests.student.drive_kd.question_sets import TOKENIZER, asked_rows, write_pair
from tests.student.drive_kd.recorded import SET, inputs, relative, student, tensors


@pytest.fixture(scope="module", params=["language", "all"])
def trained(request, tmp_path_factory):
    """A student that is no longer what it began as, and its dataset."""
    model = student(request.param).eval()
    with torch.no_grad():
        for value in model.parameters():
            value += 0.01
    where = tmp_path_factory.mktemp(request.param)
    return model, open_dataset(*write_pair(where, asked_rows(), trainable=request.param))


def test_transformers_loads_it_and_computes_the_same(trained, tmp_path):
    model, dataset = trained
    with new_file(tmp_path / "student") as folder:
        remark = export.export_folder(model, dataset, folder, '{"epoch": 3}')
    assert "logits and the student's differ by" in remark
    assert {path.name for path in (tmp_path / "student").iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "teachonce.json")
    }
    loaded = InternVLForConditionalGeneration.from_pretrained(tmp_path / "student")
    assert loaded.dtype == torch.float32
    ids, runs, pixels = inputs("s1", "all")
    logits = loaded(input_ids=ids[None], pixel_values=normalised(pixels)).logits[0]
    images = pixels
    if model.trainable == "language":  # of the vision tower, as it was frozen
        images = loaded.get_image_features(pixel_values=normalised(pixels)).pooler_output
        assert relative(images, inputs("s1", "language")[2]) <= 1e-5
    assert relative(logits, model(ids, runs, images).logits) <= 1e-5
    # Embedding and head stay two matrices.
    text = json.loads((tmp_path / "student" / "config.json").read_text())
    assert text["tie_word_embeddings"] is text["text_config"]["tie_word_embeddings"] is False
    assert (tmp_path / "student" / "tokenizer.json").read_bytes() == (SET / "tokenizer.json").read_bytes()
    assert json.loads((tmp_path / "student" / "teachonce.json").read_text()) == {"epoch": 3}
    assert loaded.generation_config.eos_token_id == TOKENIZER.token_to_id("<|im_end|>")
    spelled = AutoTokenizer.from_pretrained(tmp_path / "student")("Stop now.<|im_end|>").input_ids
    assert spelled == TOKENIZER.encode("Stop now.<|im_end|>").ids


def test_frozen_weights_are_those_of_the_checkpoint(trained, tmp_path):
    model, dataset = trained
    export.export_folder(model, dataset, tmp_path / "student", "{}")
    written = load_file(tmp_path / "student" / "model.safetensors")
    began = tensors("student_hf_names")
    assert written.keys() == began.keys()
    own = model.state_dict()
    for name, value in written.items():
        assert torch.equal(value, own.get(name, began[name])), name
    kept = [name for name in written if torch.equal(written[name], began[name])]
    frozen = [name for name in began if name not in own]
    assert kept == frozen
    assert bool(frozen) == (model.trainable == "language")


def test_one_that_computes_something_else_is_refused(trained, tmp_path, monkeypatch):
    model, dataset = trained
    monkeypatch.setattr(model.config.text_config, "rms_norm_eps", 0.5)  # the network itself keeps its own
    with pytest.raises(CheckpointError, match=r"logits differ from the student's by .*\n.*at most 1e-04"):
        export.export_folder(model, dataset, tmp_path / "student", "{}")


def test_a_folder_that_lacks_a_weight_is_refused(tmp_path):
    (tmp_path / "sets").mkdir()
    missing = "model.vision_tower.embeddings.cls_token"
    dataset = open_dataset(*write_pair(tmp_path / "sets", asked_rows(), lacking=(missing,)))
    with pytest.raises(CheckpointError, match=rf"loads 1 weights otherwise .* such as {missing}"):
        export.export_folder(student("language"), dataset, tmp_path / "student", "{}")
