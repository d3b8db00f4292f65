"""Golden numbers: what the package computes must not change unless somebody decides that it should.

Every method trains for twenty steps on a tiny random teacher, every sampler draws, a run is
interrupted, a student is saved and opened again; all of it is compared with `golden.json`. With the
same versions of the libraries every number must agree, on the processor that wrote the file to the
last bit, on another to 2 %. Other versions may draw other first weights: the file is skipped then.

`python tests/test_golden.py` writes the file anew.
"""

import hashlib
import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest
import tiny
import torch

from cond_distill import loss
from cond_distill.config import TrainConfig
from cond_distill.loss import codi_loss, sample_noise
from cond_distill.pipeline import CoDiPipeline
from cond_distill.sampler import SAMPLERS, draw_images, sample
from cond_distill.schedule import Schedule
from cond_distill.student import Student, compose
from cond_distill.teacher import Teacher
from cond_distill.tiles import draw_tiled
from cond_distill.trainer import distill

FILE = Path(__file__).with_name("golden.json")
STEPS = 20
CLOSE = 0.02  # how far numbers of another processor may lie from those in the file

# What each run changes in `SMALL`; "teacher" is one of `tiny.MAKERS`, "sd2" unless it is said.
RUNS = {
    "balanced": {},
    "one t a batch, from all timesteps": dict(per_sample=False, timesteps="all"),
    "z_s by the true noise": dict(z_s="noise"),
    "z_s by the teacher": dict(z_s="teacher"),
    "z_s by the forward process": dict(z_s="forward"),
    "Huber distance": dict(distance="huber"),
    "Cauchy distance": dict(distance="cauchy"),
    "boundary": dict(boundary=True),
    "distance between pixels": dict(data_distance="pixels"),
    "adversary": dict(discriminator=0.05, ramp_start=0.0),
    "paper": dict(method="paper", delta=40),
    "data only": dict(method="finetune"),
    "agreement only": dict(method="consistency_only"),
    "progressive": dict(method="progressive", rounds=2),
    "progressive, guided": dict(method="progressive", rounds=3, guidance=2.0),
    "consistency": dict(method="consistency"),
    "consistency, guided, smaller steps": dict(method="consistency", guidance=2.0, rounds=-2),
    "lcm": dict(method="lcm", guidance=3.0),
    "T2I-Adapter": dict(adaptor="t2i"),
    "concat": dict(adaptor="concat"),
    "concat, a picture with a mask": dict(adaptor="concat", task="inpaint"),
    "fusion, a picture with a mask": dict(adaptor="fusion", task="inpaint"),
    "LoRA": dict(adaptor="lora"),
    "every weight": dict(adaptor="full", method="consistency"),
    "captions read anew": dict(adaptor="t2i", reader=1),
    "a grey condition": dict(task="colourise", rank=0),
    "recomputed, in two pieces": dict(gradient_checkpointing=True, gradient_accumulation_steps=2),
    "SD 1": dict(teacher="sd1"),
    "SD XL": dict(teacher="sdxl"),
    "SD 3": dict(teacher="sd3"),
    "pixels": dict(teacher="pixels", adaptor="concat"),
    "pixels, fusion": dict(teacher="pixels", adaptor="fusion"),
    "any step": dict(method="any_step"),
    "any step, box kernel": dict(method="any_step", kernel="box", ramp_start=0.2),
    "any step, concat, in two pieces": dict(
        method="any_step", adaptor="concat", gradient_accumulation_steps=2
    ),
    "any step, pixels, fusion": dict(method="any_step", teacher="pixels", adaptor="fusion"),
    "any step, SD XL": dict(method="any_step", teacher="sdxl", adaptor="t2i"),
    "any step, SD 3": dict(method="any_step", teacher="sd3"),
}
SMALL = dict(
    task="superres_x4",
    adaptor="controlnet",
    steps=STEPS,
    batch=4,
    num_examples=24,
    max_crop_scale=1.5,
    workers=0,
    lr=1e-2,
    grid_every=0,
    save_every=1000,
)


