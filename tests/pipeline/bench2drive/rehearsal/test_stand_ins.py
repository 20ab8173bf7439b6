"""OpenCV's stand-in gives the pixels that OpenCV gave."""

import hashlib
import importlib.util
import io

import numpy as np
import pytest
from PIL import Image

from pipeline.bench2drive.rehearsal.agent_module import STAND_INS
from tests.student.closed_loop.recorded import read
from tests.student.closed_loop.test_rig import raw_frame

RECORDED = {name: notes for name, notes in read("images.json").items() if name.startswith("cam")}


@pytest.fixture(scope="module")
def cv2():
    spec = importlib.util.spec_from_file_location("stand_in", STAND_INS / "cv2.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("camera", RECORDED)
def test_the_pixels_are_opencv_s(cv2, camera):
    frame = raw_frame(RECORDED[camera]["seed"])
    done, jpeg = cv2.imencode(".jpg", frame[:, :, :3], [cv2.IMWRITE_JPEG_QUALITY, 20])
    assert done
    decoded = np.asarray(Image.open(io.BytesIO(jpeg.tobytes())))[:, :, ::-1]
    assert hashlib.sha256(decoded.tobytes()).hexdigest() == RECORDED[camera]["decoded_bgr_sha256"]
