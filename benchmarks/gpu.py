"""Everything that only a GPU can show, on one GPU, in eight minutes.

    python -m benchmarks.gpu --wheels       # packages that a machine with torch and transformers may lack
    python -m benchmarks.gpu                # all phases
    python -m benchmarks.gpu --limit 240 --only teacher --only training
    python -m benchmarks.gpu --dry          # the same at tiny width on a CPU, to see that it runs

Weights are random, at the released sizes, and drawn on the GPU. Every number is printed and written when it
is measured. A phase for which there is no time is left out, and so is one that fails, with the reason. Beside
the packages of --wheels, bring this one: ``pip wheel --no-deps .``.

The teacher's steps begin with camera images in pinned memory and end with features in host memory. The first
row is how the reference runs: float32, one clip, the whole prompt. (The reference also keeps its adapters
unmerged, computes attention matrices explicitly, projects padding, and lets every future attend to every
other; this is not reproduced.) Floating-point operations are counted on the meta device: all matrix products
and attention, the latter without masks. The ceiling is a large square matrix product in the same run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import importlib.metadata
import json
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch._inductor.utils import fresh_inductor_cache
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.orion_steps import PlainHeads, WholePrompt, flops, frames, load, separate_passes
from benchmarks.record import Record
from cache_schema.processors import usable_processors
from pipeline.teachers.orion.precision import PrecisionConfig, fp8_rows
from pipeline.teachers.orion.presets import ORION_7B, ORION_TINY_RANDOM
from pipeline.teachers.orion.stream import features_of
from pipeline.teachers.precision import TYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cache_schema.dataset.reader import LatentDataset
    from pipeline.teachers.orion.presets import OrionPreset
    from pipeline.teachers.orion.teacher import OrionTeacher

WHEELS = (
    *("annotated-types", "dask", "distributed", "donfig", "google-crc32c", "locket", "numcodecs", "obstore"),
    *("partd", "pydantic", "pydantic-core", "simplejpeg", "tblib", "typing-inspection", "zarr", "zict"),
)
"""Packages that a machine with torch and transformers may lack."""
RECORDING = Path(__file__).parents[1] / "tests/golden/orion"
TARGETS = {
    "frames/s, fp16 x 8": {"NVIDIA H200": 34, "NVIDIA H100 80GB HBM3": 30},
    "times the reference's loop": 8,
    "share of the ceiling": 0.5,
    "frames/s of training at batch 64": 4000,
}
TERA = 1e12
SLOTS = 8
WARM_UP, STEPS, REPEATS = 3, 12, 20
COMPILE_S = 75
"""Seconds that a compiled student needs to be measured."""


@dataclass(frozen=True)
class Now:
    """An event on a CPU, where everything has been computed as soon as it is called."""

    at_s: float

    def synchronize(self) -> None:
        """Wait for nothing."""

    def elapsed_time(self, later: Now) -> float:
        """Return the milliseconds until a later event."""
        return 1e3 * (later.at_s - self.at_s)


@dataclass(frozen=True)
class Bench:
    """What all phases share."""

    device: str
    record: Record
    ends: float
    """Time (``perf_counter``) at which everything must be done."""
    folder: Path
    """For files that are not kept."""
    exact: list[torch.Tensor] = dataclasses.field(default_factory=list)
    """Vision tokens in fp32, once they have been computed."""

    @property
    def dry(self) -> bool:
        """Whether this only shows that it runs."""
        return self.device == "cpu"

    @property
    def preset(self) -> OrionPreset:
        """The teacher that is timed."""
        released = dataclasses.replace(ORION_7B, random_seed=0, random_device="cuda")
        return ORION_TINY_RANDOM if self.dry else released

    @property
    def seconds_left(self) -> float:
        """Time until everything must be done."""
        return self.ends - time.perf_counter()

    def note(self, *keys: str, value: object) -> None:
        """Print and write a number."""
        self.record.set(*keys, value=value, line=f"{', '.join(keys)}: {json.dumps(value)}")

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if not self.dry:
            torch.cuda.synchronize()

    def mark(self) -> torch.cuda.Event | Now:
        """Return the event that everything so far has been computed."""
        if self.dry:
            return Now(time.perf_counter())
        event = torch.cuda.Event(enable_timing=True, blocking=True)
        event.record()
        return event

    def median_s(self, run: Callable[..., object], *given: object, **more: object) -> float:
        """Return the median seconds of a call on the device."""
        for _ in range(3):
            run(*given, **more)
        took_s = []
        for _ in range(REPEATS):
            self.synchronize()
            begun = time.perf_counter()
            run(*given, **more)
            self.synchronize()
            took_s.append(time.perf_counter() - begun)
        return statistics.median(took_s)


def ceilings(bench: Bench) -> None:
    """Large products in every format, and a copy."""
    side = 256 if bench.dry else 8192
    count = 2 * side**3 / TERA

    def square(dtype: torch.dtype) -> list[torch.Tensor]:
        return [torch.randn(side, side, device=bench.device).to(dtype) for _ in range(2)]

    for name, dtype in TYPES.items():
        a, b = square(dtype)
        bench.note("ceilings", f"{name} TFLOP/s", value=round(count / bench.median_s(torch.mm, a, b), 1))
    a, b = square(torch.float32)
    torch.set_float32_matmul_precision("high")
    bench.note("ceilings", "TF32 TFLOP/s", value=round(count / bench.median_s(torch.mm, a, b), 1))
    torch.set_float32_matmul_precision("highest")
    a, b = (x.to(torch.float8_e4m3fn) for x in square(torch.float32))
    ones = torch.ones(side, 1, device=bench.device)
    took_s = bench.median_s(torch._scaled_mm, a, b.t(), ones, ones.t(), out_dtype=torch.float16)
    bench.note("ceilings", "fp8 TFLOP/s", value=round(count / took_s, 1))
    source = torch.empty(2**20 if bench.dry else 2**31, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    took_s = bench.median_s(target.copy_, source)
    bench.note("ceilings", "copy TB/s", value=round(2 * source.numel() / took_s / TERA, 2))


def kernels(bench: Bench) -> None:
    """Products and attention in the shapes of the teacher, for eight slots."""
    part = 64 if bench.dry else 1

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=bench.device, dtype=torch.float16)

    tokens, words = 76800, 4504
    for name, (rows, outputs, inputs) in {
        "backbone q, k or v": (tokens, 1024, 1024),
        "backbone q, k and v": (tokens, 3072, 1024),
        "backbone MLP in, 2730": (tokens, 2730, 1024),
        "backbone MLP in, 2752": (tokens, 2752, 1024),
        "backbone MLP out, 2730": (tokens, 1024, 2730),
        "backbone MLP out, 2752": (tokens, 1024, 2752),
        "language model q, k or v": (words, 4096, 4096),
        "language model q, k and v": (words, 12288, 4096),
        "language model MLP in": (words, 11008, 4096),
        "language model MLP out": (words, 4096, 11008),
    }.items():
        rows, outputs, inputs = (size // part for size in (rows, outputs, inputs))
        x, weight = randn(rows, inputs), randn(outputs, inputs)
        count = 2 * rows * inputs * outputs / TERA
        rates = {"fp16": round(count / bench.median_s(F.linear, x, weight))}
        if outputs % 16 == inputs % 16 == 0:
            (x, of_x), (weight, of_weight) = fp8_rows(x), fp8_rows(weight)
            took_s = bench.median_s(
                torch._scaled_mm, x, weight.t(), of_x, of_weight.t(), out_dtype=torch.float16
            )
            rates["fp8"] = round(count / took_s)
        bench.note("products TFLOP/s", name, value=rates)
    if bench.dry:
        return
    for name, (rows, heads, length, width, causal) in {
        "backbone, whole image": (48, 16, 1600, 64, False),
        "backbone, window": (432, 16, 256, 64, False),
        "language model": (8, 32, 598, 128, True),
    }.items():
        q, k, v = (randn(rows, length, heads, width).transpose(1, 2) for _ in range(3))
        count = 4 * rows * heads * length**2 * width / TERA / (2 if causal else 1)
        for backend in (
            SDPBackend.CUDNN_ATTENTION,
            SDPBackend.FLASH_ATTENTION,
            SDPBackend.EFFICIENT_ATTENTION,
        ):
            attend = functools.partial(F.scaled_dot_product_attention, q, k, v, is_causal=causal)
            with sdpa_kernel(backend):
                first = attend()
                same = all(torch.equal(first, attend()) for _ in range(5))
                value = {"TFLOP/s": round(count / bench.median_s(attend)), "same bits in 6 runs": same}
            bench.note("attention", name, backend.name, value=value)


def parity(bench: Bench) -> None:
    """The port on this device against the recording of the authors' code."""
    from pipeline.teachers.orion.parity import replay

    for precision in TYPES:
        report = replay(RECORDING, device=bench.device, precision=precision)
        compared = [row for row in report.rows if row.difference is not None]
        worst = max(compared, key=lambda row: (row.difference or 0) / (row.tolerance or 1))
        value = {
            "rows": len(compared),
            "beyond tolerance": len(report.failures),
            "worst": f"{worst.stage}: {worst.difference:.1e} of {worst.tolerance:.1e}",
        }
        bench.note("parity", precision, value=value)


