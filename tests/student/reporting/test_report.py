"""Reports of two short runs: numbers as in the evaluation, text that cannot break out, a disk that fills."""

import json
import resource
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from safetensors.numpy import load_file, save_file

from cache_schema.errors import CheckpointError, RequestError
from student.orion_lite.presets import ORION_LITE
from student.reporting import bev
from student.reporting.report import report
from student.reporting.svg import panels, svg
from student.runs.evaluate import evaluate
from student.runs.presets import changed
from student.training.train import train
from tests.student.recipes import SIZES

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """A page as a browser's parser sees it: open elements in order, and text by element."""

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.cells, self.wrong = [], [], [], []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.text += data
        if "td" in self.open and "small" not in self.open:
            self.cells[-1] += data


@pytest.fixture(scope="module")
def trained(dataset_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, layers in (("first", 1), ("second", 2)):
        config = changed(ORION_LITE, {**SIZES, "layers": layers, "epochs": 2, "batch_size": 16})
        train(dataset_path, folder / name, config, trackers=())
        evaluate(folder / name, dataset_path)
    return folder


@pytest.fixture(scope="module")
def one(trained):
    """The page of one run."""
    return report([trained / "first"])


@pytest.fixture(scope="module")
def both(trained):
    """The page of two."""
    return report([trained / "first", trained / "second"])


@pytest.fixture
def runs(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "runs", ignore=shutil.ignore_patterns("report.*", "checkpoints"))
    return tmp_path / "runs"


def test_a_page_stands_alone_and_is_well_formed(one, trained):
    assert one == trained / "first" / "report.html"
    page = Page(one)
    assert page.open == page.wrong == []
    assert "://" not in one.read_text()
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not {"src", "onload", "onerror"} & attributes.keys()
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
    policy = next(attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'")
    drawn = [attributes for tag, attributes in page.tags if tag == "svg"]
    # Losses, four groups (a scenario, a town, a weather, a command), cosines, two sheets of frames.
    assert len(drawn) == 8


def test_a_page_shows_what_the_evaluation_found(one):
    page = Page(one)
    found = json.loads((one.parent / "evaluation.json").read_text())
    for policy in ("student", "teacher", "constant_velocity", "stand_still"):
        for mask in ("complete", "orion"):
            for value in found["l2_m"][policy][mask].values():
                assert f"{value:.3f}" in page.cells
        for value in found["collision"][policy]["complete"].values():
            assert f"{100 * value:.2f}" in page.cells
    low, high = found["similarity"]["planning_token"]["cosine"]["interval"] or (None, None)
    assert low is None or f"{low:.3f} to {high:.3f}" in page.text
    for picture in (*found["pictures"], *found["worst"]):
        clip, frame = picture.split(" ")
        assert clip in page.text
        assert f"frame {frame}" in page.text


def test_the_numbers_are_json_beside_the_page(both, trained):
    runs = trained
    assert both == runs / "report.html"
    shown = json.loads((runs / "report.json").read_text())["runs"]
    assert [run["name"] for run in shown] == ["first", "second"]
    tensors = load_file(runs / "first" / "evaluation.safetensors")
    first, second = shown
    assert first["evaluation"] == json.loads((runs / "first" / "evaluation.json").read_text())
    lines = [json.loads(line) for line in (runs / "first" / "log.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["kind"] == "epoch"]
    assert [epoch["train"] for epoch in first["epochs"]] == [line["train"] for line in lines]
    assert [epoch["val"] for epoch in first["epochs"]] == [line["val"] for line in lines]
    cosines, others = (run["cosines"]["planning_token"] for run in (first, second))
    values = tensors["similarity.planning_token.cosine"]
    assert sum(cosines["counts"]) == len(values) == 24
    below = int((values < np.array(cosines["edges"])[25]).sum())
    assert sum(cosines["counts"][:25]) == below
    assert cosines["edges"] == others["edges"]
    expert, plan, worst = tensors["ground_truth"], tensors["student"], tensors["worst"][0]
    distance = np.linalg.norm(plan[worst] - expert[worst], axis=1)
    up_to = np.mean([distance[:2].mean(), distance[:4].mean(), distance.mean()])
    assert first["worst_l2_m"][0] == pytest.approx(up_to, rel=1e-5)


def test_runs_are_compared_in_one_table(both, runs):
    page = Page(both)
    assert {"first", "second", "layers 1", "layers 2"} <= set(page.cells)
    for name in ("first", "second"):
        found = json.loads((runs / name / "evaluation.json").read_text())
        assert page.cells.count(f"{found['l2_m']['student']['complete']['up_to_mean']:.3f}") >= 2
    assert "do not compare" not in page.text
    (runs / "second" / "evaluation.json").unlink()
    assert "do not compare" in Page(report([runs / "first", runs / "second"])).text


def test_runs_of_one_name_are_distinguished(runs, tmp_path):
    (runs / "first" / "evaluation.json").unlink()
    shutil.copytree(runs / "first", tmp_path / "elsewhere" / "first")
    both = [runs / "first", tmp_path / "elsewhere" / "first"]
    with pytest.raises(RequestError, match="2 runs lie in 2 folders"):
        report(both)
    page = Page(report(both, tmp_path / "both.html"))
    assert {str(run) for run in both} <= set(page.cells)
    with pytest.raises(RequestError, match="no run was given"):
        report([])


def test_a_run_that_is_not_evaluated_has_a_report_of_its_losses(runs, tmp_path):
    (runs / "first" / "evaluation.json").unlink()
    page = Page(report([runs / "first"]))
    assert [tag for tag, _ in page.tags].count("svg") == 1
    with pytest.raises(RequestError, match="no finished epoch"):
        report([tmp_path / "nothing"])


def test_an_evaluation_without_a_teacher_has_a_report(runs):
    def without(found):
        for part in ("l2_m", "collision", "interval"):
            found[part].pop("teacher")
        for group in found["groups"]:
            group["means"].pop("teacher")

    rewritten(runs / "first", without)
    with_arrays(runs / "first", lambda arrays: arrays.pop("teacher"))
    page = Page(report([runs / "first"]))
    assert "teacher" not in page.cells
    assert [tag for tag, _ in page.tags].count("svg") == 8


def test_text_from_files_stays_text(runs):
    evil = '<script>alert("$x$")</script><b>&'
    shutil.copytree(runs / "first", runs / "evil")
    found = json.loads((runs / "evil" / "evaluation.json").read_text())
    found["pictures"][0] = f"{evil} 7"
    found["worst"][0] = f"{evil} 8"
    found["groups"][0]["name"] = evil
    found["missing"] = [evil]
    found["split"] = evil
    (runs / "evil" / "evaluation.json").write_text(json.dumps(found))
    made = json.loads((runs / "evil" / "run.json").read_text())
    made["trained_on"]["teacher"]["name"] = evil
    made["starts"][0]["device"] = evil
    (runs / "evil" / "run.json").write_text(json.dumps(made))
    log = (runs / "evil" / "log.jsonl").read_text().replace('"mimic"', json.dumps(evil))
    (runs / "evil" / "log.jsonl").write_text(log)
    path = report([runs / "evil"], runs / "page.html")
    page = Page(path)
    assert page.open == page.wrong == []
    assert not {"script", "b"} & {tag for tag, _ in page.tags}
    # Two pictures, a group in a figure and in a table, what is missing, the split, teacher, device, a term.
    assert page.text.count(evil) >= 9


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: (run / "evaluation.safetensors").unlink(),
        lambda run: (run / "evaluation.safetensors").write_bytes(b"torn"),
        lambda run: (run / "evaluation.json").write_text("{"),
        lambda run: rewritten(run, lambda found: found["l2_m"].pop("teacher")),
        lambda run: rewritten(run, lambda found: found["interval"]["student"]["orion"].pop("at_1s")),
        lambda run: rewritten(run, lambda found: found["groups"][0]["means"]["student"].pop("up_to_mean")),
        lambda run: with_arrays(run, lambda tensors: tensors.pop("worst")),
        lambda run: with_arrays(run, lambda tensors: tensors.update(picture=np.full(6, 999))),
        lambda run: with_arrays(run, lambda tensors: tensors.update(student=tensors["student"][:3])),
        lambda run: with_arrays(run, lambda tensors: tensors.update({"codes.teacher": np.zeros((3, 12))})),
        lambda run: (run / "run.json").unlink(),
        lambda run: (run / "log.jsonl").write_text('{"kind": "epoch", "epoch": "x", "step": 1}\n'),
    ],
)
def test_what_cannot_be_read_is_an_error(damage, runs):
    damage(runs / "first")
    with pytest.raises(CheckpointError) as caught:
        report([runs / "first"])
    assert str(runs / "first") in caught.value.happened
    assert not (runs / "first" / "report.html").exists()


def test_an_unknown_evaluation_has_a_row_a_number_with_its_interval(runs):
    found = {
        "kind": "other",
        "split": "val",
        "epoch": 2,
        "groups": {"all": {"score": {"value": 0.5, "interval": [0.25, 0.75]}}},
        "alone": {"value": 3.0, "interval": None},
        "lies": {"value": 4.0, "interval": "ab"},
    }
    (runs / "first" / "evaluation.json").write_text(json.dumps(found))
    page = report([runs / "first"])
    begin = Page(page).cells.index("groups.all.score")
    assert Page(page).cells[begin : begin + 6] == ["groups.all.score", "0.5", "alone", "3", "lies", "4"]
    assert "<td>0.5<small>0.25 to 0.75</small></td>" in page.read_text()


def rewritten(run, change):
    found = json.loads((run / "evaluation.json").read_text())
    change(found)
    (run / "evaluation.json").write_text(json.dumps(found))


def with_arrays(run, change):
    tensors = load_file(run / "evaluation.safetensors")
    change(tensors)
    save_file(tensors, run / "evaluation.safetensors")


def test_a_disk_that_fills_leaves_the_report_before(runs):
    for run in runs.iterdir():
        (run / "evaluation.json").unlink()
    before = {runs / "first" / name: b"before" for name in ("report.html", "report.json")}
    for file, content in before.items():
        file.write_bytes(content)
    files = sorted((runs / "first").iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(RequestError, match="cannot be written") as caught:
            report([runs / "first"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "free space" in caught.value.repair
    assert {file: file.read_bytes() for file in before} == before
    assert sorted((runs / "first").iterdir()) == files
    with pytest.raises(RequestError, match="cannot be written"):
        report([runs / "second"], runs / "nowhere" / "page.html")


@pytest.mark.parametrize(
    "out",
    ["run.html", "evaluation.html", "log.jsonl", "run.json", "page.json", "notes.html", ""],
)
def test_a_report_replaces_nothing_but_a_report(out, runs):
    run = runs / "first"
    (run / "notes.json").write_text("{}")
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    with pytest.raises(RequestError, match=r"and is not|is to hold the report's numbers"):
        report([run], run / out)
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_a_report_replaces_a_report(runs):
    run = runs / "first"
    (run / "evaluation.json").unlink()
    for _ in range(2):
        assert report([run], run / "again.html") == run / "again.html"


def test_a_picture_shows_what_is_in_view():
    figure, (ax,) = panels(1, columns=1, width=3, height=4)
    bev.add_ground(ax, half_width_m=20, behind_m=10, ahead_m=40)
    near, far = np.linspace((0, 0), (5, 30), 11), np.full((11, 2), 45.0)
    logits = np.full((3, 6), -3.0)
    logits[:2, 2] = 3.0  # the third lane is none
    bev.add_lanes(ax, np.stack([near, far, near]), logits)
    boxes = np.array([[10, 20, 4, 2, np.pi / 2], [0, 0, 0, 0, 0]])
    bev.add_boxes(ax, boxes, np.array([0, -1]))
    lanes, cars = ax.collections
    assert isinstance(lanes, LineCollection)
    assert isinstance(cars, PolyCollection)
    np.testing.assert_array_equal([path.vertices for path in lanes.get_paths()], [near])
    (car,) = cars.get_paths()
    # It heads forward: 4 m long in y, 2 m wide in x.
    np.testing.assert_allclose(car.vertices[:4].min(axis=0), [9, 18])
    np.testing.assert_allclose(car.vertices[:4].max(axis=0), [11, 22])
    bev.add_trajectory(ax, np.array([[0.0, 2], [1, 4]]), "student")
    np.testing.assert_array_equal(ax.lines[-1].get_xydata(), [[0, 0], [0, 2], [1, 4]])
    assert svg(figure).startswith("<svg")
