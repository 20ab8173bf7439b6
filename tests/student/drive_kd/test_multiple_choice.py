import pytest

from student.drive_kd.evaluation.multiple_choice import chosen, offered


@pytest.mark.parametrize(
    ("question", "letters"),
    [
        ("What is its status? A. Going ahead. B. Turn left.", "AB"),
        ("Choose:\nA) stop\nB) go\nC) wait\nD) turn", "ABCD"),
        ("Which camera? (A) front (B) back (C) left", "ABC"),
        ("A: yes B: no", "AB"),
        ("What are safe actions? A car is ahead.", ""),
        ("Is the U.S.A. Buick near? B. yes C. no", ""),  # no option A
        ("Which of A. one, C. three?", ""),  # and a gap
        ("Only A. this", ""),
        ("B. first A. second", ""),
    ],
)
def test_the_letters_that_a_question_offers(question: str, letters: str):
    assert offered(question) == letters


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("Final: {A. Going ahead.}  \nObject: black sedan", "A"),
        ("Final: {B}", "B"),
        ("Final: B", "B"),
        ("Final: B\nReason: a car.", "B"),
        ("First B. seems right.\nFinal: {A", "A"),
        ("Final: {A}, no. Final: {B}", "B"),
        ("B. Turn left.", "B"),
        ("B) because of a car", "B"),
        ("(B) Turn left.", "B"),
        (" B ", "B"),
        ("A car turns left.", None),  # an article
        ("Final: A car turns left.", None),
        ("It is a car, so B.", None),
        ("b. Turn left.", None),
        ("C. Stop.", None),  # not offered
        ("Final: {C} or A. Going ahead.", None),
        ("Back up.", None),
        ("", None),
    ],
)
def test_the_letter_that_a_text_chooses(text: str, choice: str | None):
    assert chosen(text, "AB") == choice
