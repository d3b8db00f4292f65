"""Samplers draw the same through every door, with every number of steps; what cannot be is said."""

from types import SimpleNamespace

import drawing
import pytest
import torch

from cond_distill.extensions import lookup
from cond_distill.loss import DISTANCES
from cond_distill.methods.any_step import any_step_loss, sample_any_step
from cond_distill.pipeline import CoDiPipeline
from cond_distill.pipeline_inputs import check_student_guidance
from cond_distill.plan import Plan
from cond_distill.sampler import (
    SAMPLERS,
    LookAhead,
    Sampler,
    check_steps,
    draw_images,
    pick_sampler,
    sample,
)
from cond_distill.schedule import Prediction, Schedule
from cond_distill.scheduler import CoDiScheduler
from cond_distill.student import Student
from cond_distill.student_file import StudentInfo
from cond_distill.tiles import draw_tiled


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Student:
    return drawing.student(drawing.teacher(tmp_path_factory.mktemp("samplers")), "t2i")


@torch.no_grad()
def test_every_saved_row_is_drawn_by_its_sampler(student):
    """The pipeline's scheduler steps as `sample` does, for every sampler that a row may name."""
    cond = drawing.condition(2)
    about = student.about
    for name in SAMPLERS:
        rows = [Sampler(name, LookAhead()).to_row(1)]
        student.about = about | dict(samplers=rows, sampler="ddim", sampling_steps=None)
        pipe = CoDiPipeline.from_student(student)
        pipe.set_progress_bar_config(disable=True)
        for steps in (1, 5):
            ours = draw_images(student, ["", ""], cond, steps=steps, sampler=name, seed=4)
            settings = dict(num_inference_steps=steps, output_type="pt")
            theirs = pipe(["", ""], cond, generator=drawing.noise(4), **settings).images
            assert torch.allclose(ours, theirs.cpu(), atol=1e-4), (name, steps)
    student.about = about


def test_steps_that_were_not_trained_are_refused_alike():
    """What was given, what is possible, what was measured; and the option, where there is one."""
    curve = [dict(steps=1, n=64, fd=9.86), dict(steps=4, n=64, fd=3.55)]
    said = (
        "steps is 50; this model was distilled for 1, 4 steps; measured: fd 9.86, 3.55 with 1, 4 "
        "steps (64 held-out conditions); use one of them"
    )
    with pytest.raises(ValueError) as of_scheduler:
        CoDiScheduler(trained_steps=[1, 4], curve=curve).set_timesteps(50)
    assert str(of_scheduler.value) == said
    with pytest.raises(ValueError) as of_sample:
        check_steps(50, [1, 4], curve, any_steps=False)
    assert str(of_sample.value) == f"{said}, or any_steps=True (--any-steps) to see what happens"
    check_steps(50, [1, 4], curve, any_steps=True)
    check_steps(50, None, curve)


def test_a_scheduler_names_the_samplers_there_are():
    assert CoDiScheduler(sampler="unipc").rule.name == "unipc"
    with pytest.raises(ValueError, match="'euler'; choose one of ddim, renoise, dpm\\+\\+, unipc"):
        CoDiScheduler(sampler="euler")


@pytest.mark.parametrize("name", ["dpm++", "unipc"])
def test_solvers_take_every_number_of_steps(name):
    """61 is one of those where diffusers adds a timestep −1; the last step gives x̂ itself."""
    schedule = Schedule.cosine()
    for steps in [*range(1, 131), 201, 999, 1000]:
        ts = schedule.timesteps(steps)
        move = SAMPLERS[name](schedule, ts, None)
        x = torch.zeros(1, 1, 2, 2)
        z = torch.ones_like(x)
        for i in range(steps) if steps in (61, 103) else [steps - 1] * (steps == 1):
            z = move(i, Prediction(x, z, z), z)
        if steps in (1, 61, 103):
            assert torch.equal(z, x)


@pytest.mark.parametrize("draw", ["sample", "draw_images", "draw_tiled"])
def test_guidance_is_checked_at_every_door(student, draw):
    """As the command line and the pipeline refuse it, and warn of it."""
    cond = drawing.condition()
    calls = dict(
        sample=lambda **options: list(sample(student, [""], cond, steps=1, **options)),
        draw_images=lambda **options: draw_images(student, [""], cond, steps=1, **options),
        draw_tiled=lambda **options: draw_tiled(student, "", cond, steps=1, **options),
    )
    with pytest.raises(ValueError, match="guidance_scale is 0.3; this model takes 1 or more"):
        calls[draw](guidance=0.3)
    with pytest.warns(UserWarning, match="distilled without guidance, and above 3"):
        calls[draw](guidance=4.0)
    with pytest.raises(TypeError, match="unexpected keyword"):
        draw_images(student, [""], cond, step=1)


def test_a_fresh_student_knows_that_it_knows_nothing(student):
    fresh = Student(student.teacher, student.adaptor)
    assert fresh.info == StudentInfo() and fresh.about == {}
    with pytest.raises(ValueError, match="knows nothing about itself"):
        CoDiPipeline.from_student(fresh)
    check_student_guidance(fresh, 1.0)
    with pytest.raises(ValueError, match="1 or more"):
        check_student_guidance(fresh, 0.3)


def test_unknown_names_are_refused_with_those_that_exist():
    batch, noise = dict(x=torch.zeros(2, 1, 2, 2)), SimpleNamespace()
    for call in (
        lambda: lookup(DISTANCES, "l1", "distance"),
        lambda: any_step_loss(None, None, batch, noise, distance="l1"),
    ):
        with pytest.raises(ValueError, match="distance is 'l1'; choose one of l2, huber, cauchy"):
            call()
    with pytest.raises(ValueError, match="kernel is 'cone'; choose one of exponential, box"):
        sample_any_step(Schedule.cosine(), batch["x"], drawing.noise(), 0.5, kernel="cone")
    with pytest.raises(ValueError, match="gpu is 'B9'; choose one of RTX 4080"):
        Plan(0, 0, 0, 0, 0, 1, 0, 1).seconds("B9")


@pytest.mark.parametrize(
    "settings, error",
    [
        (dict(name="euler"), "sampler is 'euler'; choose one of ddim"),
        (dict(name="unipc", gamma=0.3), "gamma is 0.3 with sampler 'unipc'"),
        (dict(name="ddim", gamma=2.0), "gamma is 2.0 with sampler 'ddim'"),
    ],
)
def test_a_sampler_that_cannot_be(settings, error):
    with pytest.raises(ValueError, match=error):
        Sampler(**settings)


def test_one_look_ahead(student):
    with pytest.raises(ValueError, match="a Sampler has a look-ahead of its own"):
        pick_sampler(student, 4, Sampler("ddim"), LookAhead(100))
