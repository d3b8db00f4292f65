"""Conditions that an estimator makes: what measures such a training."""

import pytest
import torch
from transformers import GLPNConfig, GLPNForDepthEstimation, GLPNImageProcessor

from cond_distill.config import TrainConfig
from cond_distill.data.estimate import Estimator, task_of
from cond_distill.data.images import sample_photos
from cond_distill.training.fidelity import fidelity_fn

SHAPE = dict(num_encoder_blocks=2, depths=[1, 1], sr_ratios=[4, 2], hidden_sizes=[8, 16])
SHAPE |= dict(patch_sizes=[7, 3], strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2])


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    folder = tmp_path_factory.mktemp("estimator")
    torch.manual_seed(0)
    model = GLPNForDepthEstimation(GLPNConfig(**SHAPE, decoder_hidden_size=8))
    model.save_pretrained(folder / "depth")
    GLPNImageProcessor().save_pretrained(folder / "depth")
    train, _ = sample_photos(folder / "photos")
    spec = f"depth-estimation:{folder / 'depth'}"
    return TrainConfig(estimator=spec, images=str(train), task="depth", teacher="shipped")


def test_measured_by_the_estimator(cfg):
    """The measure of such a training is the map of what is drawn, not the small world's network."""
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    maps = Estimator(cfg.estimator, 1)(images)
    measure = fidelity_fn(cfg)
    assert measure(images, dict(cond=maps)) == {"map error": pytest.approx(0, abs=1e-6)}
    assert measure(images, dict(cond=1 - maps))["map error"] > 0.01


def test_only_for_pictures_of_ones_own():
    with pytest.raises(ValueError, match="pictures of your own"):
        task_of(TrainConfig(estimator="depth-estimation:anything", task="depth"))
