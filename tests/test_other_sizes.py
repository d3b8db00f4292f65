"""A Stable Diffusion drawn and trained at another size than its config's."""

import drawing
import pytest
import tiny
import torch
from PIL import Image

from cond_distill import TrainConfig, cli, distill, fidelity_fn
from cond_distill.data.stream import held_out_examples
from cond_distill.opening import open_adaptor
from cond_distill.options import PlanConfig
from cond_distill.pipeline import CoDiPipeline
from cond_distill.plan import plan, shapes_only
from cond_distill.sampler import draw_images
from cond_distill.student import Student

SIDE = tiny.SIDE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sizes")


@pytest.mark.parametrize("family", ["sd2", pytest.param("sdxl", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "adaptor",
    ["controlnet", *(pytest.param(a, marks=pytest.mark.slow) for a in ("t2i", "concat", "fusion"))],
)
def test_a_pipeline_draws_at_another_height_and_width(folder, family, adaptor):
    """Height and width are those of the picture and of the condition."""
    pipe = drawing.pipeline(folder, family, adaptor)
    cond = torch.rand(1, 3, 2 * SIDE, SIDE)
    image = pipe("", cond, num_inference_steps=1, height=2 * SIDE, width=SIDE).images[0]
    assert image.size == (SIDE, 2 * SIDE)
    with pytest.raises(ValueError, match=f"condition is {SIDE} × {SIDE} pixels; expected {SIDE} ×"):
        pipe("", drawing.condition(), height=SIDE, width=2 * SIDE)
    with pytest.raises(ValueError, match="expected multiples of"):
        pipe("", drawing.condition(), height=SIDE + 1)
    same = dict(num_inference_steps=1, output_type="pt")
    plain = pipe("", drawing.condition(), generator=drawing.noise(), **same).images
    size = dict(height=SIDE, width=SIDE)
    wanted = pipe("", drawing.condition(), generator=drawing.noise(), **same, **size).images
    assert torch.equal(plain, wanted)


@pytest.mark.parametrize("family, adaptor", [("pixels", "concat"), ("sd3", "controlnet")])
def test_other_networks_have_one_size(folder, family, adaptor):
    pipe = drawing.pipeline(folder, family, adaptor)
    with pytest.raises(ValueError, match="draws at the size of its config only"):
        pipe("", drawing.condition(), height=2 * SIDE)


@pytest.mark.slow
def test_training_at_another_size(folder, tmp_path):
    """The adaptor that is trained at a size is opened, drawn and saved at that size."""
    teacher = drawing.teacher(folder)
    (tmp_path / "pictures").mkdir()
    for k in range(4):
        pixels = torch.rand(64, 64, 3).mul(255).byte().numpy()
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{k}.png")
    cfg = TrainConfig(
        teacher=str(folder / "sd2"),
        image_size=2 * SIDE,
        task="superres_x4",
        adaptor="t2i",
        images=str(tmp_path / "pictures"),
        max_crop_scale=1.0,
        num_examples=4,
        batch=2,
        steps=2,
        workers=0,
        grid_every=2,
        out=str(tmp_path / "run"),
        cache=str(tmp_path / "cache"),
    )
    for _ in distill(cfg, progress=False):
        pass
    student = Student.load(teacher, cfg.out)
    for opened in (student, open_adaptor(cfg.out)):
        assert opened.teacher.size == (2 * SIDE, 2 * SIDE)
        cond = drawing.condition(side=2 * SIDE)
        assert draw_images(opened, [""], cond, steps=1).shape == (1, 3, 2 * SIDE, 2 * SIDE)
    CoDiPipeline.from_student(student).save_pretrained(tmp_path / "pipe")
    pipe = CoDiPipeline.from_pretrained(tmp_path / "pipe")
    assert pipe("", drawing.condition(side=2 * SIDE)).images[0].size == (2 * SIDE, 2 * SIDE)
    assert teacher.size == (SIDE, SIDE)


@pytest.mark.parametrize("task", ["depth", "segmentation", "superres_x4", "inpaint", "edit"])
def test_what_measures_the_shipped_world_at_another_size(task):
    """Networks that read 64 pixels are left out, which is said once; the rest is measured."""
    with pytest.warns(UserWarning, match="64 × 64") as warned:
        eval_fn = fidelity_fn(TrainConfig(task=task, image_size=128))
    assert len(warned) == 1
    if task in ("depth", "segmentation"):
        assert eval_fn is None
        return
    held = held_out_examples(TrainConfig(task=task), 128, 2)
    row = eval_fn(torch.rand(2, 3, 128, 128), held)
    assert row and "perceptual" not in row


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:task 'superres_x4' is trained without")
def test_the_command_finishes_at_another_size(tmp_path):
    """A run with the shipped teacher at half its size, measured as the command line does it."""
    sizes = dict(task="superres_x4", adaptor="lora", rank=1, image_size=32)
    counts = dict(steps=1, batch=1, num_examples=1, grid_every=1, eval_n=1, workers=0)
    cfg = TrainConfig(out=str(tmp_path / "run"), cache=str(tmp_path), **sizes, **counts)
    student = open_adaptor(str(cli.distill(cfg)))
    assert [*student.about["curve"][0]] == ["steps", "n", "shrunk PSNR"]


def test_a_plan_for_another_size():
    """A quarter of the pixels takes less memory."""
    assert PlanConfig(image_size=256).image_size == 256
    teachers = [shapes_only("shipped", image_size=n) for n in (64, 32)]
    whole, quarter = (plan(teacher, "lora", 3, 2, 4).activations for teacher in teachers)
    assert 0.15 * whole < quarter < 0.4 * whole
