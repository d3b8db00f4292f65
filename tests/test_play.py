"""Painting conditions: outlines, the function behind the page, the pad, and the page itself."""

import socket

import numpy as np
import pytest
import torch

from cond_distill import cli, play
from cond_distill.data.tasks import find_task
from cond_distill.options import PlayConfig

SQUARE = [(0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)]


def painted(size: int = 64) -> np.ndarray:
    """A grey picture as a browser sends it."""
    return np.full((size, size, 3), 128, np.uint8)


def editor(picture: np.ndarray, hole: slice = slice(10, 30)) -> dict:
    """What gradio's editor sends for a picture on which something was painted."""
    layer = np.zeros((*picture.shape[:2], 4), np.uint8)
    layer[hole, hole] = 255
    whole = picture.copy()
    whole[hole, hole] = 255
    return dict(background=picture, layers=[layer], composite=whole)


def test_a_filled_outline_has_the_area_of_the_outline():
    inside = play.filled(SQUARE, 64)
    assert inside.shape == (1, 64, 64) and inside.min() == 0 and inside.max() == 1
    assert inside.mean().item() == pytest.approx(0.25, abs=0.01)


def test_a_thing_is_as_near_as_the_floor_below_it():
    floor = play.empty_floor()
    with_thing = play.add_shape(floor, SQUARE)
    assert with_thing[0, 30, 32] == floor[0, 48].min()
    assert (with_thing >= floor).all() and torch.equal(with_thing[:, 56:], floor[:, 56:])


def test_a_thing_in_the_sky_can_be_seen():
    high = [(x, y / 4) for x, y in SQUARE]
    assert (play.add_shape(play.empty_floor(), high) > 0.19).any()


def test_conditions_have_the_models_size():
    picture, hole = torch.rand(3, 90, 120), torch.ones(1, 90, 120)
    for name, channels in {"depth": 1, "inpaint": 4, "superres_x4": 3, "edit": 3}.items():
        mask = hole if name == "inpaint" else None
        cond = play.to_condition(find_task(name), 32, picture, mask)
        assert cond.shape == (1, channels, 32, 32)


def test_the_function_behind_the_page():
    cond, now, other = play.answer("depth_distilled", painted(), steps=1, beside="")
    assert cond.shape == (1, 64, 64) and now.image.shape == (3, 64, 64) and other is None
    assert now.steps == 1 and now.seconds > 0 and now.words.startswith("1 step, ")


def test_what_is_painted_is_filled_and_the_rest_is_kept():
    cond, now, _ = play.answer("inpaint_distilled", editor(painted()), steps=1)
    assert cond[3, 20, 20] == 1 and cond[3, 40, 40] == 0
    assert (now.image[:, 40:] - 128 / 255).abs().max() < 1e-3


def test_paint_counts_as_depth():
    cond, _, _ = play.answer("depth_distilled", editor(painted()), steps=1)
    assert cond[0, 20, 20] == 1 and cond[0, 40, 40] < 0.6


def test_no_picture_is_refused():
    with pytest.raises(ValueError, match="upload one"):
        play.answer("depth_distilled", None)


def test_a_model_of_photographs_begins_without_a_scene():
    assert play.first_picture(play.opened("photos_superres_distilled")) is None
    assert play.first_picture(play.opened("superres_x4_distilled")).size == (320, 320)


def test_the_undistilled_partner():
    assert play.partner("depth_distilled") == "depth_finetuned"
    assert play.partner("edit_distilled") == ""
    assert play.partner("edit_distilled", "mine") == "mine"
    assert play.partner("depth_finetuned") == ""


def test_pictures_are_labelled_with_their_adaptors():
    """Whatever is drawn, and whatever stands beside it."""
    drawn = play.Drawn(torch.zeros(3, 8, 8), 4, 0.5)
    labels = [label for _, label in play.shown(torch.zeros(1, 8, 8), [("runs/my_lcm", drawn)])]
    assert labels == ["what the model sees", "my lcm: 4 steps, 0.5 s"]
    pair = play.shown(torch.zeros(1, 8, 8), [("a/depth", drawn), ("b/depth", drawn)])
    assert [label.partition(":")[0] for _, label in pair[1:]] == ["a/depth", "b/depth"]


def test_the_verb(monkeypatch):
    configs = []
    monkeypatch.setattr(play, "start", configs.append)
    cli.main(["play", "--port", "0", "--no-browser"])
    assert configs == [PlayConfig(port=0, browser=False)]


def test_a_pad_answers_each_outline():
    pytest.importorskip("anywidget")
    from cond_distill.sketch import Sketch

    sketch = Sketch("depth_distilled")
    sketch.steps.value = 1
    first = sketch.pad.answer
    sketch.pad.outline = [list(point) for point in SQUARE]
    assert sketch.pad.answer != first and sketch.pad.note.startswith("1 step, ")
    assert not torch.equal(sketch.cond, sketch.start.cond)
    sketch.clear()
    assert torch.equal(sketch.cond, sketch.start.cond) and sketch.pad.answer == first


def test_a_pad_tells_of_a_picture_that_is_the_same():
    """Else the browser would show "drawing …" for ever after a click or a line inside a thing."""
    pytest.importorskip("anywidget")
    from cond_distill.sketch import Sketch

    sketch = Sketch("depth_distilled")
    sketch.steps.value = 1
    sketch.pad.outline = [list(point) for point in SQUARE]
    before, drawn = sketch.pad.answer, sketch.pad.drawn
    sketch.pad.outline = [[0.5, 0.5]]  # a click
    sketch.pad.outline = [[0.4, 0.4], [0.6, 0.4], [0.6, 0.6]]  # inside of what is there
    assert sketch.pad.answer == before and sketch.pad.drawn == drawn + 2


def test_a_pad_for_a_task_without_outlines_is_refused():
    pytest.importorskip("anywidget")
    from cond_distill.sketch import start_of

    with pytest.raises(ValueError, match="cond-distill play"):
        start_of("edit", 64)


def test_the_page_answers_and_no_connection_leaves_the_machine(monkeypatch, tmp_path):
    pytest.importorskip("gradio")
    from gradio_client import Client, handle_file

    hosts, connect = set(), socket.socket.connect

    def watched(self, address):
        hosts.add(address[0] if isinstance(address, tuple) else "local")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", watched)
    play.as_picture(torch.rand(3, 16, 16)).save(tmp_path / "small.png")
    adaptor = "superres_x4_distilled"
    blocks = play.start(PlayConfig(adaptors=(adaptor,), port=0, browser=False), wait=False)
    try:
        assert not blocks.share and not blocks.analytics_enabled
        client = Client(blocks.local_url, verbose=False)
        picture = handle_file(tmp_path / "small.png")
        pictures = client.predict(picture, "", 1, 1, 0, 50, api_name=f"/{adaptor}")
    finally:
        blocks.close()
    assert [p["caption"].partition(":")[0] for p in pictures] == [
        "what the model sees",
        "distilled",
    ]
    assert hosts <= {"127.0.0.1", "localhost", "::1", "local"}
