"""A student for any number of steps: what it is told, what it draws, what its file keeps."""

import pytest
import tiny
import torch

from cond_distill.adaptors.catalogue import make_adaptor
from cond_distill.adaptors.scalar_input import LookAheadEmbedded
from cond_distill.config import TrainConfig
from cond_distill.methods.any_step import KERNELS, AnyStep, any_step_loss, sample_any_step
from cond_distill.pipeline import CoDiPipeline
from cond_distill.sampler import (
    LookAhead,
    Sampler,
    draw_images,
    landing,
    pick_sampler,
    renoised,
)
from cond_distill.schedule import Prediction, Schedule
from cond_distill.student import Student, compose
from cond_distill.teacher import Teacher

KINDS = [
    ("sd2", "controlnet"),
    ("sd2", "t2i"),
    ("sd2", "concat"),
    ("sd2", "lora"),
    ("sd2", "fusion"),
    ("sdxl", "controlnet"),
    ("sd3", "controlnet"),
    ("sd3", "concat"),
    ("pixels", "concat"),
    ("pixels", "fusion"),
]
CAPTIONS = list(tiny.CAPTIONS[:2])


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    folder, teachers = tmp_path_factory.mktemp("teachers"), {}
    for name in ("sd2", "sdxl", "sd3", "pixels"):
        tiny.MAKERS[name](folder / name)
        teachers[name] = Teacher.from_pretrained(folder / name)
    return teachers


def new_student(teacher: Teacher, adaptor: str = "controlnet", seed: int | None = None) -> Student:
    """Told the look-ahead; with a seed, the embedding of the number is no longer zero."""
    torch.manual_seed(0)
    adaptor_net = LookAheadEmbedded.of(teacher, make_adaptor(adaptor, teacher, 3, rank=2))
    if seed is not None:
        torch.manual_seed(seed)
        torch.nn.init.normal_(adaptor_net.embed[-1].weight, std=0.5)
    return Student(teacher, adaptor_net)


def inputs(teacher: Teacher, n: int = 2):
    generator = torch.Generator().manual_seed(3)
    side = teacher.image_size
    z = torch.randn(n, *teacher.latent_shape, generator=generator)
    cond = torch.rand(n, 3, side, side, generator=generator)
    return z, 700, cond, teacher.embed(CAPTIONS[:n])


@pytest.mark.parametrize("family, adaptor", KINDS)
@torch.no_grad()
def test_each_sample_is_told_its_own_number(teachers, family, adaptor, tmp_path):
    teacher = teachers[family]
    student, request = new_student(teacher, adaptor, seed=1), inputs(teachers[family])
    plain = student(*request).x
    ahead = student(*request, look_ahead=torch.tensor([0.0, 500.0])).x
    assert torch.allclose(ahead[0], plain[0], atol=1e-4)
    assert (ahead[1] - plain[1]).abs().max() > 1e-3
    guided = student(*request, guidance=2.0, look_ahead=torch.tensor([0.0, 500.0])).x
    assert torch.isfinite(guided).all()
    student.save(tmp_path)
    again = Student.load(teacher, tmp_path)
    assert torch.allclose(again(*request, look_ahead=500.0).x[1], ahead[1], atol=1e-4)


@pytest.mark.parametrize("family, adaptor", KINDS)
@torch.no_grad()
def test_untrained_it_is_its_inner_adaptor(teachers, family, adaptor):
    student, request = new_student(teachers[family], adaptor), inputs(teachers[family])
    inner = Student(teachers[family], student.adaptor.inner)
    assert torch.equal(student(*request, look_ahead=300.0).x, inner(*request).x)


def test_a_student_without_the_input_refuses(teachers):
    torch.manual_seed(0)
    plain = Student(teachers["sd2"], make_adaptor("t2i", teachers["sd2"], 3, rank=2))
    with pytest.raises(ValueError, match="no input for it"):
        plain(*inputs(teachers["sd2"]), look_ahead=100.0)
    with pytest.raises(ValueError, match="any number of steps"):
        pick_sampler(plain, 4, look_ahead=LookAhead(100))