def machine() -> dict:
    """What bits may depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return dict(processor=sorted(names), instructions=torch.backends.cpu.get_cpu_capability())


def versions() -> dict:
    return {k: version(k) for k in ("torch", "diffusers", "transformers", "numpy")}


def described(value):
    """A result as JSON holds it: numbers as hexadecimal text, tensors as a digest and two sums."""
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, dict):
        return {key: described(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(v) for v in value]
    if not torch.is_tensor(value):
        return value
    flat = value.detach().cpu().contiguous().flatten()
    digest = hashlib.sha256(flat.numpy().tobytes()).hexdigest()[:16]
    numbers = [flat.double().mean().item(), flat.double().square().mean().sqrt().item()]
    return dict(shape=list(value.shape), digest=digest, mean_and_size=described(numbers))


def agrees(value, wanted) -> bool:
    """Do two descriptions agree to `CLOSE`? Digests are not looked at."""
    if isinstance(wanted, dict):
        keys = [k for k in wanted if k != "digest"]
        return all(agrees(value[k], wanted[k]) for k in keys)
    if isinstance(wanted, list):
        return len(value) == len(wanted) and all(map(agrees, value, wanted))
    if isinstance(wanted, str) and "0x" in wanted:
        a, b = float.fromhex(value), float.fromhex(wanted)
        return abs(a - b) <= CLOSE * max(abs(a), abs(b), 0.05)
    return value == wanted


class Bench:
    """Teachers, data and finished runs in a temporary folder, each made once."""

    def __init__(self, folder: Path):
        self.folder, self.teachers, self.done = folder, {}, {}
        tiny.pictures(folder / "pictures")
        # its name is held out: the other twelve are trained on
        shutil.copy(folder / "pictures" / "00.png", folder / "pictures" / "held11.png")

    def teacher(self, name: str) -> Teacher:
        if name not in self.teachers:
            tiny.MAKERS[name](self.folder / name)
            self.teachers[name] = Teacher.from_pretrained(self.folder / name)
        return self.teachers[name]

    def config(self, name: str, out: str = "", **changes) -> TrainConfig:
        changes = SMALL | RUNS[name] | changes
        if "method" not in changes:
            changes |= dict(method="codi", max_look_ahead=300.0)
        changes.setdefault("rank", 16 if changes["adaptor"] in ("fusion", "full") else 2)
        return TrainConfig(
            **changes | dict(teacher=str(self.folder / changes.get("teacher", "sd2"))),
            out=str(self.folder / "runs" / (out or name)),
            images=str(self.folder / "pictures"),
            cache=str(self.folder / "cache"),
        )

    def run(self, name: str) -> dict:
        """Twenty steps: the numbers of every step, and the student that was saved."""
        if name not in self.done:
            teacher, cfg = self.teacher(RUNS[name].get("teacher", "sd2")), self.config(name)
            records = list(distill(cfg, teacher, progress=False))
            self.done[name] = numbers(records) | dict(
                weights=weights(Student.load(teacher, cfg.out))
            )
        return self.done[name]

    def student(self, name: str) -> Student:
        self.run(name)
        cfg = self.config(name)
        return Student.load(self.teacher(RUNS[name].get("teacher", "sd2")), cfg.out)


def numbers(records) -> dict:
    return dict(
        loss=[r.loss for r in records],
        gradient=[r.grad_norm for r in records],
        parts=torch.tensor([[r.d_x, r.d_c, r.w_c, r.extra, r.lr] for r in records]),
        evaluations=records[-1].nfe,
    )


def weights(student: Student) -> torch.Tensor:
    of_name = {name.removeprefix("adaptor."): p for name, p in student.named_parameters()}
    return torch.cat([p.detach().flatten() for _, p in sorted(of_name.items())])


def condition(n: int, channels: int = 3, side: int = tiny.SIDE) -> torch.Tensor:
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(7))


def drawings(bench: Bench) -> dict:
    """Every sampler, with teachers and students of every kind."""
    out, captions, cond = {}, list(tiny.CAPTIONS), condition(4)
    for name in tiny.MAKERS:
        out[f"teacher {name}"] = draw_images(
            bench.teacher(name), captions, steps=3, sampler="ddim", guidance=2.0
        )
    for name in SAMPLERS:
        for model, c in ((bench.teacher("sd2"), None), (bench.student("balanced"), cond)):
            states = sample(model, captions, c, steps=4, sampler=name, seed=3, guidance=1.5)
            out[f"{type(model).__name__}, {name}"] = torch.stack([s.x for s in states])
    for name in (
        "concat",
        "T2I-Adapter",
        "lcm",
        "captions read anew",
        "pixels, fusion",
        "SD XL",
        "SD 3",
    ):
        student = bench.student(name)
        guidance = 1.5 if student.teacher.has_text else 1.0
        out[f"student {name}"] = draw_images(student, captions, cond, steps=2, guidance=guidance)
    out["LoRA takes no condition"] = draw_images(bench.student("LoRA"), captions, steps=2)
    students = [bench.student("balanced"), bench.student("concat"), bench.student("LoRA")]
    mixed = compose(students, [0.5, 0.7, 1.0])
    out["three adaptors"] = draw_images(mixed, captions, [cond, cond.flip(0), None], steps=2)
    out["in batches"] = draw_images(bench.student("balanced"), captions, cond, batch=3, steps=1)
    wide = torch.nn.functional.interpolate(cond[:1], (22, 41))
    for name in ("ddim", "renoise"):
        settings = dict(steps=2, sampler=name, seed=5)
        out[f"tiles, {name}"] = draw_tiled(bench.student("concat"), "a red cube", wide, **settings)
    return out


def pipeline(student: Student) -> CoDiPipeline:
    pipe = CoDiPipeline.from_student(student)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pipelines(bench: Bench) -> dict:
    """The pipeline of diffusers' kind, its scheduler, guidance, strength and masks."""
    out = {}
    options = dict(output_type="pt", generator=torch.Generator().manual_seed(0))
    for name in ("balanced", "data only"):
        pipe, cond = pipeline(bench.student(name)), condition(2)
        out[name] = pipe(list(tiny.CAPTIONS[:2]), cond, num_inference_steps=4, **options).images
        settings = dict(guidance_scale=2.0, negative_prompt="a dome", conditioning_scale=0.5)
        out[f"{name}, guided, half as strong"] = pipe(
            "a cone", cond, num_inference_steps=2, **settings, **options
        ).images
    masked = torch.cat([condition(1), condition(1, channels=1).round()], 1)
    pipe = pipeline(bench.student("concat, a picture with a mask"))
    out["a picture with a mask"] = pipe(
        "", masked, num_inference_steps=2, num_images_per_prompt=2, **options
    ).images
    return out


