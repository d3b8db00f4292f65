"""One sampler for each number of steps through every door, and one set of arguments."""

import subprocess
import sys

import drawing
import pytest
import torch

from cond_distill.adaptors.catalogue import make_adaptor
from cond_distill.adaptors.scalar_input import LookAheadEmbedded
from cond_distill.drawing import measured_words
from cond_distill.evaluation import report
from cond_distill.evaluation.compare import step_curve
from cond_distill.methods.any_step import KERNEL_SAMPLERS
from cond_distill.options import EvaluateConfig
from cond_distill.sampler import LookAhead, Sampler, draw_images, pick_sampler, sample
from cond_distill.scheduler import CoDiScheduler
from cond_distill.student import Student, compose
from cond_distill.tiles import draw_tiled

JUMP = Sampler("ddim", LookAhead(of_step=1.0))
ROWS = {  # what a file may say: smallest number of steps → sampler
    "ddim": {1: JUMP},
    "renoise": {1: Sampler("renoise", LookAhead(400))},
    "share of fresh noise": {1: JUMP, 4: Sampler("ddim", LookAhead(of_step=1.0), 0.6)},
    "unipc": {1: JUMP, 4: Sampler("unipc")},
    "exponential": KERNEL_SAMPLERS["exponential"],
    "a name and no rows": {},
}
STEPS = (1, 4, 8)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return drawing.teacher(tmp_path_factory.mktemp("doors"))


@pytest.fixture(scope="module")
def student(teacher) -> Student:
    """For any number of steps; the number that it takes has an effect."""
    torch.manual_seed(0)
    adaptor = LookAheadEmbedded.of(teacher, make_adaptor("t2i", teacher, 3, rank=2))
    torch.nn.init.normal_(adaptor.embed[-1].weight, std=0.5)
    student = Student(teacher, adaptor.requires_grad_(False).eval())
    info = dict(adaptor=type(adaptor).__name__, settings=adaptor.settings)
    info |= dict(teacher=teacher.fingerprint(), image_size=teacher.image_size)
    student.about = info | dict(task="superres_x4", sampling_steps=None)
    return student


class Chosen(Exception):
    """A door has chosen its sampler: nothing need be drawn."""


@pytest.fixture
def stopped(monkeypatch):
    """Raise `Chosen` in place of the first step."""

    def stop(self, *inputs):
        raise Chosen(self)

    monkeypatch.setattr(Sampler, "conditioning", stop)


def held_out(n: int) -> dict:
    cond = drawing.condition(n)
    return dict(task="superres_x4", caption=[""] * n, cond=cond, image=cond)


def report_rows(student: Student, steps: int):
    cfg, sheet = EvaluateConfig(steps=(steps,)), report.Report("", {})
    report.add_adaptor(sheet, "one", student, held_out(2), lambda _: {}, cfg, lambda n: n)


def of_the_pipeline(student: Student, steps: int):
    """Its scheduler chooses."""
    scheduler = CoDiScheduler.of(student)
    scheduler.set_timesteps(steps)
    scheduler.rule.conditioning(student, scheduler.timesteps.tolist())


DOORS = {
    "sample": lambda s, k: sample(s, [""], drawing.condition(), steps=k),
    "draw_images": lambda s, k: draw_images(s, [""], drawing.condition(), steps=k),
    "a copy": lambda s, k: draw_images(s.copy(), [""], drawing.condition(), steps=k),
    "composed": lambda s, k: draw_images(compose([s]), [""], [drawing.condition()], steps=k),
    "tiles": lambda s, k: draw_tiled(s, "", drawing.condition(), steps=k),
    "pipeline": of_the_pipeline,
    "evaluate": report_rows,
}


@pytest.mark.parametrize("kind", ROWS)
def test_every_door_takes_the_sampler_of_the_file(student, kind, stopped, monkeypatch):
    rows = [rule.to_row(n) for n, rule in ROWS[kind].items()]
    name = ROWS[kind][1].name if rows else "renoise"
    monkeypatch.setattr(student, "about", student.about | dict(samplers=rows, sampler=name))
    for steps in STEPS:
        kept = [rule for n, rule in ROWS[kind].items() if n <= steps]
        wanted = kept[-1] if kept else Sampler(name)
        for door, draw in DOORS.items():
            with pytest.raises(Chosen) as chosen:
                draw(student, steps)
            assert chosen.value.args == (wanted,), (door, steps)


def test_a_report_measures_diversity_with_the_sampler_of_the_row(student, monkeypatch):
    rows = [rule.to_row(n) for n, rule in ROWS["share of fresh noise"].items()]
    monkeypatch.setattr(student, "about", student.about | dict(samplers=rows, sampler="ddim"))
    asked, cond = [], drawing.condition(10)
    for name, value in dict(
        draw_images=lambda *_, **settings: cond,
        check_scenes=lambda *_: None,
        held_out=lambda *_: held_out(10),
        floor=lambda *_: dict(model="autoencoder alone", steps=0),
        measure_images=lambda *_: {},
        spread=lambda nets, s, held, steps, sampler: asked.append((steps, sampler)),
    ).items():
        monkeypatch.setattr(report, name, value)
    cfg = EvaluateConfig(steps=STEPS, n=10, samplers=("auto", "ddim"))
    drawn = report.scene_report("superres_x4", dict(one=student), None, cfg)
    assert asked == [(k, pick_sampler(student, k, s)) for s in cfg.samplers for k in STEPS]
    assert len(drawn.drawn) == 5  # with one step both samplers are one
    assert [row["sampler"] for row in drawn.rows[1:4]] == ["ddim"] + ["ddim, γ = 0.6"] * 2


