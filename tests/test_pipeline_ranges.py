"""Numbers that are not finite, or make no sense, are refused by name wherever they come in."""

import math

import drawing
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from cond_distill import cli
from cond_distill.adaptors.scalar_input import GuidanceEmbedded
from cond_distill.config import ReproduceConfig, TrainConfig
from cond_distill.options import DemoConfig, EvaluateConfig, SampleConfig
from cond_distill.pipeline import CoDiPipeline
from cond_distill.pipeline_inputs import check_guidance
from cond_distill.ranges import RANGES, check_range
from cond_distill.sampler import draw_images, sample
from cond_distill.scheduler import CoDiScheduler
from cond_distill.student import Student, compose
from cond_distill.tiles import draw_tiled

BAD = (math.nan, math.inf, 1e30, -1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranges")


@pytest.mark.parametrize("name", RANGES)
def test_table(name):
    low, high = RANGES[name]
    check_range(**{name: low})
    check_range(**{name: high})
    for bad in (*BAD, "1", None, True):
        with pytest.raises((ValueError, TypeError), match=f"^{name} is .*expected .* number"):
            check_range(**{name: bad})


@pytest.mark.parametrize("bad", BAD)
def test_drawing(folder, bad):
    teacher = drawing.teacher(folder)
    student, cond = drawing.student(teacher), drawing.condition()
    pipe = drawing.pipeline(folder)
    for name, draw in {
        "guidance": lambda: next(sample(teacher, [""], guidance=bad)),
        "guidance ": lambda: draw_images(student, [""], cond, guidance=bad),
        "guidance  ": lambda: draw_tiled(student, "", cond, guidance=bad),
        "overlap": lambda: draw_tiled(student, "", cond, overlap=bad),
        "strength": lambda: compose([student, student], [1.0, bad]),
        "guidance   ": lambda: pipe("", cond, guidance_scale=bad),
        "conditioning_scale": lambda: pipe("", cond, conditioning_scale=bad),
        "latents": lambda: pipe("", cond, latents=torch.full((1, 4, 8, 8), 2 * bad * 100)),
    }.items():
        with pytest.raises(ValueError, match=f"^{name.strip()}"):
            draw()


def test_generators(folder):
    pipe = drawing.pipeline(folder)
    for n in (1, 3):
        with pytest.raises(ValueError, match=f"^{n} generators for 2 pictures"):
            pipe("", drawing.condition(2), generator=[drawing.noise(k) for k in range(n)])
    pipe("", drawing.condition(2), generator=[drawing.noise(k) for k in range(2)])


def test_scheduler_of_another_model(folder):
    """A scheduler that is put in afterwards is refused at the call, with what to do."""
    from diffusers import EulerDiscreteScheduler

    pipe = drawing.pipeline(folder)
    pipe.scheduler = EulerDiscreteScheduler()
    with pytest.raises(ValueError, match="EulerDiscreteScheduler.*CoDiScheduler.of"):
        pipe("", drawing.condition())


@pytest.mark.parametrize("name", ["max_grad_norm", "target_decay", "guidance", "caption_dropout"])
@pytest.mark.parametrize("bad", BAD)
def test_training(name, bad):
    with pytest.raises(ValueError, match=f"^{name} is"):
        TrainConfig(**{name: bad})


def test_weights(folder, tmp_path):
    """An adaptor whose training has diverged is neither saved nor opened."""
    teacher = drawing.teacher(folder)
    student = drawing.student(teacher)
    student.save(tmp_path / "good", **drawing.ABOUT)
    torch.nn.init.constant_(next(student.adaptor.parameters()), math.nan)
    with pytest.raises(ValueError, match="holds NaN or infinity in 1 of its tensors"):
        student.save(tmp_path / "bad", **drawing.ABOUT)
    file = tmp_path / "good" / "pytorch_lora_weights.safetensors"
    saved = load_file(file)
    first = next(iter(saved))
    save_file(saved | {first: saved[first] * math.nan}, file)
    with pytest.raises(ValueError, match="lora.down.*its training has diverged"):
        Student.load(teacher, tmp_path / "good")


def test_composed_students(folder, tmp_path):
    """A pipeline holds one adaptor; what it advises for several can be done."""
    student, cond = drawing.student(drawing.teacher(folder)), drawing.condition()
    both = compose([student, student], [0.5, 0.5])
    with pytest.raises(ValueError, match="composed of 2 adaptors.*draw_images.*of each student"):
        CoDiPipeline.from_student(both)
    with pytest.raises(TypeError, match="saved one by one"):
        both.save(tmp_path / "both")
    assert draw_images(both, [""], [cond, cond], steps=1).shape == (1, 3, *cond.shape[-2:])
    assert CoDiPipeline.from_student(student).adaptor.inner is student.adaptor


def test_command_line(folder, tmp_path, capsys):
    """A guidance that is none is refused; numbers of one sampler are not quoted for another."""
    teacher = drawing.teacher(folder)
    curve = [dict(steps=2, n=64, distance=1.25)]
    drawing.saved(teacher, tmp_path / "adaptor", curve=curve)
    picture = tmp_path / "picture.png"
    Image.new("RGB", (8, 8), "red").save(picture)

    def draw(**changes):
        settings = dict(adaptor=str(tmp_path / "adaptor"), teacher=str(folder / "sd2"))
        settings |= dict(image=str(picture), fit=True, steps=2, n=1, out=str(tmp_path / "x.png"))
        cli.sample(cli.SampleConfig(**settings | changes))
        return capsys.readouterr().out

    for bad in BAD:
        with pytest.raises(ValueError, match="^guidance is"):
            draw(guidance=bad)
    assert not (tmp_path / "x.png").exists()
    assert "distance 1.25" in draw()
    for other in (dict(sampler="ddim"), dict(guidance=2.0)):
        assert "distance" not in draw(**other)


@pytest.mark.slow
def test_settings_of_diffusers_that_are_given_anyway(folder, tmp_path):
    """What `from_pretrained` and `from_pipe` set themselves may be said once more."""
    pipe = drawing.pipeline(folder)
    pipe.save_pretrained(tmp_path)
    again = CoDiPipeline.from_pretrained(tmp_path, use_safetensors=True)
    assert again.adaptor.about == pipe.adaptor.about
    with pytest.raises(ValueError, match="safetensors only"):
        CoDiPipeline.from_pretrained(tmp_path, use_safetensors=False)
    other = CoDiScheduler.of(drawing.student(drawing.teacher(folder)))
    shared = CoDiPipeline.from_pipe(pipe, scheduler=other, force_zeros_for_empty_prompt=False)
    assert shared.scheduler is other and shared.unet is pipe.unet


@torch.no_grad()
def test_a_negative_prompt_leaves_the_teacher_as_it_is(folder):
    """The embedding is handed over with the call, and guidance leads away from it."""
    student = drawing.student(drawing.teacher(folder), "t2i")
    cond, z = drawing.condition(), torch.randn(1, *student.teacher.latent_shape)
    text, negative = (student.teacher.embed([word]) for word in ("a red cube", "a tree"))
    before = student.teacher.empty().clone()
    guided = student(z, 500, cond, text, guidance=2.0, negative=negative).x
    assert torch.equal(student.teacher.empty(), before)
    assert not torch.equal(guided, student(z, 500, cond, text, guidance=2.0).x)
    assert torch.equal(
        student(z, 500, cond, text, guidance=2.0, negative=before).x,
        student(z, 500, cond, text, guidance=2.0).x,
    )


def test_guidance_that_a_student_was_not_made_for():
    check_guidance(3.0, high=3.0, embedded=False)
    with pytest.warns(UserWarning, match="above 3 pictures may burn"):
        check_guidance(7.5, high=3.0, embedded=False)
    with pytest.raises(ValueError, match="this model takes 1 \\(it takes no captions"):
        check_guidance(7.5, high=1.0, embedded=False)


def test_a_negative_prompt_that_would_be_ignored(folder):
    """A student that takes the guidance as an input makes no call without the prompt."""
    student = drawing.student(drawing.teacher(folder))
    student.adaptor = GuidanceEmbedded.of(student.teacher, student.adaptor)
    pipe = CoDiPipeline.from_student(student)
    pipe.set_progress_bar_config(disable=True)
    with pytest.raises(ValueError, match="negative_prompt is 'a tree'; .*leave it out"):
        pipe("", drawing.condition(), negative_prompt="a tree")
    pipe("", drawing.condition(), negative_prompt="", output_type="latent")


@pytest.mark.parametrize("settings", [dict(n=2.5), dict(steps=3.7), dict(seed=True)], ids=str)
def test_a_whole_number_is_whole(settings):
    """In every configuration of a command."""
    (name,) = settings
    for kind in (SampleConfig, EvaluateConfig, DemoConfig, ReproduceConfig, TrainConfig):
        fields = {"steps": ("steps",), "seed": ("seed", "seeds"), "n": ("n", "eval_n")}[name]
        for field in kind.__dataclass_fields__.keys() & set(fields):
            value = settings[name]
            several = isinstance(getattr(kind(), field), tuple)
            with pytest.raises(TypeError, match=f"{field} is .*expected a whole number"):
                kind(**{field: (value,) if several else value})


def test_the_largest_seed_can_be_drawn_from():
    """A training multiplies its seed, and torch takes no number above 2**64."""
    highest, steps = RANGES["seed"][1], RANGES["steps"][1]
    torch.Generator().manual_seed(highest * 1_000_003 + steps)
    with pytest.raises(ValueError, match="^seed is"):
        TrainConfig(seed=highest + 1)
