"""Which weighting of the loss trains a student of an ε-predicting teacher best?

`python benchmarks/epsilon.py` trains a tiny teacher of rendered scenes of 16 x 16 pixels (noise
prediction, the scaled-linear schedule of Stable Diffusion), then an adaptor for 4 x 4 → 16 x 16
with each weighting and seed, and writes results/epsilon.json and results/epsilon.md. About four
minutes on one CPU core. Can be stopped, and goes on.

An ε-model's error in x̂ is σ/α times its error in ε̂. At t = 999 that is 14.6 times, so a squared
distance between signals counts the network's error there 214 times. The weighting of both terms by
min(1, SNR / γ) takes that back where SNR < γ: γ = 0 is the signal space, γ = ∞ the noise space.
"""

import argparse
import json
import math
import statistics
from pathlib import Path

import torch
import torch.nn.functional as F

from cond_distill.config import TrainConfig
from cond_distill.data.tasks import examples
from cond_distill.experiments.fit import FitPlan, fit
from cond_distill.methods.codi import CoDi
from cond_distill.sampler import draw_images
from cond_distill.schedule import Schedule
from cond_distill.student import Student
from cond_distill.teacher import Teacher
from cond_distill.trainer import distill_to_end
from cond_distill.utils import table

ROOT = Path(__file__).resolve().parents[1]
SIDE, TASK = 16, "superres_x4"
GAMMAS = (0.0, 1.0, 5.0, math.inf)
STEPS = (1, 2, 4, 8)
BATCH = 32


def new_network() -> torch.nn.Module:
    """Two levels, a quarter of a million parameters."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=SIDE,
        in_channels=3,
        out_channels=3,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        attention_head_dim=8,
        norm_num_groups=4,
    )


def train_teacher(work: Path, steps: int) -> Path:
    """An ε-predicting teacher; a folder that diffusers opens."""
    from diffusers import DDIMPipeline, DDIMScheduler

    folder, schedule = work / "teacher", Schedule.scaled_linear()
    if (folder / "model_index.json").exists():
        return folder
    images = examples(TASK, range(2000), "train", SIDE, "none")["image"] * 2 - 1

    def loss_fn(step, generator):
        x = images[torch.randint(len(images), (BATCH,), generator=generator)]
        t = torch.randint(schedule.T, (BATCH,), generator=generator)
        eps = torch.randn(x.shape, generator=generator)
        return F.mse_loss(net(schedule.add_noise(x, eps, t), t).sample, eps), {}

    net = new_network()
    net = fit("epsilon", net, loss_fn, FitPlan(steps, 2e-3), work)
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    DDIMPipeline(net, scheduler).save_pretrained(folder)
    return folder


class Weighted(CoDi):
    """CoDi with both terms weighted by min(1, SNR(t) / γ)."""

    def __init__(self, cfg: TrainConfig, gamma: float):
        super().__init__(cfg)
        self.gamma = gamma

    @property
    def weights(self):
        plain = super().weights

        def weighted(schedule, d):
            snr = schedule.snr(d.t)
            factor = (snr / self.gamma).clamp(max=1) if self.gamma else torch.ones_like(snr)
            if self.gamma == math.inf:
                factor = snr
            return tuple(factor * w for w in plain(schedule, d))

        return weighted


def sliced_distance(a: torch.Tensor, b: torch.Tensor) -> float:  # [N, ...] each
    """Mean Wasserstein distance of 500 projections onto random directions."""
    a, b = a.flatten(1), b.flatten(1)
    ways = torch.randn(a.shape[1], 500, generator=torch.Generator().manual_seed(0))
    a, b = ((x @ F.normalize(ways, dim=0)).sort(0).values for x in (a, b))
    return (a - b).abs().mean().item()


def sharpness(images: torch.Tensor) -> float:
    """Mean squared difference of neighbouring pixels."""
    return sum(images.diff(dim=d).square().mean().item() for d in (2, 3))


def measure(student: Student, n: int) -> list[dict]:
    """Rows for each number of steps."""
    held = examples(TASK, range(n), "held_out", SIDE, "none")
    real, small = held["image"], F.avg_pool2d(held["image"], 4)
    rows = []
    for steps in STEPS:
        images = draw_images(student, held["caption"], held["cond"], steps=steps, batch=256)
        rows.append(
            {
                "steps": steps,
                "sliced": sliced_distance(images, real),
                "obeys": (F.avg_pool2d(images, 4) - small).abs().mean().item(),
                "sharp": sharpness(images) / sharpness(real),
                "pixels": (images - real).abs().mean().item(),
            }
        )
    return rows


def one(folder: Path, work: Path, gamma: float, seed: int, steps: int, n: int) -> dict:
    """Train and measure; a small file of its own."""
    file = work / f"gamma{gamma:g}_seed{seed}.json"
    if file.exists():
        return json.loads(file.read_text("utf-8"))
    cfg = TrainConfig(
        teacher=str(folder),
        task=TASK,
        adaptor="concat",
        out=str(work / file.stem),
        cache=str(work / "cache"),
        steps=steps,
        scenes=2000,
        batch=BATCH,
        grid_every=0,
        save_every=10_000,
        seed=seed,
    )
    distill_to_end(cfg, progress=False, method=Weighted(cfg, gamma))
    student = Student.load(Teacher.from_pretrained(folder), cfg.out)
    found = dict(gamma=gamma, seed=seed, rows=measure(student, n))
    file.write_text(json.dumps(found), "utf-8")
    return found


def summary(found: list[dict], n: int) -> str:
    """A table: mean and half the range over the seeds."""
    real = [examples(TASK, range(k, k + n), "held_out", SIDE, "none")["image"] for k in (0, n)]
    lines = [{"weights": "two sets of real pictures", "sliced, 1 step": sliced_distance(*real)}]
    for gamma in sorted({f["gamma"] for f in found}):
        rows = [f["rows"] for f in found if f["gamma"] == gamma]
        name = {0.0: "signal space", math.inf: "noise space"}.get(gamma, f"min(1, SNR / {gamma:g})")
        line = {"weights": name}
        for what in ("sliced", "obeys", "sharp"):
            for k, steps in enumerate(STEPS):
                values = [r[k][what] for r in rows]
                spread = (max(values) - min(values)) / 2
                line[f"{what}, {steps}"] = f"{statistics.mean(values):.4f} ± {spread:.4f}"
        lines.append(line)
    lines[0] = {"weights": lines[0]["weights"], "sliced, 1": lines[0]["sliced, 1 step"]}
    return table(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", default="runs/epsilon")
    parser.add_argument("--teacher-steps", type=int, default=800)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--n", type=int, default=512, help="held-out conditions")
    args = parser.parse_args()
    torch.set_num_threads(1)
    work = Path(args.work)
    folder = train_teacher(work, args.teacher_steps)
    found = [
        one(folder, work, gamma, seed, args.steps, args.n)
        for seed in range(args.seeds)
        for gamma in GAMMAS
    ]
    text = summary(found, args.n)
    (ROOT / "results/epsilon.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (ROOT / "results/epsilon.md").write_text(text + "\n", "utf-8")
    print(text)


if __name__ == "__main__":
    main()
