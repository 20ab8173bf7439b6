import hashlib
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from cache_schema.errors import RequestError
from pipeline.bench2drive.geometry import CAMERAS, LIDAR_TOP, cam2ego, lidar2ego, rigid_inverse
from pipeline.teachers.orion.images import ImagePreprocessing
from student.closed_loop.rig import LIDAR_TO_EGO, RIG
from tests.student.closed_loop.recorded import AGENT, DRIVES, read

IMAGES = ImagePreprocessing()
JPEG_QUALITY = 20


@pytest.mark.parametrize("path", DRIVES, ids=lambda path: path.stem)
def test_the_matrices_are_the_agents(path):
    constants = {name: np.array(rows) for name, rows in json.loads(path.read_text())["constants"].items()}
    np.testing.assert_array_equal(RIG.lidar2cam, constants["lidar2cam"])
    np.testing.assert_allclose(RIG.intrinsic, constants["cam_intrinsic"][:, :3, :3], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(LIDAR_TO_EGO, constants["lidar2ego"])


def test_the_cameras_are_those_of_the_clips():
    assert RIG.cameras == tuple(CAMERAS)
    lidar = lidar2ego(LIDAR_TOP.sensor2ego)
    np.testing.assert_allclose(LIDAR_TO_EGO, lidar, atol=1e-12)
    exact = [rigid_inverse(cam2ego(mount.sensor2ego)) @ lidar for mount in CAMERAS.values()]
    np.testing.assert_allclose(RIG.lidar2cam, exact, atol=1e-8)
    np.testing.assert_allclose(RIG.intrinsic, [m.intrinsic for m in CAMERAS.values()], rtol=0, atol=2e-5)


def test_the_network_sees_the_agents_matrices():
    recorded = load_file(AGENT / "images.safetensors")
    intrinsic = IMAGES.intrinsic(RIG.intrinsic)
    # The agent stretches fy and cy only, not the rounding errors beside them.
    np.testing.assert_allclose(intrinsic, recorded["cam_intrinsic"][:, :3, :3], rtol=0, atol=2e-6)
    lidar2img = intrinsic @ RIG.lidar2cam[:, :3]
    np.testing.assert_allclose(lidar2img, recorded["lidar2img"][:, :3], rtol=0, atol=2e-5)


def test_other_cameras_and_another_order_are_refused():
    RIG.check(list(RIG.cameras))
    for cameras in (RIG.cameras[::-1], RIG.cameras[:5], ()):
        with pytest.raises(RequestError, match="the agent sends images of"):
            RIG.check(cameras)


def raw_frame(seed):
    """(900, 1600, 4) uint8 BGRA, as described beside the recorded vectors."""
    y, x, c = np.ogrid[:900, :1600, :4]
    texture = (x * x // 97 + y * y // 53) % 31 * (c + 1)
    frame = (3 * x + 5 * y + 60 * ((x // 37 + y // 23) % 2) + 17 * seed + 40 * c + texture) % 256
    frame = frame.astype(np.uint8)
    frame[200:420, 300:900, :3] = np.array([40 * seed + 30, 40 * seed + 90, 40 * seed + 160]) % 256
    frame[..., 3] = 255
    return frame


@pytest.mark.parametrize("camera", [name for name in read("images.json") if name.startswith("cam")])
def test_images_from_the_camera_to_the_network(camera):
    notes, recorded = read("images.json")[camera], load_file(AGENT / "images.safetensors")
    frame = raw_frame(notes["seed"])
    assert hashlib.sha256(frame.tobytes()).hexdigest() == notes["bgra_sha256"]
    jpeg = io.BytesIO()
    Image.fromarray(frame[..., 2::-1].copy()).save(jpeg, "JPEG", quality=JPEG_QUALITY)
    image = Image.open(jpeg).convert("RGB")
    decoded = np.asarray(image)[..., ::-1]
    assert hashlib.sha256(decoded.tobytes()).hexdigest() == notes["decoded_bgr_sha256"]

    shrunk = IMAGES.shrink(image)
    bgr = shrunk[::-1].transpose(1, 2, 0)[::4, ::4].astype(int)
    assert np.abs(bgr - recorded[f"{camera}.after_pil_bgr_stride4"]).max() <= 1
    seen = IMAGES.normalise(torch.from_numpy(shrunk)[None])[0].movedim(0, -1)
    np.testing.assert_allclose(
        seen[::8, ::8].numpy(), recorded[f"{camera}.out_rgb_hwc_stride8"], rtol=0, atol=1e-4
    )
    np.testing.assert_allclose(seen.double().sum((0, 1)), notes["out_sum"], rtol=0, atol=1.0)
