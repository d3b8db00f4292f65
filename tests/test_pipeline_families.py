"""Pipelines of every family: saved, opened by us and by diffusers, made of other pipelines."""

import diffusers
import drawing
import pytest
import torch
from diffusers import DiffusionPipeline

from cond_distill.pipeline import CoDiPipeline
from cond_distill.sampler import draw_images

FAMILIES = {"sd1": "controlnet", "sdxl": "t2i", "sd3": "controlnet", "pixels": "concat"}
WORDS = ["a red cube", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("families")


def draw(pipe: CoDiPipeline, **settings) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    settings = dict(generator=drawing.noise(), output_type="pt", num_inference_steps=2) | settings
    return pipe(WORDS, drawing.condition(2), **settings).images


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_opened(family, folder, tmp_path):
    """The pictures are those of the student, and the same by every door."""
    teacher = drawing.teacher(folder, family)
    student = drawing.student(teacher, FAMILIES[family])
    pipe = CoDiPipeline.from_student(student)
    first = draw(pipe)
    assert torch.allclose(first, draw_images(student, WORDS, drawing.condition(2), steps=2))
    pipe.save_pretrained(tmp_path)
    for kind in (CoDiPipeline, DiffusionPipeline):
        opened = kind.from_pretrained(tmp_path)
        assert type(opened) is CoDiPipeline
        assert torch.allclose(draw(opened), first, atol=1e-4)
    half = CoDiPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert half.backbone.dtype == torch.bfloat16
    if family == "sdxl":  # its autoencoder overflows in half precision
        assert half.vae.dtype == torch.float32
    assert (draw(half).float() - first).abs().mean() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3"])
def test_from_pipe(family, folder, tmp_path):
    """A plain pipeline of diffusers and an adaptor share the networks; both go on working."""
    teacher = drawing.teacher(folder, family)
    drawing.saved(teacher, tmp_path / "adaptor", FAMILIES[family])
    lacks = dict(text_encoder_3=None, tokenizer_3=None) if family == "sd3" else {}
    plain = DiffusionPipeline.from_pretrained(folder / family, **lacks)
    fast = CoDiPipeline.from_pipe(plain, adaptor=tmp_path / "adaptor")
    backbone = plain.transformer if family == "sd3" else plain.unet
    assert fast.backbone is backbone and fast.vae is plain.vae
    want = CoDiPipeline.from_student(drawing.student(teacher, FAMILIES[family]))
    assert torch.allclose(draw(fast), draw(want), atol=1e-4)
    again = CoDiPipeline.from_pipe(fast)
    assert again is not fast and torch.equal(draw(again), draw(fast))
    with pytest.raises(ValueError, match="has no adaptor; give the folder of one"):
        CoDiPipeline.from_pipe(plain)
    with pytest.raises(ValueError, match="vae cannot be given together with an adaptor"):
        CoDiPipeline.from_pipe(plain, tmp_path / "adaptor", vae=plain.vae)


def test_back_to_a_plain_pipeline(folder):
    """diffusers' own `from_pipe` takes the networks, with a scheduler of its own."""
    pipe = drawing.pipeline(folder, "sd1")
    scheduler = diffusers.DDIMScheduler.from_pretrained(folder / "sd1" / "scheduler")
    lacks = dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder"))
    plain = diffusers.StableDiffusionPipeline.from_pipe(pipe, scheduler=scheduler, **lacks)
    plain.set_progress_bar_config(disable=True)
    assert plain.unet is pipe.unet
    images = plain("a cube", num_inference_steps=2, height=16, width=16, output_type="pt").images
    assert images.shape == (1, 3, 16, 16)


def test_scheduler_put_in_and_taken_back(folder):
    """A scheduler with other steps is used from the next call on."""
    pipe = drawing.pipeline(folder, "sd1")
    scheduler, first = pipe.scheduler, draw(pipe)
    pipe.scheduler = type(scheduler)(scheduler.schedule.to_config(), [3], "ddim")
    with pytest.raises(ValueError, match="distilled for 3 steps; use one of them$"):
        draw(pipe)
    assert not torch.equal(draw(pipe, num_inference_steps=3), first)
    pipe.scheduler = scheduler
    assert torch.equal(draw(pipe), first)
