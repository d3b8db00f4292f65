"""Nothing is left on the CPU when the work is elsewhere; `disguise.py` says how this is tested.

A device that was registered stays, so all cases run in one process of their own.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import tiny
import torch

from cond_distill import trainer
from cond_distill.adaptors.catalogue import ADAPTORS
from cond_distill.adaptors.several import MultiAdaptor
from cond_distill.config import TrainConfig
from cond_distill.networks import weights_digest
from cond_distill.pipeline import CoDiPipeline
from cond_distill.sampler import SAMPLERS, draw_images
from cond_distill.student import Student
from cond_distill.teacher import Teacher
from cond_distill.tiles import draw_tiled
from cond_distill.training.preflight import preflight

pytestmark = pytest.mark.slow

RUNS = {
    "ControlNet, paper's weights, in pieces": dict(
        method="paper",
        timesteps="all",
        delta=40,
        grid_every=2,
        gradient_accumulation_steps=2,
        gradient_checkpointing=True,
    ),
    "T2I-Adapter, discriminator": dict(adaptor="t2i", discriminator=0.05),
    "concat, an edit": dict(adaptor="concat", task="edit", boundary=True, reader=1),
    "concat, a picture with a mask": dict(adaptor="concat", task="inpaint"),
    "LoRA, z_s by the teacher": dict(adaptor="lora", z_s="teacher"),
    "fusion": dict(adaptor="fusion"),
    "guidance-embedded": dict(method="lcm", guidance=3.0, adaptor="lora"),
    "every weight": dict(adaptor="full", method="consistency"),
}
CAPTIONS = ["a red cube", ""]


def configuration(folder: Path, name: str, device="cpu") -> TrainConfig:
    """Four steps, with a checkpoint after the second."""
    base = TrainConfig(
        teacher=str(folder / "teacher"),
        out=str(folder / name / torch.device(device).type),
        cache=str(folder / "cache"),
        steps=4,
        batch=2,
        rank=2,
        num_examples=8,
        workers=0,
        lr=1e-3,
        save_every=2,
        grid_every=0,
        method="codi",
    )
    changes = RUNS.get(name, {})
    if not ADAPTORS[changes.get("adaptor", "controlnet")].has_rank:
        base = replace(base, rank=TrainConfig.rank)
    if "method" not in changes:
        base = replace(base, ramp_start=0.0, ramp_end=0.0)
    return replace(base, **changes)


def train(cfg: TrainConfig, device) -> torch.Tensor:
    teacher = Teacher.from_pretrained(cfg.teacher, device)
    return torch.tensor([r.loss for r in trainer.distill(cfg, teacher, progress=False)])


def refusal(fn) -> str:
    try:
        fn()
    except (RuntimeError, TypeError) as error:
        return str(error)
    raise AssertionError("this should have been refused")


def check_rules(folder: Path):
    """The disguise refuses what a GPU refuses, and computes what the CPU computes."""
    from disguise import THERE, Disguise

    with Disguise():
        a = torch.ones(2, 3, device=THERE)
        assert "same device" in refusal(lambda: a + torch.ones(2, 3))
        assert "same device" in refusal(lambda: torch.nn.Linear(3, 1)(a))
        assert "numpy" in refusal(a.numpy)
        assert "generator" in refusal(
            lambda: torch.randn(3, device=THERE, generator=torch.Generator())
        )
        layer = torch.nn.Linear(3, 1).to(THERE)
        layer(a).sum().backward()
        assert layer.weight.grad.device == THERE
        assert (a * 2).sum().item() == 12 and torch.equal(a.cpu(), torch.ones(2, 3))


def check_training(folder: Path, name: str):
    """The losses are the CPU's, and a run goes on from the other device's checkpoint."""
    from disguise import THERE, on_both

    on_cpu, on_device = on_both(lambda d: dict(loss=train(configuration(folder, name, d), d)))
    # the first steps of Adam follow the signs of gradients, even of those that are nearly 0
    assert torch.allclose(on_cpu["loss"], on_device["loss"], rtol=1e-2, atol=2e-3), (
        on_cpu,
        on_device,
    )
    cfg = configuration(folder, name, THERE)
    for file in Path(cfg.out).glob("checkpoints/*4.safetensors"):
        file.unlink()
    (Path(cfg.out) / "cond_distill.json").unlink()  # as if it had been stopped after step 2
    rest = train(cfg, "cpu")
    assert len(rest) == 2 and torch.allclose(rest, on_cpu["loss"][2:], rtol=1e-2, atol=2e-3)


def check_resuming(folder: Path, name: str):
    """A run of the CPU goes on from its checkpoint, which is read there, on the other device."""
    from disguise import THERE, at

    cfg = replace(configuration(folder, name), out=str(folder / name / "moved"))
    whole = train(cfg, "cpu")
    for file in Path(cfg.out).glob("checkpoints/*4.safetensors"):
        file.unlink()
    rest = at(THERE, lambda device: train(cfg, device))
    assert len(rest) == 2 and torch.allclose(rest, whole[2:], rtol=1e-2, atol=2e-3), (rest, whole)


def students(folder: Path, device) -> dict[str, Student]:
    """Those that `check_training` has trained on the CPU."""
    teacher = Teacher.from_pretrained(folder / "teacher", device)
    return {name: Student.load(teacher, configuration(folder, name).out) for name in RUNS}


def conditions() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {n: torch.rand(2, n, tiny.SIDE, tiny.SIDE, generator=g) for n in (1, 3, 4)}


def drawings(folder: Path, device) -> dict[str, torch.Tensor]:
    student_of, cond = students(folder, device), conditions()
    controlnet = student_of["ControlNet, paper's weights, in pieces"]
    editor, filler = student_of["concat, an edit"], student_of["concat, a picture with a mask"]
    teacher = controlnet.teacher
    out = {"teacher, guided": draw_images(teacher, CAPTIONS, steps=2, guidance=3.0)}
    for sampler in SAMPLERS:
        out[sampler] = draw_images(
            controlnet, CAPTIONS, cond[1], steps=2, sampler=sampler, guidance=2.0
        )
    both = Student(teacher, MultiAdaptor([filler.adaptor, controlnet.adaptor], [1.0, 0.5]))
    wide = cond[3][:1].repeat(1, 1, 1, 2)
    return out | {
        "two adaptors": draw_images(both, CAPTIONS, [cond[4], cond[1]], steps=2),
        "an edit": draw_images(editor, CAPTIONS, cond[3], steps=2),
        "tiles": draw_tiled(editor, "", wide, steps=2, sampler="ddim"),
    }


def check_drawing(folder: Path):
    """Every sampler, two adaptors at once, tiles."""
    from disguise import differences, on_both

    errors = differences(*on_both(lambda device: drawings(folder, device)))
    assert max(errors.values()) < 1e-4, errors


def places(pipe: CoDiPipeline) -> dict[str, str]:
    parts = {k: p for k, p in pipe.components.items() if isinstance(p, torch.nn.Module)}
    return {k: next(p.parameters()).device.type for k, p in parts.items()}


def check_offloading(folder: Path, name: str, channels: int, **settings):
    """One network of a pipeline is on the device at a time, and the picture is the same."""
    from disguise import THERE, differences, on_both

    devices = []

    def watch(pipe, i, t, tensors):
        devices.append(places(pipe))
        return tensors

    def draw(device):
        pipe = CoDiPipeline.from_student(students(folder, "cpu")[name])
        pipe.set_progress_bar_config(disable=True)
        if device != "cpu":
            pipe.enable_model_cpu_offload(device=THERE)
        images = pipe(
            CAPTIONS,
            conditions()[channels],
            generator=torch.Generator().manual_seed(0),
            num_inference_steps=2,
            output_type="pt",
            callback_on_step_end=watch,
            **settings,
        ).images
        if device != "cpu":
            assert places(pipe)["unet"] == "cpu"  # nothing stays behind
        return dict(images=images)

    errors = differences(*on_both(draw))
    assert max(errors.values()) < 1e-4, errors
    drawing = dict(text_encoder="cpu", unet=THERE.type, vae="cpu", adaptor=THERE.type)
    assert devices[-1] == drawing, devices[-1]


def check_preflight(folder: Path):
    """The checks before a training come to the same results."""
    from disguise import on_both

    def outcomes(device):
        cfg = configuration(folder, "checked", device)
        teacher = Teacher.from_pretrained(cfg.teacher, device)
        return {c.question: c.ok for c in preflight(cfg, teacher, progress=False)}

    on_cpu, on_device = on_both(outcomes)
    assert on_cpu == on_device


def check_that_it_can_fail(folder: Path):
    """Somebody deletes a `.to(device)` in `make_batch`, and trains."""
    from disguise import THERE, at

    whole = trainer.make_batch

    def forgetful(*args, **kwargs):
        batch = whole(*args, **kwargs)
        return batch | dict(cond=batch["cond"].cpu())

    trainer.make_batch = forgetful
    try:
        cfg = configuration(folder, "forgets", THERE)
        assert "same device" in refusal(lambda: at(THERE, lambda device: train(cfg, device)))
    finally:
        trainer.make_batch = whole


def in_its_process(case, args, settings):
    torch.set_num_threads(1)
    case(*args, **settings)


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    """Runs a case in the process that knows the device; the folder has a teacher."""
    folder = tmp_path_factory.mktemp("devices")
    tiny.stable_diffusion(folder / "teacher", "v_prediction")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield lambda case, *args, **settings: pool.submit(
            in_its_process, case, (folder, *args), settings
        ).result()


def test_rules(process):
    process(check_rules)


@pytest.mark.parametrize("name", RUNS)
def test_training(process, name):
    process(check_training, name)


@pytest.mark.parametrize("name", ["T2I-Adapter, discriminator", "LoRA, z_s by the teacher"])
def test_resuming(process, name):
    process(check_resuming, name)


def test_drawing(process):
    process(check_drawing)


GUIDED = dict(guidance_scale=2.0, negative_prompt="a grassy floor")


@pytest.mark.parametrize(
    "name, channels, settings",
    [
        ("ControlNet, paper's weights, in pieces", 1, GUIDED | dict(conditioning_scale=0.5)),
        ("concat, an edit", 3, {}),
        ("fusion", 1, GUIDED),
    ],
)
def test_offloading(process, name, channels, settings):
    process(check_offloading, name, channels, **settings)


def test_preflight(process):
    process(check_preflight)


def test_can_fail(process):
    process(check_that_it_can_fail)


class Moved(torch.Tensor):
    """Weights that note how many numbers of them are moved to the CPU."""

    counts: ClassVar[list[int]] = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.cpu:
            cls.counts.append(args[0].numel())
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize("exact, most", [(False, 512), (True, 3000)])
def test_a_fingerprint_moves_what_it_reads(exact, most):
    """The first numbers of each weight, or all of them; the digits are those of before."""
    weights = torch.randn(30, 100, generator=torch.Generator().manual_seed(0))
    Moved.counts.clear()
    digits = weights_digest("start", [{"w": weights.as_subclass(Moved)}], exact)
    assert Moved.counts == [most]
    assert digits == {False: "0c67de4bfa9b", True: "c2e2c998f5a8"}[exact]