def losses(bench: Bench) -> dict:
    """Losses and their parts for one fixed batch, with all weights and distances."""
    student, out, g = bench.student("balanced"), {}, torch.Generator().manual_seed(1)
    x = torch.randn(4, *student.teacher.latent_shape, generator=g)
    batch = dict(x=x, cond=condition(4), text=student.teacher.embed(list(tiny.CAPTIONS)))
    for timesteps in ("all", "grid"):
        d = sample_noise(student.schedule, x, g, 125, True, 0.8, timesteps, 1.0)
        variants: dict = dict(balanced={}, paper=dict(space="noise", weights=loss.paper_weights))
        variants |= {k: dict(weights=getattr(loss, k)) for k in ("data_only", "consistency_only")}
        for name, options in (variants | {k: dict(distance=k) for k in loss.DISTANCES}).items():
            parts = codi_loss(student, student, batch, d, **options)[1]
            parts = {k: v.item() for k, v in parts.items()} | dict(forwards=int(parts["forwards"]))
            out[f"{name}, {timesteps}"] = parts
    return out


def schedules(bench: Bench) -> dict:
    """The tables of every kind of schedule."""
    betas = tuple(torch.linspace(1e-4, 0.02, 50).tolist())
    all_schedules = dict(
        cosine=Schedule.cosine(),
        scaled_linear=Schedule.scaled_linear(),
        linear=Schedule.linear(100),
        flow=Schedule.flow(shift=3.0),
        sigmoid=Schedule("sigmoid", 100, "epsilon", 1e-4, 0.02),
        trained=Schedule("trained", 50, "sample", betas=betas),
        rescaled=Schedule.cosine().rescale_zero_terminal_snr(),
    )
    out = {}
    for name, s in all_schedules.items():
        t = torch.arange(-1, s.T)
        out[name] = dict(
            alpha=s.alpha(t),
            sigma=s.sigma(t),
            timesteps=[s.timesteps(n) for n in (1, 4, 7)],
            fingerprint=s.fingerprint(),
        )
    return out


