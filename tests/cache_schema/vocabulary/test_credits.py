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
    assert credits_of(teacher("orion-7b", "random:0"), DATA).terms == ()


def test_the_tiny_orion_is_bound_by_no_terms_of_the_released_one():
    tiny = credits_of(teacher("orion-tiny", "sha256:0"), OTHER)
    assert tiny == (credits_of(teacher("orion-7b", "sha256:0"), OTHER).papers, ())


def test_every_internvl3_is_credited_with_its_terms():
    for name in ("internvl3-8b", "internvl3-1b-vision"):
        found = credits_of(teacher(name, "sha256:0"), OTHER)
        assert found.papers[0].endswith("2504.10479")
        assert {term.licence for term in found.terms} == {"MIT", "Apache-2.0"}
    assert credits_of(teacher("internvl3-tiny", "random:0"), OTHER).terms == ()
