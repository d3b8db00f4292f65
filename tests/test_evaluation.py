"""The evaluator networks and the distances on a few scenes; the ladder page shows more."""

import pytest
import torch

from cond_distill.data.scenes import Caption, Scenes
from cond_distill.evaluation import distances, evaluator, fidelity, ladder, texture
from cond_distill.evaluation.damage import DAMAGES, blur, damage_by_amount

pytestmark = pytest.mark.slow

COUNT = 96


@pytest.fixture(scope="module")
def scenes():
    """Held-out scenes: twice `COUNT`."""
    return Scenes("held_out", level="full").batch(range(2 * COUNT))


@pytest.fixture(scope="module")
def networks():
    """Both shipped networks."""
    return evaluator.load_evaluator(), texture.load_texture()


def test_reads_true_renders(scenes, networks):
    """The evaluator network reads what stands in renders."""
    accuracy = evaluator.caption_accuracy(networks[0], scenes["image"], scenes["claims"])
    assert min(accuracy[key] for key in ("shape", "colour", "pattern", "floor")) > 0.93
    assert accuracy["relation"] > 0.9


@pytest.mark.parametrize("fault", ["shape", "colour", "pattern", "floor", "relation"])
def test_each_kind_of_claim_can_fail(scenes, networks, fault):
    """A caption that is wrong in one word makes that statement false."""
    other = dict(shape={"cube": "cone"}, colour={"red": "blue"}, pattern={"plain": "striped"})
    read = evaluator.ReadScene(
        (
            evaluator.ReadSolid("cube", "red", "plain", 90, -1.0, 0.0, None),
            evaluator.ReadSolid("cube", "red", "plain", 90, 1.0, 0.0, None),
        ),
        "sandy",
        None,
    )
    claims = [dict(shape="cube", colour="red", pattern="plain") for _ in range(2)]
    relation, floor = "left of", "sandy"
    if fault in other:
        claims[0][fault] = other[fault][claims[0][fault]]
    relation = "behind" if fault == "relation" else relation
    floor = "grassy" if fault == "floor" else floor
    verdict = evaluator.check_claims(read, Caption("…", tuple(claims), relation, floor))
    assert [kind for kind, values in verdict.items() if not all(values)] == [fault]


def test_blur_costs_three_times_real_against_real(scenes, networks):
    """A blur of one pixel stands out from what two real sets differ by."""
    real, other = scenes["image"].chunk(2)
    between_real = distances.fd_texture(networks[1], real, other)
    assert distances.fd_texture(networks[1], real, blur(other, 1.0)) > 3 * between_real


@pytest.mark.parametrize("kind", DAMAGES[1:])
def test_texture_distance_grows_with_damage(scenes, networks, kind):
    """The texture distance orders every ladder."""
    real, other = scenes["image"].chunk(2)
    spoilt = [
        damage_by_amount(other, kind, a, torch.Generator().manual_seed(0)) for a in (0.25, 0.6, 1.0)
    ]
    distance = [distances.fd_texture(networks[1], real, images) for images in (other, *spoilt)]
    assert ladder.is_ordered(distance)


def test_distances_are_blind_to_the_condition(scenes, networks):
    """Another order of the same pictures changes the fidelities and nothing else."""
    images, depth, claims = (scenes[key][:COUNT] for key in ("image", "depth", "claims"))
    real = distances.describe(networks, scenes["image"][COUNT:])
    right = fidelity.evaluate_pictures(networks, images, real, depth, claims)
    wrong = fidelity.evaluate_pictures(networks, images.roll(1, 0), real, depth, claims)
    assert wrong["fd_texture"] == pytest.approx(right["fd_texture"], rel=1e-3)
    assert wrong["depth_error"] > 2 * right["depth_error"]
    assert wrong["caption_all"] < right["caption_all"] - 0.2


def test_shipped_networks_are_small():
    """Together they take less than 4 MB."""
    for net, limit in ((evaluator.load_evaluator(), 2.2e6), (texture.load_texture(), 1.5e6)):
        assert 2 * sum(p.numel() for p in net.parameters()) < limit
