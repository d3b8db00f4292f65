"""The field's own measures: a tiny CLIP of random weights, and a stand-in for Inception."""

import pytest
import tiny
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from cond_distill.evaluation import distances, standard


@pytest.fixture
def nothing_fetched(monkeypatch, tmp_path):
    """A machine whose torch has fetched no weights."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The folder of a CLIP with random weights."""
    folder = tmp_path_factory.mktemp("clip")
    part = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    texts = dict(part, max_position_embeddings=16, vocab_size=400)
    images = dict(part, image_size=32, patch_size=16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=texts, vision_config=images, projection_dim=8))
    model.save_pretrained(folder / "model")
    size = dict(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    words = tiny.tokenizer(folder / "words")
    CLIPProcessor(CLIPImageProcessor(**size), words).save_pretrained(folder / "model")
    return str(folder / "model")


def test_clip_score_of_a_folder(clip):
    """Pictures of several sizes; those without a caption do not count."""
    pictures = [torch.rand(3, 40, 50), torch.rand(3, 64, 64), torch.rand(3, 33, 32)]
    score = standard.clip_score(pictures, ["a red cube", "", "a dog"], clip)
    assert -100 <= score <= 100
    assert score == pytest.approx(standard.clip_score(pictures[::2], ["a red cube", "a dog"], clip))
    none = standard.clip_score(pictures, ["", "", ""], clip)
    assert none != none


def test_missing_weights_are_named_and_nothing_is_fetched(nothing_fetched):
    """Each measure says what it needs and where to put it."""
    pictures = torch.rand(4, 3, 64, 64)
    for measure, other_input in (
        (standard.inception_fid, pictures),
        (standard.lpips, pictures),
        (lambda a, b: standard.clip_score(a, ["x"] * 4, "nobody/has-this"), pictures),
    ):
        with pytest.raises(FileNotFoundError, match="nothing is fetched"):
            measure(pictures, other_input)
    assert set(standard.how_to_get("nobody/has-this")) == {"FID, KID", "LPIPS", "CLIP score"}
    assert standard.standard_columns(pictures, pictures, ["x"] * 4, clip="nobody/has-this") == {}


@pytest.mark.slow
def test_auc_has_an_interval_and_knows_its_pairs():
    """Equal sets are at chance, also when each picture stands in both; other ones are found."""
    cloud = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
    auc, half = distances.two_sample_auc(cloud[:100], cloud[100:])
    assert abs(auc - 0.5) < half < 0.2
    assert distances.two_sample_auc(cloud[:100], cloud[:100])[0] == pytest.approx(0.5, abs=0.03)
    for other in (cloud[100:] + 1, cloud[100:] * 3):  # another mean, another spread
        auc, half = distances.two_sample_auc(cloud[:100], other)
        assert auc - half > 0.7
    assert distances.two_sample_auc(cloud[:60], cloud[60:])[1] > 0  # sets of different length