def tiny_dataset(bench: Bench, name: str, device: str) -> Path:
    """Extract a few synthetic clips by a tiny teacher; return the folder of the dataset."""
    from pipeline.bench2drive.source import Bench2Drive
    from pipeline.bench2drive.synthetic import write_demo_data
    from pipeline.extraction.run import extract

    clips, dataset = bench.folder / "clips", bench.folder / f"{name}.zarr"
    if not clips.exists():
        write_demo_data(clips, clips=3, frames=4 if bench.dry else 12)
    teacher = ORION_TINY_RANDOM.load(None, device=device, compile=device == "cuda")
    extract(Bench2Drive(clips).select(), teacher, dataset, slots=2)
    return dataset


def same_bits(bench: Bench) -> None:
    """A tiny dataset extracted twice on this device, and once on the CPU."""
    from cache_schema.dataset.reader import LatentDataset

    opened = []
    for name, device in (("one", bench.device), ("two", bench.device), ("cpu", "cpu")):
        torch.compiler.reset()
        with fresh_inductor_cache():  # as in a process of its own, where everything is compiled again
            opened.append(LatentDataset.open(tiny_dataset(bench, name, device)))
    one, two, cpu = ({name: clips.entry(name).digest for name in clips.clips} for clips in opened)
    bench.note("tiny dataset", "two runs have the same digests", value=one == two)
    bench.note("tiny dataset", "the CPU has the same digests", value=one == cpu)
    for label, a, b in (("the other run", *opened[:2]), ("the CPU", *opened[::2])):
        apart = {spec.name: distance(a, b, spec.name) for spec in ORION_TINY_RANDOM.features}
        bench.note("tiny dataset", f"relative distance from {label}", value=apart)