def test_two_numbers_are_one_too_many(teachers):
    method = AnyStep(TrainConfig(method="any_step"))
    student = new_student(teachers["sd2"])
    assert method.extend(teachers["sd2"], student.adaptor) is student.adaptor
    student.adaptor.extra_input = "guidance"
    with pytest.raises(ValueError, match="no second number"):
        method.extend(teachers["sd2"], student.adaptor)
    with pytest.raises(ValueError, match="kernel is 'gauss'"):
        AnyStep(TrainConfig(method="any_step", kernel="gauss"))


@pytest.mark.parametrize("kernel", KERNELS)
def test_any_number_of_steps_is_drawn(teachers, kernel, tmp_path):
    student, (_, _, cond, _) = new_student(teachers["sd2"], seed=1), inputs(teachers["sd2"])
    about = AnyStep(TrainConfig(method="any_step", kernel=kernel)).about()
    student.save(tmp_path, **about)
    student = Student.load(teachers["sd2"], tmp_path)
    for steps in (1, 3, 16):
        images = draw_images(student, CAPTIONS, cond, steps=steps)
        assert torch.isfinite(images).all()
    drawn = draw_images(student, CAPTIONS, cond, steps=2, look_ahead=LookAhead(50))
    assert not torch.equal(drawn, draw_images(student, CAPTIONS, cond, steps=2))


def test_what_a_file_says_is_what_is_drawn():
    class Model:
        any_step, schedule = True, Schedule.cosine()
        about = dict(samplers=[Sampler("ddim", LookAhead(of_step=1.0)).to_row(1)])

    Model.about["samplers"].append(Sampler("renoise", LookAhead(400)).to_row(4))
    assert pick_sampler(Model, 3) == Sampler("ddim", LookAhead(of_step=1.0))
    assert pick_sampler(Model, 20) == Sampler("renoise", LookAhead(400))
    # a solver that was made for the plain denoiser gets the plain denoiser
    assert pick_sampler(Model, 20, "unipc") == Sampler("unipc", LookAhead())
    assert pick_sampler(Model, 3).conditioning(Model, [999, 499]) == {
        999: dict(look_ahead=500.0),
        499: dict(look_ahead=500.0),
    }
    assert LookAhead(800).at(100, -1) == 101.0  # never beyond the clean end


@pytest.mark.parametrize("schedule", [Schedule.cosine(), Schedule.flow(), Schedule.linear()])
def test_fresh_noise_leads_back(schedule):
    """A jump lands before s, and fresh noise of the share γ leads from there to s."""
    assert landing(schedule, 600, 0.0) == 600 and landing(schedule, -1, 0.5) == -1
    assert landing(schedule, 600, 1.0) == -1
    for gamma in (0.3, 0.6, 0.9):
        u = landing(schedule, 600, gamma)
        wanted = schedule.snr(600) / (1 - gamma**2)
        assert schedule.snr(u) >= wanted > schedule.snr(u + 1)
    x, eps, new = torch.randn(3, 20_000, generator=torch.Generator().manual_seed(0))
    z = schedule.step(renoised(Prediction(x, eps, eps), new, 0.6), 600)
    assert z.var().item() == pytest.approx(schedule.add_noise(x, eps, 600).var().item(), rel=0.03)


def test_gamma_is_saved_and_drawn(teachers, tmp_path):
    """The share of fresh noise travels with the weights; γ = 1 is re-noising."""
    student, (_, _, cond, _) = new_student(teachers["sd2"], seed=1), inputs(teachers["sd2"])

    def drawn(*rows: Sampler):
        student.save(tmp_path, samplers=[row.to_row(1) for row in rows])
        return draw_images(Student.load(teachers["sd2"], tmp_path), CAPTIONS, cond, steps=3)

    ahead = LookAhead(of_step=1.0)
    some, none = drawn(Sampler("ddim", ahead, 0.5)), drawn(Sampler("ddim", ahead))
    assert not torch.equal(some, none)
    whole = drawn(Sampler("ddim", LookAhead(1000), 1.0))
    assert torch.allclose(whole, drawn(Sampler("renoise", LookAhead(1000))), atol=1e-5)


