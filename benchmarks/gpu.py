"""What only a GPU can tell.

`gpu.py` runs pages of this package there, compares compiled networks with plain ones, and measures
models of real size (with random weights) against their plan. Each part adds to results/gpu.json,
which the page "On a GPU" reads. About twenty minutes in all.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools"), str(ROOT / "benchmarks")]
from measure import CUDA, DEVICE, timed
from real_size import drawing, ratios, sizes

from cond_distill.config import TrainConfig
from cond_distill.data.cache import cache_examples
from cond_distill.experiments.evaluation import commit
from cond_distill.teacher import Teacher
from cond_distill.trainer import train_step
from cond_distill.training.state import new_run

PAGES = (
    "appendix/devices",
    "course/09_trainer",
    "library/training/preflight",
    "appendix/speed",
    "library/pipeline",
    "library/training/checkpoint",
    "guides/choose_an_adaptor",
    "library/evaluation/distances",
)


def python(*args, log=None, threads=1, **kw):
    """Another process of this file, of many at a time; what it printed."""
    process = subprocess.run(
        [sys.executable, __file__, *map(str, args)],
        capture_output=True,
        text=True,
        env=dict(os.environ, OMP_NUM_THREADS=str(threads)),
        **kw,
    )
    if log:
        Path(log).write_text(process.stdout + process.stderr)
    return process


def last_json(process):
    """What such a process found, or how it failed."""
    lines = [line for line in process.stdout.splitlines() if line.startswith("{")]
    return (
        json.loads(lines[-1])
        if lines and not process.returncode
        else dict(error=process.stderr.strip()[-600:])
    )


# ---- pages of the package, as they are, in parallel
def page(name):
    """Run a notebook and print what it prints; nothing is stored."""
    import nbformat
    from notebook import execute

    path = ROOT / "nbs" / f"{name}.ipynb"
    nb = nbformat.read(path, 4)
    try:
        execute(nb, path.parent, {"eval"})
    finally:
        for o in (o for c in nb.cells if c.cell_type == "code" for o in c.outputs):
            print(
                o.get("text", "") if o.output_type == "stream" and o.name == "stdout" else "",
                end="",
            )


def pages(args, log):
    def one(name):
        start = time.time()
        process = python(
            "--page", name, threads=2, log=log / f"{Path(name).name}.log", timeout=args.limit
        )
        return dict(
            page=name,
            ok=not process.returncode,
            seconds=round(time.time() - start),
            said=process.stdout[-4000:],
            commit=args.commit or commit(),
            error=process.stderr.strip()[-600:] if process.returncode else "",
        )

    def safe(name):
        try:
            return one(name)
        except subprocess.TimeoutExpired:
            return dict(page=name, ok=False, seconds=args.limit, error="timeout")

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(safe, args.pages or PAGES))


# ---- compiled networks
def step(settings):
    """Losses, and milliseconds, of steps with the shipped teacher."""
    settings = json.loads(settings)
    cache = settings.pop("cache")
    teacher = Teacher.from_pretrained("shipped", DEVICE)
    cfg = TrainConfig(
        steps=200,
        num_examples=1200,
        cache=cache,
        grid_every=0,
        ramp_start=0.0,
        ramp_end=0.0,
        **settings,
    )
    run, data = new_run(cfg, teacher), cache_examples(teacher, cfg, False)
    losses = []
    first = timed(lambda: losses.append(train_step(run, data)["loss"]), 3)
    took = timed(lambda: losses.append(train_step(run, data)["loss"]), 40)
    print(
        json.dumps(
            dict(
                losses=[round(loss, 6) for loss in losses],
                first=round(sum(first), 1),
                ms=round(1e3 * float(np.median(took)), 2),
                graphs=torch._dynamo.utils.counters["stats"].get("unique_graphs", 0),
                breaks=sum(torch._dynamo.utils.counters["graph_break"].values()),
            )
        )
    )


STEPS = [
    dict(adaptor="controlnet", precision=p, compile=c, batch=b)
    for p, c, b in (
        ("no", "", 32),
        ("no", "cudagraphs", 32),
        ("no", "inductor", 32),
        ("bf16", "", 32),
        ("bf16", "inductor", 32),
        ("no", "", 256),
        ("bf16", "inductor", 256),
    )
]
STEPS += [
    dict(adaptor="t2i", mixed_precision="no", compile=c, batch=32)
    for c in ("", "cudagraphs", "inductor")
]


def _asked(args, log, s, n):
    try:
        numbers = last_json(
            python(
                "--step",
                json.dumps(s | dict(cache=args.cache)),
                log=log / f"step_{n}.log",
                timeout=args.limit,
            )
        )
    except subprocess.TimeoutExpired:
        numbers = dict(error="timeout")
    print(s | numbers | dict(losses=None), flush=True)
    return s | numbers


def warm(args, log):
    """All of them at once, so that what they compile is kept; how long the first steps took."""
    which = args.configurations or range(len(STEPS))
    with ThreadPoolExecutor(len(STEPS)) as pool:
        return list(pool.map(lambda k: _asked(args, log, STEPS[k], f"warm_{k}"), which))


def compiled(args, log):
    """One after the other, since it is a measure of time."""
    return [_asked(args, log, STEPS[k], k) for k in args.configurations or range(len(STEPS))]


def bench(args, log):
    process = subprocess.run(
        [
            sys.executable,
            ROOT / "benchmarks/bench.py",
            "--out",
            log / "bench",
            "--cache",
            args.cache,
        ],
        capture_output=True,
        text=True,
    )
    (log / "bench.log").write_text(process.stdout + process.stderr)
    return (
        json.loads((log / "bench.json").read_text())
        if not process.returncode
        else dict(error=process.stderr[-600:])
    )


PARTS = dict(
    pages=pages,
    warm=warm,
    compiled=compiled,
    sizes=sizes,
    drawing=drawing,
    ratios=ratios,
    bench=bench,
)


def parse():
    args = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    args.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    args.add_argument("--out", default=str(ROOT / "results/gpu.json"))
    args.add_argument("--log", default="runs/gpu", help="folder of what each part printed")
    args.add_argument(
        "--limit", type=float, default=600, help="seconds that any single process may take"
    )
    args.add_argument("--cache", default="runs/cache")
    args.add_argument("--pages", nargs="*", help="other pages than those of the list")
    args.add_argument(
        "--configurations",
        nargs="*",
        type=int,
        help="numbers of steps or sizes to measure, instead of all",
    )
    args.add_argument("--commit", help="of this code, where git does not know it")
    for name in ("page", "step"):
        args.add_argument(f"--{name}", help=argparse.SUPPRESS)
    return args.parse_args()


def main():
    args = parse()
    for name in ("page", "step"):
        if value := getattr(args, name):
            return globals()[name](value)
    file, log = Path(args.out), Path(args.log)
    log.mkdir(parents=True, exist_ok=True)
    made_with = dict(
        device=torch.cuda.get_device_name() if CUDA else "cpu",
        commit=args.commit or commit(),
        **{name: version(name) for name in ("torch", "diffusers", "transformers")},
    )
    for name in args.parts:
        start = time.time()
        result = PARTS[name](args, log)
        rows = json.loads(file.read_text()) if file.exists() else {}
        minutes = round((time.time() - start) / 60, 2)
        rows[name] = dict(found=result, minutes=minutes, **made_with)
        file.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
        print(f"{name}: {minutes} min", flush=True)


if __name__ == "__main__":
    main()
