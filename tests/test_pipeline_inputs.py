"""What a pipeline and the command take as pictures: the same files, of the same sizes and modes."""

import re

import drawing
import numpy as np
import pytest
import torch
from PIL import Image

from cond_distill.data.decode import GREY_MODES
from cond_distill.data.tasks import TASKS, find_task
from cond_distill.drawing import read_condition
from cond_distill.model_card import model_card
from cond_distill.options import SampleConfig
from cond_distill.pipeline import CoDiPipeline
from cond_distill.pipeline_inputs import read_conditions


def picture(side: int = 16, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def floats(side: int = 16) -> Image.Image:
    return Image.fromarray(np.asarray(picture(side, "L"), np.float32) / 255)


@pytest.mark.parametrize("task", ["superres_x4", "superres_x8", "superres_real"])
def test_a_small_picture_becomes_the_condition_of_the_command(task, tmp_path):
    """The pipeline enlarges a picture or a tensor of the small size by the command's filter."""
    kind = find_task(task)
    small = picture(64 // kind.enlarge)
    small.save(tmp_path / "small.png")
    want, _ = read_condition(SampleConfig(image=str(tmp_path / "small.png")), kind, 64)
    assert torch.equal(read_conditions(kind, small, size=(64, 64)), want)
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None] / 255
    assert torch.equal(read_conditions(kind, pixels, size=(64, 64)), want)
    assert torch.equal(read_conditions(kind, want, size=(64, 64)), want)


def test_a_pipeline_draws_from_a_small_picture(tmp_path):
    """It knows the size that it draws, also where a call asks for another one."""
    pipe, task = drawing.pipeline(tmp_path), find_task("superres_x4")

    def draw(image, **size):
        settings = dict(generator=drawing.noise(), output_type="latent", num_inference_steps=1)
        return pipe("", image, **settings, **size).images

    large = read_conditions(task, picture(4), size=(16, 16))
    assert torch.equal(draw(picture(4)), draw(large))
    assert draw(picture(8), height=32, width=32).shape[-1] == 2 * draw(large).shape[-1]
    with pytest.raises(ValueError, match="^image is 8 × 8 pixels; expected 16 × 16, or 4 × 4, wh"):
        draw(picture(8))


def test_sizes_are_compared_before_pictures_are_joined():
    """The picture that does not fit is named by its number."""
    edges, inpaint = find_task("edges"), find_task("inpaint")
    pair = [picture(16), picture(8).resize((8, 12))]
    for size in (None, (16, 16)):
        with pytest.raises(ValueError, match="^image 2 of 2 is 8 × 12 pixels; expected 16 × 16: r"):
            read_conditions(edges, pair, size=size)
    masks = [picture(16, "L"), picture(8, "L")]
    with pytest.raises(ValueError, match="^mask_image 2 of 2 is 8 × 8 pixels and its image 16 × 1"):
        read_conditions(inpaint, picture(16), masks)


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "F", "RGB", "LA"])
def test_both_doors_take_the_same_modes(mode, tmp_path):
    """A depth map of floating-point numbers too; one with colours is refused by both."""
    image, depth = picture(16, "L"), find_task("depth")
    if mode == "F":
        image = floats()
    elif mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    image.save(tmp_path / "depth.tif")
    cfg = SampleConfig(image=str(tmp_path / "depth.tif"))
    doors = (lambda: read_condition(cfg, depth, 16)[0], lambda: read_conditions(depth, image))
    if mode in GREY_MODES:
        of_command, of_pipeline = (door() for door in doors)
        assert torch.equal(of_command, of_pipeline) and of_command.std() > 0.1
        return
    for door in doors:
        with pytest.raises(ValueError, match=f"is a {mode} picture; a depth map or mask is grey"):
            door()


def test_a_missing_mask_is_called_as_the_door_calls_it(tmp_path):
    inpaint = find_task("inpaint")
    picture().save(tmp_path / "whole.png")
    with pytest.raises(ValueError, match="to be filled: mask_image=…$"):
        read_conditions(inpaint, picture())
    with pytest.raises(ValueError, match="to be filled: --mask FILE$"):
        read_condition(SampleConfig(image=str(tmp_path / "whole.png")), inpaint, 16)


@pytest.mark.parametrize("task", TASKS)
def test_the_example_of_a_card_draws(task, tmp_path, monkeypatch):
    """Its code is run on files as the card describes them, and nothing is refused."""
    kind = find_task(task)
    student = drawing.student(drawing.teacher(tmp_path), channels=kind.channels)
    student.about |= dict(task=task)
    pipe = CoDiPipeline.from_student(student)
    pipe.set_progress_bar_config(disable=True)
    monkeypatch.setattr(CoDiPipeline, "from_pretrained", lambda name: pipe)
    monkeypatch.chdir(tmp_path)
    card = model_card("m", student.about, [1, 2], "renoise", 3.0)
    (side,) = {int(n) for n in re.findall(r"(\d+) x \1 pixels", card)}
    picture(side, "L" if "grey-scale" in card else "RGB").save("picture.png")
    Image.new("RGB", (side, side), "white").save("mask.png")
    exec(card.partition("```python\n")[2].partition("```")[0], {})
    assert Image.open("out.png").size == (16, 16)
