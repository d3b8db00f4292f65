"""However many pictures a caller has, the autoencoder takes a few at a time, and the plan knows."""

from functools import partial

import drawing
import pytest
import tiny
import torch
from training import Peak

from cond_distill import utils
from cond_distill.adaptors.concat import as_latent
from cond_distill.data.cache import encode_examples
from cond_distill.plan import plan, shapes_only
from cond_distill.sampler import draw_images
from cond_distill.teacher import Teacher

AT_ONCE = 4  # pictures of the tiny teacher, in these tests


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Teacher:
    return drawing.teacher(tmp_path_factory.mktemp("autoencoder"), "sd1")


@pytest.fixture
def taken(teacher, monkeypatch) -> list[int]:
    """The number of pictures in every call of the autoencoder."""
    batches, vae = [], teacher.vae

    def counted(real, x):
        batches.append(len(x))
        return real(x)

    for name in ("encode", "decode"):
        monkeypatch.setattr(vae, name, partial(counted, getattr(vae, name)))
    return batches


USES = dict(
    examples=lambda t, x: encode_examples(t, dict(image=x, cond=x, caption=[""] * len(x)))["x"],
    conditions=lambda t, x: as_latent(t, x),
    pictures=lambda t, x: t.decode(t.encode(x)),
    drawings=lambda t, x: draw_images(t, [""] * len(x), steps=1, batch=32),
)


@pytest.mark.parametrize("name", USES)
def test_pieces(name, teacher, taken, monkeypatch):
    """The same numbers, a few pictures at a time."""
    x = torch.rand(10, 3, tiny.SIDE, tiny.SIDE, generator=torch.Generator().manual_seed(0))
    whole = torch.as_tensor(USES[name](teacher, x.clone()))  # a latent is remembered by its picture
    assert max(taken) == len(x)
    taken.clear()
    monkeypatch.setattr(utils, "AUTOENCODER_PIXELS", AT_ONCE * tiny.SIDE**2)
    torch.testing.assert_close(torch.as_tensor(USES[name](teacher, x)), whole)
    assert max(taken) == AT_ONCE


def test_small_pictures_stay_together():
    """As many as the cache makes at a time, 64 × 64 pixels each."""
    batches = []
    utils.in_pieces(lambda x: batches.append(len(x)) or x, torch.zeros(100, 1), 64 * 64)
    assert batches == [100]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd15", "shipped"])
def test_plan(name):
    """The planned bytes of the autoencoder are those that its largest piece takes."""
    teacher, peaks = shapes_only(name), []
    planned = plan(shapes_only(name), "lora", batch=1, dtype="bfloat16")
    size = teacher.image_size
    n = utils.AUTOENCODER_PIXELS // size**2
    vae = torch.nn.Module.to(teacher.vae, torch.bfloat16)
    options = dict(device="meta", dtype=torch.bfloat16)
    latents = (n, *teacher.latent_shape)
    for call, shape in ((vae.encode, (n, 3, size, size)), (vae.decode, latents)):
        with Peak("meta") as peak, torch.no_grad():
            call(torch.empty(shape, **options))
        peaks.append(peak.most / 1e9)
    assert planned.autoencoder == pytest.approx(max(peaks), rel=0.1)
    assert planned.memory >= planned.teacher + planned.adaptor + max(peaks)
