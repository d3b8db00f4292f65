"""Which weighting of the loss trains a student of an ε-predicting teacher best?

`python benchmarks/epsilon.py` trains small students in the conditional world of the course's page
on the loss (a ring; the condition is a line; right answers are its two ends) with each weighting,
learning rate and seed, and writes results/epsilon.json and results/epsilon.md. About three minutes
of one CPU core.

Teacher and student predict the noise, on the scaled-linear schedule of Stable Diffusion. An error
of ε̂ is σ/α times as large in x̂. At t = 999 that is 14.6 times, so a squared distance between
signals counts the network's error there 214 times. Both terms times min(1, SNR(t) / γ) take that
back where SNR < γ: γ = 0 is the signal space, and with γ = ∞ (both terms times SNR) all distances
are between noises.
"""

import argparse
import copy
import json
import math
import statistics
from pathlib import Path

import torch
from torch import nn

from cond_distill.experiments.worlds import (
    distance_to_answers,
    draw_examples,
    mirrored,
    ring_teacher,
)
from cond_distill.loss import codi_loss, look_ahead, ramp, sample_noise
from cond_distill.schedule import Prediction, Schedule
from cond_distill.utils import table

ROOT = Path(__file__).resolve().parents[1]
SCHEDULE = Schedule.scaled_linear()  # ε-prediction
GAMMAS = (0.0, 0.1, 1.0, 5.0, math.inf)
RATES = (1e-3, 4e-3)
STEPS = (1, 2, 4, 8)


class EpsilonStudent(nn.Module):
    """ε̂ of the exact teacher plus a small network whose last layer starts at zero."""

    def __init__(self, width: int = 96):
        super().__init__()
        self.schedule = SCHEDULE
        self.net = nn.Sequential(
            nn.Linear(7, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2)
        )
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, z: torch.Tensor, t: torch.Tensor, c: torch.Tensor, _=None) -> Prediction:
        """z [N, 2], t and c [N]."""
        alpha, sigma = SCHEDULE.at(t, z)
        time = torch.atan2(sigma, alpha) * 2 / math.pi
        teacher = SCHEDULE.from_x(ring_teacher(z, time[:, 0]), z, t).eps
        off_line = (z - mirrored(z, c)) / (2 * sigma + 0.05)
        change = self.net(torch.cat([z, off_line, alpha, sigma, time], 1))
        return SCHEDULE.from_eps(teacher + change, z, t)


def weighted(gamma: float):  # -> the `weights` of `codi_loss`
    """The weights of the look-ahead, both times min(1, SNR / γ)."""

    def weights(schedule, d):
        snr = schedule.snr(d.t)
        factor = snr if gamma == math.inf else (snr / max(gamma, 1e-12)).clamp(max=1)
        return tuple(factor * w for w in look_ahead(schedule, d))

    return weights


def train(gamma: float, lr: float, seed: int, steps: int) -> EpsilonStudent:
    """The sampling average after a training as in the package: ramp, grid, focus, two averages."""
    torch.manual_seed(seed)
    student = EpsilonStudent()
    target, average = copy.deepcopy(student), copy.deepcopy(student)
    optimizer = torch.optim.AdamW(student.parameters(), lr, betas=(0.9, 0.99), weight_decay=1e-3)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        share = min(1.0, (step + 1) / 50, 0.05 + 3.8 * (1 - step / steps))
        optimizer.param_groups[0]["lr"] = lr * share
        x, c = draw_examples(256, generator)
        focus = 1 - ramp(step / steps, 0.6, 0.7)
        d = sample_noise(SCHEDULE, x, generator, 125, True, step / steps, "grid", focus)
        loss, _ = codi_loss(
            student, target, dict(x=x, cond=c, text=None), d, weights=weighted(gamma)
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for model, decay in ((target, 0.95), (average, 0.99)):
                for mine, new in zip(model.parameters(), student.parameters(), strict=True):
                    mine.lerp_(new, 1 - min(decay, (1 + step) / (10 + step)))
    return average


@torch.no_grad()
def draw(student: EpsilonStudent, c: torch.Tensor, steps: int) -> torch.Tensor:  # [N, 2]
    """Re-noising, as the students are made for."""
    generator = torch.Generator().manual_seed(1)
    ts = SCHEDULE.timesteps(steps)
    z = torch.randn(len(c), 2, generator=generator)
    for t, s in zip(ts, [*ts[1:], -1], strict=True):
        x = student(z, torch.full((len(c),), t), c).x
        z = SCHEDULE.add_noise(x, torch.randn(x.shape, generator=generator), s) if s >= 0 else x
    return z


def turned(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:  # [N, 2]
    """Along the line and across it."""
    cos, sin = c.cos(), c.sin()
    return torch.stack([cos * x[:, 0] + sin * x[:, 1], cos * x[:, 1] - sin * x[:, 0]], 1)


def sliced_distance(a: torch.Tensor, b: torch.Tensor) -> float:  # [N, 2] each
    """Mean Wasserstein distance of projections onto 32 directions."""
    angle = torch.arange(32) * math.pi / 32
    ways = torch.stack([angle.cos(), angle.sin()])
    a, b = ((x @ ways).sort(0).values for x in (a, b))
    return (a - b).abs().mean().item()


def measure(student: EpsilonStudent | None, count: int = 4000) -> dict:
    """For each number of steps the distance from real samples, and from the nearer answer."""
    x, c = draw_examples(count, torch.Generator().manual_seed(2))
    other, its = draw_examples(count, torch.Generator().manual_seed(3))
    row = {}
    for steps in STEPS:
        drawn, at = (draw(student, c, steps), c) if student else (other, its)
        row[f"distance, {steps}"] = sliced_distance(turned(drawn, at), turned(x, c))
        row[f"off, {steps}"] = distance_to_answers(drawn, at).mean().item()
    return row


def summary(results: list[dict]) -> str:
    """Mean and half the range over the seeds."""

    def line(name, rate, rows):
        cells = {"both terms times": name, "lr": rate}
        for key in rows[0]:
            values = [row[key] for row in rows]
            spread = (max(values) - min(values)) / 2
            cells[key] = f"{statistics.mean(values):.3f} ± {spread:.3f}"
        return cells

    names = {0.0: "1 (signal space)", math.inf: "SNR (noise space)"}
    lines = [line("real samples", "–", [measure(None)])]
    for rate in RATES:
        for gamma in GAMMAS:
            rows = [f["rows"] for f in results if (f["gamma"], f["lr"]) == (gamma, rate)]
            lines.append(line(names.get(gamma, f"min(1, SNR / {gamma:g})"), f"{rate:g}", rows))
    return table(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default=str(ROOT / "results" / "epsilon"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = [
        dict(gamma=gamma, lr=lr, seed=seed, rows=measure(train(gamma, lr, seed, args.steps)))
        for seed in range(args.seeds)
        for lr in RATES
        for gamma in GAMMAS
    ]
    text = summary(results)
    Path(f"{args.out}.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    Path(f"{args.out}.md").write_text(text + "\n", "utf-8")
    print(text)


if __name__ == "__main__":
    main()
