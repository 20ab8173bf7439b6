import pytest

from student.drive_kd.evaluation.objects import Tagged, match_f1, tagged


def test_fractions_become_pixels_and_pixels_stay():
    text = "<c1,CAM_FRONT,0.5,0.25> is near < c12, CAM_BACK_LEFT , 1055.5, 480 > and 0.3, 0.4"
    assert tagged(text) == [Tagged("CAM_FRONT", 800.0, 225.0), Tagged("CAM_BACK_LEFT", 1055.5, 480.0)]


ANSWER = "<c1,CAM_FRONT,0.5,0.5>, then <c2,CAM_FRONT,0.51,0.5>"  # (800, 450) and (816, 450)


@pytest.mark.parametrize(
    ("reply", "f1"),
    [
        (ANSWER, 1.0),
        ("<c9,CAM_FRONT,0.505,0.508>", 2 / 3),  # 8 + 7.2 pixels from both: one of two, no false one
        ("<c1,CAM_FRONT,0.5,0.518>", 0.0),  # 16.2 pixels
        ("<c1,CAM_FRONT,784.0,450.0>", 0.0),  # 16 pixels are not fewer
        ("<c1,CAM_FRONT,784.5,450.0>", 2 / 3),
        ("<c1,CAM_BACK,0.5,0.5>", 0.0),  # another camera
        ("nothing", 0.0),
        # The first takes the nearer one (816), and leaves nothing within reach of the second.
        ("<c1,CAM_FRONT,812.0,450.0> <c2,CAM_FRONT,826.0,450.0>", 0.5),
        # Of three, two are found: 2 * 2 / (3 + 2).
        (f"{ANSWER} <c3,CAM_FRONT,0.1,0.1>", 0.8),
    ],
)
def test_objects_are_matched_greedily(reply: str, f1: float):
    assert match_f1(reply, ANSWER) == pytest.approx(f1)


def test_an_answer_without_objects_is_not_measured():
    assert match_f1(ANSWER, "Keep going, 0.5,0.5.") is None