def distance(a: LatentDataset, b: LatentDataset, feature: str) -> float:
    """Return the largest relative distance of a feature's values over all clips."""
    pairs = [[torch.as_tensor(x.read(name, feature)).double() for x in (a, b)] for name in a.clips]
    return max(((one - other).norm() / other.norm()).item() for one, other in pairs)


@dataclass(frozen=True)
class Pace:
    """Speed of a teacher's steps."""

    frames_per_s: float
    step_ms: float
    peak_gib: float | None


def pace(bench: Bench, teacher: OrionTeacher, slots: int) -> Pace:
    """Time steps as a worker takes them: one is computed while the outputs of the last one are taken in.

    The time is that between the outputs of the last step of the warm-up and those of the last of all, each
    when they have arrived in host memory: so many steps, and no part of another.
    """
    steps = 2 if bench.dry else STEPS
    batches = [frames(bench.preset, slots, index, pin=not bench.dry) for index in range(WARM_UP + steps)]
    if not bench.dry:
        torch.cuda.reset_peak_memory_stats()
    state, arrived = teacher.begin(slots), []
    for batch in batches:
        features, state = teacher.step(batch, state)
        arriving = [values.to("cpu", non_blocking=True) for values in features.values()]
        arrived.append(bench.mark())
        if len(arrived) > 1:
            arrived[-2].synchronize()
    bench.synchronize()
    if not all(values.isfinite().all() for values in arriving):
        raise ArithmeticError("the teacher's features are not finite")
    step_ms = arrived[WARM_UP - 1].elapsed_time(arrived[-1]) / steps
    return Pace(
        frames_per_s=round(1e3 * slots / step_ms, 2),
        step_ms=round(step_ms, 1),
        peak_gib=None if bench.dry else round(torch.cuda.max_memory_allocated() / 2**30, 1),
    )


