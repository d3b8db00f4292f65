"""Models that predict the noise: the loss of noisy timesteps is weighed by min(1, SNR / γ)."""

import drawing
import pytest
import torch

from cond_distill.config import TrainConfig
from cond_distill.loss import codi_loss, look_ahead
from cond_distill.methods.base import snr_weight
from cond_distill.methods.catalogue import make_method
from cond_distill.schedule import Schedule


def test_weight():
    t = torch.arange(1000)
    epsilon, other = (
        Schedule.scaled_linear(),
        Schedule.scaled_linear(prediction_type="v_prediction"),
    )
    weight = snr_weight(epsilon, t, 5.0)
    assert torch.equal(weight, (epsilon.snr(t) / 5).clamp(max=1)) and weight[-1] < 1e-3
    for schedule, gamma in ((other, 5.0), (Schedule.flow(), 5.0), (epsilon, 0.0)):
        assert torch.equal(snr_weight(schedule, t, gamma), torch.ones(1000))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("epsilon")


def loss_of(name: str, student, **changes) -> float:
    method = make_method(TrainConfig(method=name, **changes))
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4, *student.teacher.latent_shape, generator=g)
    batch = dict(x=x, cond=drawing.condition(4), text=student.teacher.embed(["", "a", "b", "c"]))
    if name == "any_step":
        student = type(student)(student.teacher, method.extend(student.teacher, student.adaptor))
    noise = method.sample_noise(student.schedule, x, g, 699)
    with torch.no_grad():
        return method.loss(student, student, batch, noise)[0].item()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["codi", "any_step", "finetune", "consistency_only"])
def test_losses(folder, name):
    """γ matters for the model that predicts the noise, and for no other."""
    for family, matters in (("sd1", True), ("sd2", False)):
        student = drawing.student(drawing.teacher(folder, family))
        weighted, plain = (loss_of(name, student, snr_gamma=g) for g in (5.0, 0.0))
        assert (weighted < 0.9 * plain) if matters else weighted == plain


def test_paper_is_as_printed(folder):
    student = drawing.student(drawing.teacher(folder, "sd1"))
    assert loss_of("paper", student) == loss_of("paper", student, snr_gamma=0.0)


def test_both_terms(folder):
    """The balance between the two terms is that of the look-ahead."""
    student = drawing.student(drawing.teacher(folder, "sd1"))
    method = make_method(TrainConfig(method="codi"))
    x = torch.randn(4, *student.teacher.latent_shape)
    d = method.sample_noise(student.schedule, x, torch.Generator().manual_seed(0), 699)
    for mine, plain in zip(
        method.weighted(student.schedule, d), method.weights(student.schedule, d)
    ):
        assert torch.allclose(mine, snr_weight(student.schedule, d.t, 5.0) * plain)
    assert codi_loss.__kwdefaults__["weights"] is look_ahead
