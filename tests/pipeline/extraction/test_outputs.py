"""Outputs of a step belong to it alone, whatever a teacher does with its tensors afterwards."""

import numpy as np
import pytest
import torch

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import RequestError
from pipeline.extraction.outputs import HostOutputs
from pipeline.extraction.run import extract
from tests.toy.source import Texts
from tests.toy.teacher import ToyTeacher


def test_tensors_are_copied_before_they_are_overwritten():
    fixed, ragged = torch.arange(6.0).view(2, 3), [torch.tensor([1, 2]), torch.tensor([], dtype=torch.int64)]
    outputs = HostOutputs({"fixed": fixed, "ragged": ragged}, slots=2)
    fixed.zero_()
    ragged[0].zero_()
    outputs.wait()
    first, second = outputs.of_slot(0), outputs.of_slot(1)
    assert first["fixed"].tolist() == [[0, 1, 2]]
    assert second["fixed"].tolist() == [[3, 4, 5]]
    # A ragged feature is a list of one value, as the dataset's writer takes it.
    assert [value.tolist() for value in first["ragged"]] == [[1, 2]]
    assert [value.tolist() for value in second["ragged"]] == [[]]


def test_bfloat16_which_numpy_lacks_arrives_as_float32():
    values = torch.tensor([[0.1]], dtype=torch.bfloat16)
    (array,) = HostOutputs({"x": values}, slots=1).of_slot(0).values()
    assert array.dtype == np.float32
    assert array[0, 0] == 0.10009765625  # 205 / 2048, the nearest of 8 bits


@pytest.mark.parametrize("rows", [torch.zeros(1, 3), [torch.zeros(3)] * 3])
def test_another_number_of_rows_than_slots_is_refused(rows):
    with pytest.raises(RequestError, match=r"returned \d rows of 'x' for 2 slots"):
        HostOutputs({"x": rows}, slots=2)


@pytest.mark.gpu
@pytest.mark.parametrize("number", [0, 1])
def test_outputs_of_a_gpu_that_is_not_the_current_one_are_waited_for(number):
    """The GPU is still computing when it is asked, and a teacher overwrites what was computed at once."""
    if torch.cuda.device_count() <= number:
        pytest.skip("there is one GPU alone")
    values = torch.zeros(2, 1024, device=f"cuda:{number}")
    with torch.cuda.device(0):
        # Pinned memory is used again: what it held before would come instead.
        HostOutputs({"x": values - 1}, slots=2).wait()
        with torch.cuda.device(number):
            torch.cuda._sleep(10**9)  # cycles: about half a second
        outputs = HostOutputs({"x": values.add_(7)}, slots=2)
        values.zero_()
        outputs.wait()
        assert outputs.gpus == {values.device}
        assert (outputs.of_slot(1)["x"] == 7).all()


class StaticTeacher(ToyTeacher):
    """Returns the same buffers at every step, as CUDA graphs and many exporters do."""

    def begin(self, slots):
        self.buffers = {spec.name: torch.empty(slots, *spec.shape) for spec in self.features}
        return 0

    def step(self, batch, state):
        for name, buffer in self.buffers.items():
            buffer.copy_(batch[name])
        self.buffers["length"].fill_(state)
        return self.buffers, state + 1


def test_a_teacher_that_reuses_its_output_buffers(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("\n".join("abcdefghijkl") + "\n")
    path = tmp_path / "x.zarr"
    extract(Texts(tmp_path / "texts").select(), StaticTeacher(), path)
    dataset = LatentDataset.open(path)
    assert dataset.read("a", "length").tolist() == list(range(12))
    assert (dataset.read("a", "letters")[:, 0] * 128).tolist() == [ord(letter) for letter in "abcdefghijkl"]