def compile_layers(teacher: OrionTeacher) -> None:
    """Compile a teacher's layers; forget those of others, of which there may be no more than a few."""
    torch.compiler.reset()
    teacher.model.compile_layers()


def note_pace(
    bench: Bench,
    name: str,
    teacher: OrionTeacher,
    slots: int = SLOTS,
    more: Mapping[str, object] | None = None,
) -> None:
    """Time a teacher; print and write it beside its ratios."""
    measured = pace(bench, teacher, slots)
    content = bench.record.content
    reference = content.get("teacher", {}).get(REFERENCE, {}).get("frames_per_s")
    ceiling = content.get("ceilings", {}).get("fp16 TFLOP/s")
    ratios: dict[str, object] = {}
    if reference:
        ratios["x reference"] = round(measured.frames_per_s / reference, 2)
    if ceiling:
        tflops = flops(bench.preset.config) * measured.frames_per_s / TERA
        ratios |= {"TFLOP/s": round(tflops), "of the fp16 ceiling": round(tflops / ceiling, 3)}
    bench.note("teacher", name, value={**dataclasses.asdict(measured), **ratios, **(more or {})})


REFERENCE = "fp32 x 1, whole prompt (reference)"


def teacher_fp32(bench: Bench) -> None:
    """The teacher as the reference runs it."""
    teacher = load(bench.preset, bench.device, PrecisionConfig("fp32"), aligned=1)
    language = teacher.model.language_model
    teacher.model.set_submodule("language_model", WholePrompt(language))
    note_pace(bench, REFERENCE, teacher, slots=1)
    teacher.model.set_submodule("language_model", language)
    note_pace(bench, "fp32 x 1", teacher, slots=1)
    bench.exact.append(vision_tokens(bench, teacher))


def features_after_two(bench: Bench, teacher: OrionTeacher) -> dict[str, torch.Tensor]:
    """Return the features of the second frame of as many clips as slots, in host memory."""
    state, output = teacher.begin(SLOTS), None
    for index in range(2):
        output, state = teacher.forward(frames(bench.preset, SLOTS, index, pin=not bench.dry), state)
    return {name: values.cpu() for name, values in features_of(output).items()}


def same_twice(bench: Bench, teacher: OrionTeacher) -> bool | list[str]:
    """Return whether a teacher gives the same bits twice, or the features that differ."""
    one, two = features_after_two(bench, teacher), features_after_two(bench, teacher)
    return [name for name in one if not one[name].equal(two[name])] or True