@pytest.mark.parametrize("schedule", [Schedule.cosine(), Schedule.flow(), Schedule.linear()])
@pytest.mark.parametrize("kernel", KERNELS)
def test_what_is_drawn_in_training(schedule, kernel):
    x = torch.zeros(4000, 1)
    d = sample_any_step(
        schedule, x, torch.Generator().manual_seed(0), kernel=kernel, plain_fraction=0.5
    )
    assert (d.t >= 1).all() and (d.s >= 0).all() and (d.s < d.t).all()
    assert (d.look_ahead <= d.t + 1).all()
    assert abs((d.look_ahead == 0).float().mean() - 0.5) < 0.05
    weight = KERNELS[kernel].weight(schedule, d)
    assert ((weight >= 0) & (weight <= 1)).all() and (weight[d.look_ahead == 0] == 0).all()
    if kernel == "box":  # the target's landing is the student's
        ahead = d.look_ahead > 0
        assert torch.equal((d.s - KERNELS["box"].rest(d))[ahead], (d.t - d.look_ahead)[ahead])
    before = sample_any_step(schedule, x, torch.Generator().manual_seed(0), 0.3, kernel=kernel)
    assert (before.look_ahead == 0).all()


def test_a_step_that_the_loss_does_not_make_is_refused():
    for z_s in ("teacher", "noise", "forward"):
        with pytest.raises(ValueError, match=f"z_s is '{z_s}'; an any-step loss takes"):
            any_step_loss(None, None, {}, None, z_s=z_s)


def test_the_target_is_asked_only_where_it_counts(teachers):
    teacher = teachers["sd2"]
    student, (z, _, cond, text) = new_student(teacher), inputs(teacher)
    batch = dict(x=z, cond=cond, text=text)
    d = sample_any_step(teacher.schedule, z, torch.Generator().manual_seed(0), plain_fraction=1.0)
    loss, parts = any_step_loss(student, None, batch, d)  # nobody asks the target
    assert parts["forwards"] == 1 and parts["d_c"] == 0 and torch.isfinite(loss)


def test_several_adaptors(teachers):
    teacher = teachers["sd2"]
    any_step, _ = new_student(teacher, "t2i", seed=1), None
    torch.manual_seed(0)
    plain = Student(teacher, make_adaptor("concat", teacher, 3, rank=2))
    both = compose([any_step, plain], [1.0, 1.0])
    assert both.any_step
    z, t, cond, text = inputs(teacher)
    with torch.no_grad():
        a = both(z, t, [cond, cond], text, look_ahead=500.0).x
        b = any_step(z, t, cond, text, look_ahead=500.0).x
    assert torch.allclose(a, b, atol=1e-4)  # the second one is untrained


@torch.no_grad()
def test_composed_alone_draws_as_alone(teachers):
    """By the sampler of its file, and told the number in full, however strong the condition is."""
    teacher = teachers["sd2"]
    student, (z, t, cond, text) = new_student(teacher, seed=1), inputs(teacher)
    student.about = AnyStep(TrainConfig(method="any_step")).about()
    both = compose([student])
    for steps in (1, 2, 5):
        settings = dict(steps=steps, seed=4)
        ours, theirs = (
            draw_images(student, CAPTIONS, cond, **settings),
            draw_images(both, CAPTIONS, [cond], **settings),
        )
        assert torch.equal(ours, theirs)
    with torch.no_grad():
        unseen = compose([student], [0.0])(z, t, [cond], text, look_ahead=500.0).x
        twice = compose([student, student], [0.0, 0.0])(z, t, [cond, cond], text, look_ahead=500.0)
    assert torch.equal(unseen, twice.x)  # two that are told the same are told it once
    assert not torch.equal(unseen, compose([student], [0.0])(z, t, [cond], text).x)


