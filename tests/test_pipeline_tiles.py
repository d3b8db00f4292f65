"""Large pictures: one copy of the changed weights, and a decoder that sees a block at a time."""

import drawing
import pytest
import torch

from cond_distill.tiles import decode_tiled, draw_tiled


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return drawing.teacher(tmp_path_factory.mktemp("tiles"))


def test_decoded_in_blocks(teacher, monkeypatch):
    """Blocks are four pictures of the model's size; small latents are decoded whole."""
    seen, whole = [], type(teacher).decode

    def decode(self, x):
        seen.append(tuple(x.shape[-2:]))
        return whole(self, x)

    monkeypatch.setattr(type(teacher), "decode", decode)
    x = torch.randn(1, 4, 50, 37, generator=drawing.noise())
    image = decode_tiled(teacher, x)
    assert image.shape == (1, 3, 100, 74) and image.min() >= 0 and image.max() <= 1
    assert len(seen) > 4 and set(seen) == {(16, 16)}
    assert (image - whole(teacher, x)).abs().mean() < 0.05
    small = x[..., :11, :21]
    assert torch.equal(decode_tiled(teacher, small), whole(teacher, small))


def test_one_copy_of_the_weights(teacher, monkeypatch):
    student, asked = drawing.student(teacher), []
    weights = type(student.adaptor).weights

    def counted(self, net):
        asked.append(1)
        return weights(self, net)

    monkeypatch.setattr(type(student.adaptor), "weights", counted)
    pictures = [
        draw_tiled(student, drawing.condition(side=40), steps=2, batch=batch) for batch in (3, 32)
    ]
    assert len(asked) == 2
    assert (pictures[0] - pictures[1]).abs().max() < 1e-4