def parts_ms(bench: Bench, teacher: OrionTeacher) -> dict[str, float]:
    """Return the milliseconds of each part of a step of eight slots."""
    model = teacher.model
    parts = {
        "backbone": model.img_backbone,
        "positions of rays": model.ray_positions,
        "detection head": model.pts_bbox_head,
        "map head": model.map_head,
        "language model": model.language_model,
    }
    events: dict[str, list[Any]] = {name: [] for name in parts}

    def mark(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            events[name].append(event)

        return hook

    hooks = []
    for name, module in parts.items():
        hooks += [module.register_forward_pre_hook(mark(name)), module.register_forward_hook(mark(name))]
    features_after_two(bench, teacher)
    for hook in hooks:
        hook.remove()
    bench.synchronize()
    return {name: round(marks[-2].elapsed_time(marks[-1]), 2) for name, marks in events.items()}


def vision_tokens(bench: Bench, teacher: OrionTeacher) -> torch.Tensor:
    """Return the tokens that the backbone makes of the first frames of as many clips as slots."""
    given = []
    hook = teacher.model.img_backbone.register_forward_hook(lambda *call: given.append(call[-1]))
    teacher.forward(frames(bench.preset, SLOTS, 0, pin=not bench.dry), teacher.begin(SLOTS))
    hook.remove()
    return given[0].float().cpu()


def facts(bench: Bench, teacher: OrionTeacher) -> dict[str, object]:
    """Return what else is noted of a teacher beside its speed."""
    found: dict[str, object] = {"same bits twice": same_twice(bench, teacher)}
    for exact in bench.exact:
        error = (vision_tokens(bench, teacher) - exact).norm() / exact.norm()
        found["relative distance of vision tokens from fp32"] = float(f"{error:.1e}")
    return found if bench.dry else found | {"parts ms": parts_ms(bench, teacher)}


def teacher_fp16(bench: Bench) -> None:
    """The teacher in fp16, one improvement after the other."""
    fp16 = PrecisionConfig("fp16")
    with separate_passes():
        teacher = load(bench.preset, bench.device, PlainHeads("fp16"), aligned=1, prefix=False)
        for slots in (1, SLOTS) if bench.dry else (1, 4, SLOTS):
            note_pace(bench, f"fp16 x {slots}, eager", teacher, slots)
        del teacher
        teacher = load(bench.preset, bench.device, PlainHeads("fp16"), prefix=False)
        note_pace(bench, f"fp16 x {SLOTS}, + padded MLPs", teacher)
        fp16.prepare_heads(teacher.model, bench.device)
        note_pace(bench, f"fp16 x {SLOTS}, + heads on tensor cores", teacher)
        teacher.model.language_model.cache_prefix()
        note_pace(bench, f"fp16 x {SLOTS}, + prefix cached", teacher)
    note_pace(bench, f"fp16 x {SLOTS}, + fewer passes", teacher, more=facts(bench, teacher))
    if not bench.dry:  # a CPU's compiler is another one, and takes half a minute
        with separate_passes():
            compile_layers(teacher)
            note_pace(bench, f"fp16 x {SLOTS}, all but fewer passes", teacher, more=facts(bench, teacher))
    begun = time.perf_counter()
    if not bench.dry:
        compile_layers(teacher)
    # Of the first steps after compiling, and below of later ones: on an H200 the first ones have differed.
    first = same_twice(bench, teacher)
    bench.note("teacher", "seconds to compile", value=round(time.perf_counter() - begun, 1))
    note_pace(bench, ALL, teacher, more={"same bits at first": first, **facts(bench, teacher)})
    extraction(bench, teacher)


ALL = f"fp16 x {SLOTS}, all"


def extraction(bench: Bench, teacher: OrionTeacher) -> None:
    """Extraction from synthetic JPEGs to a dataset, with the teacher that has just been timed."""
    from cache_schema.storage.json_lines import read_json_lines
    from pipeline.bench2drive.source import Bench2Drive
    from pipeline.bench2drive.synthetic import write_demo_data
    from pipeline.extraction.log import log_path
    from pipeline.extraction.run import extract

    clips = 2 * SLOTS
    length, workers = (1, 1) if bench.dry else (24, usable_processors())
    write_demo_data(bench.folder / "long", clips=clips, frames=length, workers=workers)
    selection = Bench2Drive(bench.folder / "long").select()
    cpu_s = time.process_time()
    dataset = bench.folder / "long.zarr"
    report = extract(selection, teacher, dataset, slots=SLOTS)
    cpu_s = time.process_time() - cpu_s
    if report.frames != selection.samples:
        raise RuntimeError(f"{report.frames} of {selection.samples} frames were extracted: {report.failed}")
    # The first clip of every slot waits for its first images, and for what a thread's first step plans.
    committed = [line for line in read_json_lines(log_path(dataset), ("kind",)) if line["kind"] == "clip"]
    later = committed[SLOTS:]
    steady = sum(line["frames"] for line in later) / sum(line["wall_s"] for line in later)
    value = {
        "frames": report.frames,
        "frames/s": round(report.frames / report.wall_s, 2),
        "frames/s, later clips": round(steady, 2),
        "share waiting for inputs": round(report.inputs_s / report.wall_s, 3),
        "share waiting for the disk": round(report.disk_s / report.wall_s, 3),
        "cores busy": round(cpu_s / report.wall_s, 2),
    }
    bench.note("extraction", f"fp16 x {SLOTS}, all", value=value)


def teacher_fp8(bench: Bench) -> None:
    """The teacher with its language model in fp8, all improvements."""
    teacher = load(bench.preset, bench.device, PrecisionConfig("fp16", "fp8"))
    if not bench.dry:
        compile_layers(teacher)
    same = same_twice(bench, teacher)
    note_pace(bench, f"fp16 and fp8 x {SLOTS}, all", teacher, more={"same bits twice": same})


def training(bench: Bench) -> None:
    """Training of the student: the loop of ``teachonce train``, its frames on the device."""
    from benchmarks import training as student
    from student.runs.presets import changed

    if bench.dry:
        dataset, sizes, steps, resident = (
            tiny_dataset(bench, "trained", "cpu"),
            {"hidden": 64, "layers": 1},
            1,
            "none",
        )
    else:
        (bench.folder / "training").mkdir()
        _, dataset = student.make_data(bench.folder / "training", files=0, frames=512)
        sizes, steps, resident = {"hidden": 1024, "layers": 6}, 40, "device"
    for batch, compiled in ((64, True), (64, False), (256, True)):
        mode = "compiled" if compiled else "eager"
        if not bench.dry and bench.seconds_left < COMPILE_S:
            bench.note(
                "left out", f"training, batch {batch}, {mode}", value=f"{bench.seconds_left:.0f} s left"
            )
            continue
        torch.compiler.reset()
        config = student.configuration(**sizes, batch=batch, precision="fp32" if bench.dry else "bf16")
        # As above: not on a CPU.
        config = changed(config, {"compile": compiled and not bench.dry})
        run = bench.folder / f"run-{batch}-{compiled}"
        for name, part, rate in student.quietly(
            student.ours(dataset, config, bench.device, steps, resident, run)
        ):
            bench.note("training", f"batch {batch}, {mode}, {name}, {part}", value=round(rate))


def latency(bench: Bench) -> None:
    """Latency of a frame, teacher against student."""
    options = ("--tiny", "--at-least", "1", "--seconds", "0") if bench.dry else ("--seconds", "2")
    precisions = () if bench.dry else ("--precision", "fp16")
    elsewhere(bench, "latency", "--limit", str(max(bench.seconds_left - 20, 10)), *options, *precisions)


def elsewhere(bench: Bench, name: str, *options: str) -> None:
    """Run another benchmark in a process of its own, and take over what it wrote."""
    out = bench.folder / f"{name}.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--out", str(out), *options]
    try:
        subprocess.run(command, check=True, timeout=max(bench.seconds_left, 1))
    finally:
        with contextlib.suppress(OSError, ValueError):
            bench.record.set(name, value=json.loads(out.read_text()))


