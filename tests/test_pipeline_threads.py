"""One backbone, several callers: every picture is the one that a single caller gets."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import drawing
import pytest
import torch

from cond_distill.adaptors.scalar_input import LookAheadEmbedded
from cond_distill.loss import codi_loss, sample_noise
from cond_distill.sampler import LookAhead, Sampler, draw_images
from cond_distill.student import Student

pytestmark = pytest.mark.slow

THREADS = 4
CAPTIONS = ("a red cube", "", "a cone left of a dome", "a blue sphere")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("threads")


def at_once(work, n: int = THREADS) -> list:
    """`work(k)` for k below n: all in threads that start together."""
    start = Barrier(n)

    def run(k):
        start.wait()
        return work(k)

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(run, range(n)))


def test_four_threads_with_one_pipeline(folder):
    pipe = drawing.pipeline(folder)
    exact = pipe.teacher.fingerprint(exact=True)

    def draw(k):
        settings = dict(num_inference_steps=(1, 2, 4, 8)[k], guidance_scale=1.0 + k / 2)
        return [
            pipe(
                CAPTIONS[k],
                drawing.condition(seed=k),
                conditioning_scale=1.0 - k / 8,
                generator=drawing.noise(k),
                output_type="pt",
                **settings,
            ).images
            for _ in range(5)
        ]

    alone = [draw(k)[0] for k in range(THREADS)]
    for pictures, right in zip(at_once(draw), alone):
        assert all(torch.equal(picture, right) for picture in pictures)
    assert pipe.teacher.fingerprint(exact=True) == exact
    assert all(isinstance(p, torch.nn.Parameter) for p in pipe.unet.parameters())


@pytest.mark.parametrize("family", ["sd2", "sdxl", "sd3"])
def test_students_of_one_teacher(folder, family):
    """Two students and their teacher draw at the same time, captions and all."""
    teacher = drawing.teacher(folder, family)
    models = [
        drawing.student(teacher, "controlnet"),
        drawing.student(teacher, "concat", seed=1),
        teacher,
    ]

    def draw(k):
        cond = None if models[k] is teacher else drawing.condition(2)
        return [
            draw_images(models[k], ["a red cube", ""], cond, steps=2, sampler="ddim", guidance=2.0)
            for _ in range(4)
        ]

    alone = [draw(k)[0] for k in range(3)]
    for pictures, right in zip(at_once(draw, 3), alone):
        assert all(torch.equal(picture, right) for picture in pictures)


def test_two_trainings_on_one_teacher(folder):
    """Losses and gradients of two students, whose steps overlap."""
    teacher = drawing.teacher(folder)
    batch = dict(
        x=torch.randn(2, *teacher.latent_shape, generator=drawing.noise()),
        cond=drawing.condition(2),
        text=teacher.embed(["a cube", ""]),
    )
    students = [drawing.student(teacher, "controlnet", k) for k in range(2)]

    def step(k):
        d = sample_noise(teacher.schedule, batch["x"], drawing.noise(k))
        out = []
        for _ in range(4):
            students[k].adaptor.requires_grad_(True).zero_grad()
            loss, _ = codi_loss(students[k], students[k].copy(), batch, d)
            loss.backward()
            grads = [p.grad for p in students[k].adaptor.parameters()]
            out.append(torch.cat([loss.detach()[None], *(g.flatten() for g in grads)]))
        return out

    alone = [step(k)[0] for k in range(2)]
    for gradients, right in zip(at_once(step, 2), alone):
        assert all(torch.equal(one, right) for one in gradients)


def test_callback_that_draws(folder):
    """A picture drawn inside a callback, with other settings, does not change the outer one."""
    pipe = drawing.pipeline(folder)

    def draw(callback=None):
        return pipe(
            "a cone",
            drawing.condition(),
            num_inference_steps=4,
            generator=drawing.noise(),
            output_type="pt",
            callback_on_step_end=callback,
        ).images

    def draws_too(pipe, i, t, tensors):
        pipe("a dome", drawing.condition(2, 3), num_inference_steps=2, generator=drawing.noise(5))

    assert torch.equal(draw(draws_too), draw())


def test_interrupt(folder):
    """As in diffusers' pipelines: the steps that are left are left out; the next call is whole."""
    pipe, calls = drawing.pipeline(folder), []

    def stop(pipe, i, t, tensors):
        calls.append(i)
        pipe._interrupt = i == 1
        return tensors

    def draw(callback):
        settings = dict(num_inference_steps=8, generator=drawing.noise(), output_type="latent")
        settings["callback_on_step_end"] = callback
        return pipe("a cone", drawing.condition(), **settings).images

    stopped = draw(stop)
    assert calls == [0, 1] and stopped.shape == (1, 4, 8, 8)
    assert not pipe.interrupt and not torch.equal(draw(None), stopped)


def test_threads_share_an_any_step_student(folder):
    """The look-ahead is told to a network that others are calling: no thread hears another's."""
    teacher = drawing.teacher(folder)
    inner = drawing.student(teacher, "controlnet").adaptor
    student = Student(teacher, LookAheadEmbedded.of(teacher, inner))
    torch.nn.init.normal_(student.adaptor.embed[-1].weight, std=0.5)
    cond = drawing.condition(2)

    def draw(k):
        return [
            draw_images(
                student, ["", ""], cond, steps=2, sampler=Sampler("ddim", LookAhead(200 * k))
            )
            for _ in range(4)
        ]

    alone = [draw(k)[0] for k in range(THREADS)]
    assert not torch.equal(alone[0], alone[1])
    for pictures, right in zip(at_once(draw), alone):
        assert all(torch.equal(picture, right) for picture in pictures)