OTHERS = dict(drawings=drawings, pipelines=pipelines, losses=losses, schedules=schedules)


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    torch.set_num_threads(1)
    return Bench(tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="module")
def golden() -> dict:
    file = json.loads(FILE.read_text())
    if file["versions"] != versions():
        pytest.skip(f"golden.json was written with {file['versions']}, here are {versions()}")
    return file


def compare(results: dict, wanted: dict, file: dict):
    results = described(results)
    exact = file["machine"] == machine()
    same = (lambda a, b: a == b) if exact else agrees
    assert results.keys() == wanted.keys()
    wrong = [key for key in wanted if not same(results[key], wanted[key])]
    tolerance = "to the last bit" if exact else f"to {CLOSE:.0%}"
    assert not wrong, f"differ {tolerance}: " + "; ".join(
        f"{k}: {results[k]} is not {wanted[k]}" for k in wrong
    )


def some_slow(names, quick: set) -> list:
    """The names, of which all but the quick ones are left out by `make test-fast`."""
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.mark.parametrize("name", some_slow(RUNS, {"balanced"}))
def test_run(name, bench, golden):
    """Twenty steps of a method: every loss, every gradient norm, the finished weights."""
    compare(bench.run(name), golden["runs"][name], golden)


@pytest.mark.parametrize("name", some_slow(OTHERS, {"losses", "schedules"}))
def test_result(name, bench, golden):
    """Samplers, pipelines, losses of one batch, schedules."""
    compare(OTHERS[name](bench), golden[name], golden)


@pytest.mark.parametrize("name", some_slow(["balanced", "progressive", "adversary", "SD 3"], set()))
def test_resumed(name, bench):
    """A run that is left and taken up again is the run that was not."""
    teacher = bench.teacher(RUNS[name].get("teacher", "sd2"))
    cfg = bench.config(name, f"{name}, twice")
    first = distill(cfg, teacher, progress=False)
    records = [next(first) for _ in range(13)]
    first.close()
    records += list(distill(cfg, teacher, progress=False))
    assert [r.step for r in records] == list(range(1, STEPS + 1))
    resumed = numbers(records) | dict(weights=weights(Student.load(teacher, cfg.out)))
    assert described(resumed) == described(bench.run(name))


@pytest.mark.parametrize(
    "name",
    some_slow(
        ["balanced", "concat", "T2I-Adapter", "lcm", "captions read anew", "SD 3"], {"balanced"}
    ),
)
def test_reopened(name, bench, tmp_path):
    """A student that is saved with all its bits and opened again draws the same pictures."""
    student, captions, cond = bench.student(name), list(tiny.CAPTIONS), condition(4)
    student.save(
        tmp_path / "student", **{k: student.about[k] for k in ("task", "sampler", "sampling_steps")}
    )
    again = Student.load(student.teacher, tmp_path / "student")
    assert torch.equal(weights(again), weights(student))
    pictures = [draw_images(s, captions, cond, steps=2, seed=1) for s in (student, again)]
    assert torch.equal(*pictures)


def test_frozen(bench):
    """After all these trainings the teachers are what they were."""
    for name in ("sd2", "pixels"):
        bench.run("balanced")
        used = bench.teacher(name)  # which writes the folder, where no run has done it
        fresh = Teacher.from_pretrained(bench.folder / name)
        assert used.fingerprint(exact=True) == fresh.fingerprint(exact=True)


def write():
    """Write golden.json anew."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        fresh = dict(machine=machine(), versions=versions())
        fresh["runs"] = {name: described(bench.run(name)) for name in RUNS}
        fresh |= {name: described(make(bench)) for name, make in OTHERS.items()}
    FILE.write_text(
        json.dumps(fresh, ensure_ascii=False, separators=(",", ":")).replace('},"', '},\n"') + "\n"
    )


if __name__ == "__main__":
    write()
