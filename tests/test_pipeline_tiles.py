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
    sizes, whole = [], type(teacher).decode

    def decode(self, x):
        sizes.append(tuple(x.shape[-2:]))
        return whole(self, x)

    monkeypatch.setattr(type(teacher), "decode", decode)
    x = torch.randn(1, 4, 50, 37, generator=drawing.noise())
    image = decode_tiled(teacher, x)
    assert image.shape == (1, 3, 100, 74) and image.min() >= 0 and image.max() <= 1
    assert len(sizes) > 4 and set(sizes) == {(16, 16)}
    assert (image - whole(teacher, x)).abs().mean() < 0.05
    small = x[..., :11, :21]
    assert torch.equal(decode_tiled(teacher, small), whole(teacher, small))


def test_tiled_decoding_of_diffusers(tmp_path):
    """`vae.enable_tiling` is followed by the pipeline and by `draw_tiled`."""
    pipe, cond, shapes = drawing.pipeline(tmp_path), drawing.condition(side=40), []
    student = drawing.student(pipe.teacher)
    pipe.vae.decoder.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape[2:]))

    def draw():
        shapes.clear()
        options = dict(generator=drawing.noise(), output_type="pt", num_inference_steps=2)
        pictures = (
            pipe("", cond[..., :16, :16], **options).images,
            draw_tiled(student, "", cond, steps=2),
        )
        return pictures, set(map(tuple, shapes))

    whole, of_whole = draw()
    pipe.vae.enable_tiling()
    pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = 8, 4
    tiled, of_tiled = draw()
    assert max(of_whole) == (16, 16) and max(of_tiled) == (4, 4)
    for one, other in zip(whole, tiled):
        assert one.shape == other.shape and (one - other).abs().mean() < 0.25


def test_one_copy_of_the_weights(teacher, monkeypatch):
    student, calls = drawing.student(teacher), []
    weights = type(student.adaptor).weights

    def counted(self, net):
        calls.append(1)
        return weights(self, net)

    monkeypatch.setattr(type(student.adaptor), "weights", counted)
    pictures = [
        draw_tiled(student, "", drawing.condition(side=40), steps=2, batch=batch)
        for batch in (3, 32)
    ]
    assert len(calls) == 2
    assert (pictures[0] - pictures[1]).abs().max() < 1e-4
