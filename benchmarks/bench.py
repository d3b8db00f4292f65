"""Speed as ratios within one run.

`bench.py` measures everything and writes results/benchmarks.json and results/benchmarks.md.

Each pair is measured in turns, many times, and the fastest of each is taken: what else the machine
does then disturbs both alike, and least the fastest.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from cond_distill.config import TrainConfig
from cond_distill.data.cache import cache_examples
from cond_distill.data.source import make_batch
from cond_distill.experiments.evaluation import commit
from cond_distill.loss import sample_noise
from cond_distill.sampler import draw_images
from cond_distill.student import Student
from cond_distill.teacher import ASSETS, Teacher, best_device
from cond_distill.trainer import train_step
from cond_distill.training.state import new_run
from cond_distill.utils import table


def fastest(calls: dict, rounds: int) -> dict:
    """{name: seconds of its fastest call}, the calls in turns."""
    sync = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    best = dict.fromkeys(calls, float("inf"))
    for f in calls.values():
        f()  # warm up
    for _ in range(rounds):
        for name, f in calls.items():
            sync()
            start = time.perf_counter()
            f()
            sync()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def after_ramp(cfg, teacher, data, **settings):
    """A run whose next step asks the target as well, as a callable."""
    run = new_run(replace(cfg, ramp_start=0.0, ramp_end=0.0, **settings), teacher)
    run.state.step = run.cfg.steps // 2
    return run, lambda: train_step(run, data)


def bare(run, data):
    """Two forwards and one backward of the modules on tensors that are there.

    No loss, optimiser or averages.
    """
    cfg, student, g = run.cfg, run.state.student, torch.Generator().manual_seed(0)
    batch = make_batch(data, cfg, student.teacher.empty(), g, student.device)
    d = sample_noise(student.schedule, batch["x"], g, cfg.delta, True, 1.0, cfg.timesteps)
    z = student.schedule.add_noise(batch["x"], d.eps, d.t)

    def call():
        with run.engine.autocast():
            x = student(z, d.t, batch["cond"], batch["text"]).x
            with torch.no_grad():
                run.state.target.student(z, d.s, batch["cond"], batch["text"])
        x.square().mean().backward()
        for p in run.state.params:
            p.grad = None

    return call


def full_codi(cfg, teacher, data):
    """A step of a single stage that trains a second backbone, and its bare modules."""
    full, step = after_ramp(cfg, teacher, data, adaptor="fusion")
    return {"CoDi (full)": step, "bare modules (full)": bare(full, data)}


def training(
    cfg,
    teacher,
    data,
    rounds,
    apart=False,  # the largest model after the others, where memory is short
):
    """A step of each kind."""
    run, codi = after_ramp(cfg, teacher, data)
    calls = {
        "PE-CoDi": codi,
        "bare modules": bare(run, data),
        "finetuning": after_ramp(cfg, teacher, data, method="finetune")[1],
    }
    with tempfile.TemporaryDirectory() as out:
        run.state.ema.student.save(out)
        calls["LCM"] = after_ramp(cfg, teacher, data, method="lcm", init_from=out, guidance=3.0)[1]
        best = fastest(calls | ({} if apart else full_codi(cfg, teacher, data)), rounds)
    if apart:
        del run, codi, calls
        best |= fastest(full_codi(cfg, teacher, data), rounds)
    batch = batch_seconds(cfg, teacher, data, 20 * rounds)
    return step_ratios(best, batch), best | {"batch": batch}


def batch_seconds(cfg, teacher, data, rounds):
    """Seconds of one batch of examples."""
    seeds = itertools.count()

    def make():
        g = torch.Generator().manual_seed(next(seeds))
        make_batch(data, cfg, teacher.empty(), g, teacher.device)

    return fastest({"batch": make}, rounds)["batch"]


def step_ratios(best: dict, batch: float) -> list[tuple]:
    """(what, ratio, what is aimed at) of the kinds of steps."""

    def ratio(a, b):
        return best[a] / best[b]

    return [
        (
            "a PE-CoDi step over two forwards and a backward of its bare modules",
            ratio("PE-CoDi", "bare modules"),
            "≤ 1.05",
        ),
        (
            "a CoDi (full) step over the same of its own modules",
            ratio("CoDi (full)", "bare modules (full)"),
            "≤ 1.05",
        ),
        (
            "a PE-CoDi step over a step of plain conditional finetuning",
            ratio("PE-CoDi", "finetuning"),
            "≤ 1.4",
        ),
        ("a PE-CoDi step over a guided LCM step", ratio("PE-CoDi", "LCM"), "≤ 0.75"),
        ("data: batches made in the time of a step", best["PE-CoDi"] / batch, "≥ 3"),
    ]


def step_memory(cfg, teacher, data, **settings) -> float:
    """MB that a step keeps for its backward pass, and what the trained parameters need (weights,
    gradients, moments, averages).
    """
    run, _ = after_ramp(cfg, teacher, data, **settings)
    storages = {}

    def keep(a):
        storages[a.untyped_storage()._cdata] = a.untyped_storage()
        return a

    g = torch.Generator().manual_seed(0)
    batch = make_batch(data, run.cfg, teacher.empty(), g, teacher.device)
    d = sample_noise(teacher.schedule, batch["x"], g, cfg.delta, True, 1.0, cfg.timesteps)
    frozen = {p.untyped_storage()._cdata for p in [*run.state.params, *teacher.parameters()]}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda a: a):
        loss = run.loss(batch, d)[0]
    activations = sum(s.nbytes() for k, s in storages.items() if k not in frozen)
    del loss
    return (activations + 8 * sum(p.nbytes for p in run.state.params)) / 1e6


def sampling(teacher, rounds, n=32):
    """Four steps against four bare forwards and the decoder, and against fifty guided ones."""
    student = Student.load(teacher, ASSETS / "depth_distilled")
    from cond_distill.evaluation.compare import held_out

    held = held_out(2 * n)
    captions, cond = held["caption"][:n], held["cond"][:n]
    text, z = teacher.embed(captions), torch.randn(n, *teacher.latent_shape).to(teacher.device)
    with torch.no_grad():
        ready = student.prepare(cond.to(teacher.device))

    @torch.no_grad()
    def four():
        for t in (999, 749, 499, 249):
            x = student(z, t, ready, text).x
        teacher.decode(x)

    calls = {
        "4 steps": lambda: draw_images(student, captions, cond, steps=4),
        "bare": four,
        "50 guided": lambda: draw_images(
            student, captions, cond, steps=50, guidance=3.0, sampler="ddim", any_steps=True
        ),
    }
    best = fastest({k: calls[k] for k in ("4 steps", "bare")}, 3 * rounds) | fastest(
        {"50 guided": calls["50 guided"]}, 2
    )
    return [
        (
            "drawing with 4 steps over 4 bare forwards and the decoder",
            best["4 steps"] / best["bare"],
            "≤ 1.05",
        ),
        ("50 guided steps over 4 steps", best["50 guided"] / best["4 steps"], "≥ 12"),
    ], best


def growth(cfg, teacher, data, rounds) -> list[dict]:
    """Seconds of a step and of a picture with the batch."""
    student, rows = Student.load(teacher, ASSETS / "depth_distilled"), []
    for b in (1, 2, 4, 8, 16, 32, 64):
        run, step = after_ramp(replace(cfg, batch=b), teacher, data)
        cond = torch.from_numpy(data["cond"][:b].copy()).float() / 255
        best = fastest(
            {"step": step, "draw": partial(draw_images, student, [""] * b, cond, batch=b, steps=4)},
            max(3, rounds // 3),
        )
        rows.append(
            {
                "batch": b,
                "training, ms an image": 1e3 * best["step"] / b,
                "drawing in 4 steps, ms an image": 1e3 * best["draw"] / b,
            }
        )
    return rows


def growth_of_drawing(teacher, rounds) -> dict:
    """ms of a drawing of 16 pictures with the number of steps, and of one call with the side of the
    latent.
    """
    student, cond = Student.load(teacher, ASSETS / "depth_distilled"), torch.rand(16, 1, 64, 64)
    steps = fastest(
        {
            k: lambda k=k: draw_images(student, [""] * 16, cond, steps=k, any_steps=True)
            for k in (1, 2, 4, 8)
        },
        max(3, rounds // 3),
    )
    text, sides = teacher.empty().expand(4, -1, -1), (8, 16, 24, 32)
    shape = 4, teacher.latent_shape[0]
    with torch.no_grad():
        calls = fastest(
            {
                k: partial(teacher, torch.randn(*shape, k, k, device=teacher.device), 500, text)
                for k in sides
            },
            rounds,
        )
    return dict(
        steps={k: 1e3 * v for k, v in steps.items()}, sides={k: 1e3 * v for k, v in calls.items()}
    )


def startup() -> list[tuple]:
    """Seconds until something can be done, the fastest of three."""

    def once(*command):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        return time.perf_counter() - start

    def python(text):
        return (sys.executable, "-c", text)

    took = {
        k: min(once(*c) for _ in range(3))
        for k, c in {
            "python alone": python("pass"),
            "import cond_distill": python("import cond_distill"),
            "cond-distill --help": (sys.executable, "-m", "cond_distill", "--help"),
            "import torch": python("import torch"),
            "open the shipped teacher and an adaptor": python(
                "from cond_distill import Teacher, Student; from cond_distill.teacher import "
                "ASSETS; Student.load(Teacher.from_pretrained(), ASSETS / 'depth_distilled')"
            ),
        }.items()
    }
    return [{"what": k, "seconds": v} for k, v in took.items()]


def measure(cfg, teacher, data, rounds: int) -> dict:
    """Everything, and where it was measured."""
    trained, seconds = training(cfg, teacher, data, rounds)
    drawn, sampling_times = sampling(teacher, rounds)
    memory = step_memory(cfg, teacher, data) / step_memory(cfg, teacher, data, adaptor="fusion")
    spared = ("memory of a PE-CoDi step over that of a CoDi (full) step", memory, "< 1")
    on_gpu = teacher.device.type == "cuda"
    cpu = f"a CPU ({torch.get_num_threads()} threads)"
    return dict(
        commit=commit(),
        device=torch.cuda.get_device_name() if on_gpu else cpu,
        ratios=[dict(what=w, ratio=r, aim=a) for w, r, a in (*trained, spared, *drawn)],
        seconds=seconds | sampling_times,
        growth=growth(cfg, teacher, data, rounds),
        drawing=growth_of_drawing(teacher, rounds),
        startup=startup(),
    )


def met(ratio: float, aim: str) -> str:
    """ "yes" if a ratio is what was aimed at: "≤ 1.05", "≥ 3" or "< 1"."""
    limit = float(aim[2:])
    good = {"≤": ratio <= limit, "≥": ratio >= limit, "<": ratio < limit}[aim[0]]
    return "yes" if good else "no"


def main():
    args = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    args.add_argument("--rounds", type=int, default=15)
    args.add_argument("--cache", default="runs/cache")
    args.add_argument(
        "--out", default=str(ROOT / "results/benchmarks"), help="file without its ending"
    )
    args = args.parse_args()
    teacher = Teacher.from_pretrained("shipped", best_device())
    torch.manual_seed(0)
    cfg = TrainConfig(adaptor="controlnet", num_examples=1200, cache=args.cache, grid_every=0)
    results = measure(cfg, teacher, cache_examples(teacher, cfg), args.rounds)
    Path(f"{args.out}.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    shown = table([r | dict(met=met(r["ratio"], r["aim"])) for r in results["ratios"]])
    Path(f"{args.out}.md").write_text(
        f"# Speed\n\nMade by `make bench` on commit {results['commit']}, on {results['device']}; "
        f"batch {cfg.batch}. Ratios within one run, the fastest of {args.rounds} rounds in turns "
        f"(of drawing {3 * args.rounds}, of the 50 guided steps 2); seconds belong to a machine."
        f"\n\n{shown}\n\n{table(results['growth'])}\n\n{table(results['startup'])}\n"
    )
    print(shown)


if __name__ == "__main__":
    main()