PHASES: dict[str, tuple[Callable[[Bench], None], float]] = {
    "ceilings": (ceilings, 10),
    "kernels": (kernels, 10),
    "parity": (parity, 15),
    "bits": (same_bits, 40),
    "fp32": (teacher_fp32, 20),
    "teacher": (teacher_fp16, 130),
    "fp8": (teacher_fp8, 30),
    "training": (training, COMPILE_S),
    "latency": (latency, 40),
}
"""Phase -> what it runs, and the seconds without which it is left out."""


def main(
    limit: Annotated[float, typer.Option(help="Seconds for everything.")] = 480.0,
    only: Annotated[list[str] | None, typer.Option(help=f"Phases: {', '.join(PHASES)}. [all]")] = None,
    dry: Annotated[bool, typer.Option("--dry", help="Tiny sizes on the CPU.")] = False,
    wheels: Annotated[bool, typer.Option("--wheels", help="Only list packages to bring along.")] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
) -> None:
    """Measure, phase by phase."""
    if wheels:
        print("\n".join(f"{name}=={importlib.metadata.version(name)}" for name in WHEELS))
        return
    if not dry and not torch.cuda.is_available():
        print("there is no GPU, so that nothing is measured; --dry runs everything at tiny width on the CPU")
        return
    facts: dict[str, object] = {"dry": dry, "targets": TARGETS}
    if not dry:
        properties = torch.cuda.get_device_properties(0)
        facts["gpu"] = {
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
        }
    ends = time.perf_counter() + limit
    record = Record("gpu", out, quick=False, **facts)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench("cpu" if dry else "cuda", record, ends, Path(folder))
        for name in only or PHASES:
            phase, need_s = PHASES[name]
            if not dry and bench.seconds_left < need_s:
                bench.note("left out", name, value=f"{bench.seconds_left:.0f} s left, {need_s} s needed")
                continue
            try:
                phase(bench)
            except Exception as error:  # noqa: BLE001 - one phase must not lose the others
                traceback.print_exc()
                bench.note("failed", name, value=f"{type(error).__name__}: {error}"[:500])
                failed = True
            gc.collect()
            if not dry:
                torch.cuda.empty_cache()
    print(f"written to {record.path}")
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