def test_two_spellings_of_one_sampler(student):
    """A share γ = 1 of fresh noise is re-noising: the same moves, the same look-aheads."""
    ts, cond = student.schedule.timesteps(4), drawing.condition(2)
    for ahead in (LookAhead(of_step=1.0), LookAhead(100, 0.5), LookAhead(400)):
        one, other = Sampler("renoise", ahead), Sampler("ddim", ahead, 1.0)
        assert one.conditioning(student, ts) == other.conditioning(student, ts)
        images = [draw_images(student, ["", ""], cond, sampler=s) for s in (one, other)]
        assert torch.equal(*images)


@pytest.mark.parametrize("captions, conditions", [(4, 8), (8, 4), (5, 4)])
def test_every_condition_is_drawn(student, captions, conditions):
    """Whatever the batch: nothing is left out, and nothing is drawn before it is refused."""
    drawn, words = [], [""] * captions
    cond = drawing.condition(conditions)
    for model, given in ((student, cond), (compose([student, student]), [cond, cond])):
        with pytest.raises(ValueError, match=f"{conditions} conditions but {captions} captions"):
            draw_images(model, words, given, steps=1, batch=4, tick=drawn.append)
    with pytest.raises(ValueError, match="conditions but"):
        both = [drawing.condition(captions), cond]
        draw_images(compose([student, student]), words, both, steps=1, batch=4, tick=drawn.append)
    assert not drawn


def test_a_look_ahead_may_be_a_number(student):
    cond = drawing.condition()
    for draw in (
        lambda ahead: draw_images(student, [""], cond, look_ahead=ahead),
        lambda ahead: list(sample(student, [""], cond, look_ahead=ahead))[-1].x,
        lambda ahead: draw_tiled(student, "", cond, look_ahead=ahead),
    ):
        assert torch.equal(draw(400.0), draw(LookAhead(400.0)))
    assert pick_sampler(student, 4, look_ahead=0).look_ahead == LookAhead(0)
    with pytest.raises(ValueError, match="look_ahead is -1"):
        pick_sampler(student, 4, look_ahead=-1.0)
    with pytest.raises(TypeError, match="look_ahead is 'far'; expected a number"):
        sample(student, [""], cond, look_ahead="far")


@pytest.mark.parametrize(
    "settings, error",
    [
        (dict(steps=-3), "steps is -3"),
        (dict(sampler="euler"), "sampler is 'euler'"),
        (dict(guidance=0.3), "guidance_scale is 0.3"),
        (dict(captions=["", ""]), "1 conditions but 2 captions"),
        (dict(cond=None), "a Student needs cond"),
    ],
)
def test_sample_refuses_when_it_is_called(student, settings, error):
    """Not at the first `next`."""
    given = dict(captions=[""], cond=drawing.condition()) | settings
    with pytest.raises(ValueError, match=error):
        sample(student, **given)


def test_sample_leaves_gradients_to_the_caller(student):
    for state in sample(student, [""], drawing.condition(), steps=2):
        assert torch.is_grad_enabled() and not state.z.requires_grad


def test_settings_have_names(student):
    """A bare number after the condition could be steps or a batch."""
    cond = drawing.condition()
    for draw, words in ((sample, [""]), (draw_images, [""]), (draw_tiled, "")):
        with pytest.raises(TypeError, match="positional"):
            draw(student, words, cond, 4)
    with pytest.raises(TypeError, match=r"caption is a Tensor.*draw_tiled\(student, caption, cond"):
        draw_tiled(student, cond, "")


def test_a_copy_says_what_its_original_says(student):
    twin = student.copy()
    assert twin.about == student.about and twin.about is not student.about


@pytest.mark.slow
def test_the_sampler_loads_no_scenes_and_no_evaluation():
    code = "import sys, cond_distill.sampler; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "cond_distill.sampler" in loaded
    for name in ("evaluation", "data.tasks", "data.render", "data.scenes", "model_card"):
        assert f"cond_distill.{name}" not in loaded


def test_measured_words_are_of_the_sampler_that_draws(student):
    """The curve of a file was measured with the sampler of each number of steps."""
    rows = [JUMP.to_row(1), Sampler("ddim", LookAhead(of_step=1.0), 0.6).to_row(4)]
    rows.append(Sampler("unipc").to_row(8))
    measured = student.copy()
    measured.about |= dict(samplers=rows, curve=[dict(steps=k, n=2, psnr=20.0) for k in STEPS])
    for steps in STEPS:
        assert measured_words(measured, steps, "auto", 1.0)
        assert measured_words(measured, steps, "auto", 2.0) == ""
    assert measured_words(measured, 1, "ddim", 1.0)
    assert (
        measured_words(measured, 4, "ddim", 1.0) == measured_words(measured, 8, "ddim", 1.0) == ""
    )
    assert measured_words(measured, 8, "unipc", 1.0)
    measured.about["trained_on"] = "another teacher"
    assert measured_words(measured, 4, "auto", 1.0) == ""


def test_one_line_of_a_model_whose_samplers_change():
    """A curve goes on where the sampler changes; a second request begins a second line."""
    rows = [dict(model="m", sampler=s, steps=k, d=1.0) for k, s in ((1, "a"), (4, "b"), (8, "c"))]
    again = [dict(model="m", sampler="d", steps=k, d=2.0) for k in (4, 8)]
    (axes,) = step_curve([*rows, *again], "d").axes
    assert [line.get_label() for line in axes.lines] == ["m, a / b / c", "m, d"]
