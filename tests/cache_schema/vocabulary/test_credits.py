from cache_schema.format.manifest import DataIdentity, TeacherIdentity
from cache_schema.vocabulary.credits import credits_of


def teacher(name: str, weights: str) -> TeacherIdentity:
    return TeacherIdentity(name=name, weights=weights, precision="fp32")


DATA = DataIdentity(name="Bench2Drive", licence="CC BY-NC-ND 4.0", frame_rate_hz=10)
OTHER = DataIdentity(name="mine", licence="CC0-1.0", frame_rate_hz=10)


def test_papers_of_teacher_and_data():
    assert [paper[:9] for paper in credits_of(teacher("orion-7b", "sha256:0"), DATA).papers] == [
        "Jia et al",
        "Fu et al.",
    ]
    assert credits_of(teacher("mine", "sha256:0"), OTHER) == ((), ())


def test_papers_and_terms_of_teachers_of_latent_actions():
    ours, theirs = (credits_of(teacher(name, "sha256:0"), OTHER) for name in ("latentvla-3b", "autovla-3b"))
    assert [term.what for term in ours.terms] == ["Qwen2.5-VL"]
    assert "Qwen Research License" in ours.terms[0].licence
    assert "2601.05611v1" in ours.papers[0]
    assert [term.what for term in theirs.terms] == ["AutoVLA", "Qwen2.5-VL"]
    assert credits_of(teacher("latentvla-tiny", "random:0"), OTHER).terms == ()


def test_the_terms_of_weights_do_not_bind_random_ones():
    terms = credits_of(teacher("orion-7b", "sha256:0"), OTHER).terms
    assert [term.what for term in terms] == ["ORION", "Vicuna 1.5"]
    assert credits_of(teacher("orion-tiny", "random:0"), DATA).terms == ()
