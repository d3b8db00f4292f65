"""The loss in the world of one number, where every answer is known."""

import math

import pytest
import torch

from cond_distill.experiments.worlds import (
    PeaksStudent,
    draw_peaks,
    posterior_mean,
)
from cond_distill.experiments.worlds import peaks_schedule as schedule
from cond_distill.loss import (
    DISTANCES,
    SOLVER_CHOICES,
    NoiseSample,
    codi_loss,
    consistency_only,
    decoded,
    solve,
    squared,
)

BATCH = draw_peaks(64)


def noise_at(t: int, s: int, count: int = 64) -> NoiseSample:
    eps = torch.randn(count, 1, generator=torch.Generator().manual_seed(2))
    return NoiseSample(torch.full((count,), t), torch.full((count,), s), eps)


def value(**options) -> float:
    student = PeaksStudent(posterior_mean, teacher=PeaksStudent(posterior_mean))
    target = PeaksStudent(posterior_mean)
    return codi_loss(student, target, BATCH, noise_at(800, 675), **options)[0].item()


def test_noise_space_is_signal_space_with_the_models_own_step():
    assert abs(value(space="signal") / value(space="noise") - 1) < 1e-3


def test_every_solver_space_and_distance_is_finite():
    values = [value(z_s=z, space=s) for z in SOLVER_CHOICES for s in ("signal", "noise")]
    values += [value(distance=k) for k in DISTANCES]
    assert all(map(math.isfinite, values))
    assert len({round(value(z_s=z), 6) for z in ("model", "noise", "forward")}) == 3


@pytest.mark.parametrize("options", [dict(z_s="truth"), dict(space="pixel")])
def test_unknown_choices_are_refused(options):
    with pytest.raises(ValueError, match="choose"):
        value(**options)


def test_the_target_is_called_at_s():
    timesteps = []

    def target(z, t):
        timesteps.append(t)
        return posterior_mean(z, t)

    codi_loss(PeaksStudent(posterior_mean), PeaksStudent(target), BATCH, noise_at(800, 675))
    assert timesteps == [675]


def test_what_becomes_of_the_students_error():
    """The true noise makes it larger, the forward process takes it away."""
    d = noise_at(800, 675)
    (alpha, sigma), (alpha_s, sigma_s) = schedule.at(d.t, d.eps), schedule.at(d.s, d.eps)
    z_t, student = schedule.add_noise(BATCH["x"], d.eps, d.t), PeaksStudent(posterior_mean)
    now = student(z_t, d.t)
    step = {z: solve(z, student, BATCH, d, z_t, now) for z in ("model", "noise", "forward")}
    error, shift = now.x - BATCH["x"], sigma_s * alpha / sigma
    assert torch.allclose(step["noise"], step["model"] + shift * error, atol=1e-4)
    assert torch.allclose(step["forward"], step["model"] - (alpha_s - shift) * error, atol=1e-4)
    assert (alpha_s > shift).all()


def test_the_boundary_replaces_the_answer_at_zero():
    def at_zero(**options):
        wrong = PeaksStudent(lambda z, t: z + 9)
        options |= dict(weights=consistency_only)
        student = PeaksStudent(posterior_mean)
        return codi_loss(student, wrong, BATCH, noise_at(100, 0), **options)[1]["d_c"]

    assert at_zero() > 70 and at_zero(boundary=True) < 0.1
    assert abs(value(boundary=True) / value() - 1) < 1e-4


def test_a_distance_between_pictures_has_the_size_of_the_latents():
    class Doubles:
        def decode(self, x):
            return 2 * x

    student = PeaksStudent(posterior_mean, teacher=Doubles())
    losses = [
        codi_loss(student, student, BATCH, noise_at(800, 675), data_distance=f)[0].item()
        for f in (None, decoded(squared))
    ]
    assert abs(losses[0] / losses[1] - 1) < 1e-5


def test_a_consistency_function_agrees_with_itself():
    """Its inconsistency per Δt vanishes with Δt; that of the denoiser does not."""

    def end_of_path(z, t, stride=10):
        stops = [*range(t, -1, -stride), -1]
        for a, b in zip(stops, stops[1:], strict=False):
            z = schedule.step(schedule.from_x(posterior_mean(z, a), z, a), b)
        return z

    def rate(f, delta):
        student = PeaksStudent(f, teacher=PeaksStudent(posterior_mean))
        d = noise_at(600, 600 - delta)
        return codi_loss(student, student, BATCH, d, z_s="teacher")[1]["d_c"] ** 0.5 / delta

    assert rate(end_of_path, 10) < 0.25 * rate(end_of_path, 160)
    assert rate(posterior_mean, 10) > 0.5 * rate(posterior_mean, 160)


@pytest.mark.slow
def test_training_reaches_the_fixed_point():
    """f_t = (1 − ρ) m_t + ρ f_s, by gradient descent on one free number for each z."""
    t, s, cells = 750, 500, torch.linspace(-3, 3, 61)

    def look_up(values, z):
        u = ((z[:, 0] + 3) / 6 * 60).clamp(0, 59.999)
        i = u.long()
        return (values[i] * (1 - (u - i)) + values[i + 1] * (u - i))[:, None]

    table = posterior_mean(cells[:, None], t)[:, 0].clone().requires_grad_()
    student = PeaksStudent(lambda z, t: look_up(table, z))
    target = PeaksStudent(posterior_mean)  # the answer at s is given
    optimizer = torch.optim.Adam([table], lr=0.02)

    def halves(schedule, d):
        return torch.full((len(d.t),), 0.5), torch.full((len(d.t),), 0.5)

    for step in range(400):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 400)
        batch, g = draw_peaks(2048, seed=step), torch.Generator().manual_seed(step)
        noise = torch.randn(2048, 1, generator=g)
        d = NoiseSample(torch.full((2048,), t), torch.full((2048,), s), noise)
        loss, _ = codi_loss(student, target, batch, d, weights=halves)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    mean = posterior_mean(cells[:, None], t)[:, 0]
    theory = mean
    for _ in range(100):
        z_s = schedule.step(schedule.from_x(theory[:, None], cells[:, None], t), s)
        theory = 0.5 * theory + 0.5 * (0.5 * mean + 0.5 * posterior_mean(z_s, s)[:, 0])
    inside = cells.abs() < 1.5  # where examples are
    error = (table.detach() - theory)[inside].square().mean().sqrt()
    assert error < 0.04 and error < 0.3 * (theory - mean)[inside].square().mean().sqrt()