def test_composed_students_agree_on_the_sampler(teachers):
    students = [new_student(teachers["sd2"], seed=s) for s in (1, 2)]
    for student, kernel in zip(students, ("box", "exponential")):
        student.about = AnyStep(TrainConfig(method="any_step", kernel=kernel)).about()
    with pytest.raises(ValueError, match="different samplers"):
        compose(students)


@pytest.mark.slow
def test_the_pipeline_draws_the_same(teachers, tmp_path):
    student, (_, _, cond, _) = new_student(teachers["sd2"], seed=1), inputs(teachers["sd2"])
    about = AnyStep(TrainConfig(method="any_step", kernel="exponential")).about()
    student.save(tmp_path / "adaptor", task="superres_x4", **about)
    student = Student.load(teachers["sd2"], tmp_path / "adaptor")
    CoDiPipeline.from_student(student).save_pretrained(tmp_path / "pipeline")
    pipe = CoDiPipeline.from_pretrained(tmp_path / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    for steps in (1, 2, 5, 9):
        ours = draw_images(student, CAPTIONS, cond, steps=steps, seed=4)
        settings = dict(num_inference_steps=steps, output_type="pt")
        theirs = pipe(CAPTIONS, cond, generator=torch.Generator().manual_seed(4), **settings).images
        assert torch.allclose(ours, theirs.cpu(), atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("conditioning", ["both", "backbone", "adaptor"])
def test_who_is_told_is_kept(teachers, conditioning, tmp_path):
    teacher = teachers["sd2"]
    torch.manual_seed(0)
    adaptor = LookAheadEmbedded.of(
        teacher, make_adaptor("controlnet", teacher, 3, rank=2), conditioning
    )
    for p in adaptor.parameters():
        torch.nn.init.normal_(p, std=0.05)
    student, (z, t, cond, text) = Student(teacher, adaptor), inputs(teacher)
    answer = student(z, t, cond, text, look_ahead=400.0).x
    assert not torch.equal(answer, student(z, t, cond, text).x)
    time = student.schedule.network_time(torch.full((len(z),), t))
    effect = adaptor(
        z, time, student.prepare(cond).parts, teacher.text_inputs(text), look_ahead=4.0
    )
    assert ("time_embedding" in effect.get("outputs", {})) == (conditioning != "adaptor")
    student.save(tmp_path)
    again = Student.load(teacher, tmp_path)
    assert torch.equal(again(z, t, cond, text, look_ahead=400.0).x, answer)
    with pytest.raises(ValueError, match="conditioning is 'nobody'"):
        LookAheadEmbedded.of(teacher, adaptor.inner, "nobody")


def test_midpoint_jumps_are_two_halves(teachers):
    """Untrained, all three answers are the plain denoiser's, and the target is their average."""
    teacher = teachers["sd2"]
    student = new_student(teacher)
    z, _, cond, text = inputs(teacher)
    batch = dict(x=z, cond=cond, text=text)
    generator = torch.Generator().manual_seed(0)
    d = sample_any_step(teacher.schedule, z, generator, kernel="midpoint", plain_fraction=0.0)
    loss, parts = any_step_loss(student, student.copy(), batch, d, kernel="midpoint")
    assert parts["forwards"] == 3 and parts["w_c"] == 1
    way = torch.stack([d.t - d.s, d.s - (d.t - d.look_ahead.long())])
    assert ((way[0] - way[1]).abs() <= 25).all() and torch.isfinite(loss)


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_half_of_the_samples_look_ahead(batch):
    """On average, whatever the batch: also one example at a time is distilled."""
    generator, x = torch.Generator().manual_seed(0), torch.zeros(batch, 1)
    draws = [sample_any_step(Schedule.cosine(), x, generator).look_ahead for _ in range(400)]
    assert (torch.stack(draws) > 0).float().mean().item() == pytest.approx(0.5, abs=0.06)
