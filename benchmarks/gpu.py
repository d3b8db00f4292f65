"""What only a GPU can tell.

`gpu.py` runs pages of this package there, compares compiled networks with plain ones, and measures
models of real size (with random weights) against their plan. Each part adds to results/gpu.json,
which the page "On a GPU" reads. About twenty minutes in all.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools"), str(ROOT / "benchmarks")]
from cond_distill.adaptors.catalogue import make_adaptor
from cond_distill.config import TrainConfig
from cond_distill.data.cache import cache_examples
from cond_distill.experiments.exam import commit
from cond_distill.plan import plan, shapes_only
from cond_distill.sampler import draw_images
from cond_distill.student import Student
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
    done = subprocess.run(
        [sys.executable, __file__, *map(str, args)],
        capture_output=True,
        text=True,
        env=dict(os.environ, OMP_NUM_THREADS=str(threads)),
        **kw,
    )
    if log:
        Path(log).write_text(done.stdout + done.stderr)
    return done


def last_json(done):
    """What such a process found, or how it failed."""
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return (
        json.loads(lines[-1])
        if lines and not done.returncode
        else dict(error=done.stderr.strip()[-600:])
    )


CUDA = torch.cuda.is_available()
# without a GPU everything runs small, to test this file
DEVICE = "cuda" if CUDA else "cpu"


def sync():
    if CUDA:
        torch.cuda.synchronize()


def memory(reset=False):
    """GB at the peak since the last reset: of tensors, with what the allocator holds.

    And what is used on the whole card now.
    """
    if not CUDA:
        return dict(allocated=0.0, reserved=0.0, used=0.0)
    if reset:
        torch.cuda.reset_peak_memory_stats()
    free, all = torch.cuda.mem_get_info()
    return {
        k: round(v / 1e9, 2)
        for k, v in dict(
            allocated=torch.cuda.max_memory_allocated(),
            reserved=torch.cuda.max_memory_reserved(),
            used=all - free,
        ).items()
    }


def timed(f, n):
    """Seconds of each of n calls."""

    def once():
        sync()
        start = time.perf_counter()
        f()
        sync()
        return time.perf_counter() - start

    return [once() for _ in range(n)]


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
        done = python(
            "--page", name, threads=2, log=log / f"{Path(name).name}.log", timeout=args.limit
        )
        return dict(
            page=name,
            ok=not done.returncode,
            seconds=round(time.time() - start),
            said=done.stdout[-4000:],
            commit=args.commit or commit(),
            error=done.stderr.strip()[-600:] if done.returncode else "",
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
        steps=200, scenes=1200, cache=cache, grid_every=0, ramp_start=0.0, ramp_end=0.0, **settings
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
    dict(adaptor="t2i", precision="no", compile=c, batch=32) for c in ("", "cudagraphs", "inductor")
]


def _asked(args, log, s, n):
    try:
        found = last_json(
            python(
                "--step",
                json.dumps(s | dict(cache=args.cache)),
                log=log / f"step_{n}.log",
                timeout=args.limit,
            )
        )
    except subprocess.TimeoutExpired:
        found = dict(error="timeout")
    print(s | found | dict(losses=None), flush=True)
    return s | found


def warm(args, log):
    """All of them at once, so that what they compile is kept; how long the first steps took."""
    which = args.configurations or range(len(STEPS))
    with ThreadPoolExecutor(len(STEPS)) as pool:
        return list(pool.map(lambda k: _asked(args, log, STEPS[k], f"warm_{k}"), which))


def compiled(args, log):
    """One after the other, since it is a measure of time."""
    return [_asked(args, log, STEPS[k], k) for k in args.configurations or range(len(STEPS))]


# ---- models of real size
class RealSize(Teacher):
    """Stable Diffusion's shapes with random weights; captions are noise."""

    def embed(self, captions):
        return torch.randn(
            len(captions),
            self.words,
            self.backbone.config.cross_attention_dim,
            generator=torch.Generator().manual_seed(0),
        ).to(self.device, self.backbone.dtype)

    def text_inputs(self, text):
        more = {}
        if (c := self.backbone.config).addition_embed_type == "text_time":
            more = dict(
                added_cond_kwargs=dict(
                    text_embeds=text.new_zeros(
                        len(text),
                        c.projection_class_embeddings_input_dim - 6 * c.addition_time_embed_dim,
                    ),
                    time_ids=text.new_zeros(len(text), 6),
                )
            )
        return dict(encoder_hidden_states=text, **more)


def real_size(name, dtype=torch.bfloat16):
    teacher = shapes_only(name, DEVICE)
    teacher.__class__ = RealSize
    torch.nn.Module.to(teacher.backbone, dtype, memory_format=torch.channels_last)
    teacher.text_encoder.to(dtype)
    torch.cuda.empty_cache()
    return teacher


def made_up(teacher, n):
    """Data of the right shapes."""
    r = np.random.default_rng(0)
    side = teacher.image_size
    return dict(
        x=r.standard_normal((n, *teacher.latent_shape), np.float32),
        cond=r.integers(0, 255, (n, 1, side, side), np.uint8),
        text=r.standard_normal(
            (n, teacher.words, teacher.backbone.config.cross_attention_dim), np.float32
        ).astype(np.float16),
    )


SIZES = (
    ("sd15", "controlnet", 4, False),
    ("sd15", "controlnet", 16, False),
    ("sd15", "controlnet", 16, True),
    ("sd15", "t2i", 8, False),
    ("sd15", "t2i", 32, True),
    ("sdxl", "t2i", 1, False),
    ("sdxl", "t2i", 4, True),
    ("sdxl", "controlnet", 2, True),
)


def sizes(args, log):
    """Peak memory and time of training steps beside what `plan` said."""
    rows, at = [], None

    def gb(b):
        return round(b / 1e9, 2)

    for name, adaptor, batch, checkpointing in (
        [SIZES[k] for k in args.configurations or range(len(SIZES))]
        if CUDA
        else [("shipped", "controlnet", 4, False)]
    ):
        try:
            if at != name:
                teacher = None
                gc.collect()
                torch.cuda.empty_cache()
                teacher, at = real_size(name), name
                data = made_up(teacher, 32)
            p = plan(
                shapes_only(name),
                adaptor,
                1,
                batch=batch,
                dtype="bfloat16",
                checkpointing=checkpointing,
            )
            cfg = TrainConfig(
                adaptor=adaptor,
                batch=batch,
                checkpointing=checkpointing,
                precision="bf16",
                dtype="bfloat16",
                steps=100,
                ramp_start=0.0,
                ramp_end=0.0,
                grid_every=0,
            )
            run = new_run(cfg, teacher)
            memory(True)
            timed(partial(train_step, run, data), 2)  # the first ones are slower
            took = timed(partial(train_step, run, data), 4)
            seconds = min(took)
            rows.append(
                dict(
                    model=name,
                    adaptor=adaptor,
                    batch=batch,
                    checkpointing=checkpointing,
                    trained=p.trained,
                    planned=gb(1e9 * p.memory),
                    planned_without_reserve=gb(1e9 * (p.memory - p.reserve)),
                    **memory(),
                    seconds=round(seconds, 4),
                    tflop=round(p.operations / 1e12, 2),
                    tflops=round(p.operations / 1e12 / seconds, 1),
                    share_of_h100=round(p.seconds("H100", 1.0) / seconds, 3),
                )
            )
        except (RuntimeError, ValueError) as e:
            rows.append(
                dict(
                    model=name,
                    adaptor=adaptor,
                    batch=batch,
                    checkpointing=checkpointing,
                    error=str(e)[-500:],
                )
            )
        run = None
        gc.collect()
        torch.cuda.empty_cache()
        print(rows[-1], flush=True)
    return rows


def drawing(args, log):
    """Four steps against fifty guided ones, with the shapes of Stable Diffusion 1.5."""
    name = "sd15" if CUDA else "shipped"
    teacher = real_size(name)
    torch.nn.Module.to(teacher.vae, torch.bfloat16, memory_format=torch.channels_last)
    rows = []
    with torch.device(DEVICE):
        student = Student(teacher, make_adaptor("controlnet", teacher, 1, 16))
    for n in (1, 8):
        cond = torch.rand(n, 1, teacher.image_size, teacher.image_size)
        draw = torch.autocast(DEVICE, torch.bfloat16)(
            partial(draw_images, student, [""] * n, cond, batch=n, any_steps=True)
        )

        draw(steps=1)
        draw(steps=1, guidance=3.0, method="ddim")
        memory(True)
        took = {
            f"{k} steps": min(timed(partial(draw, steps=k, method="consistency"), 3))
            for k in (1, 2, 4, 8)
        } | {"50 guided steps": min(timed(partial(draw, steps=50, guidance=3.0, method="ddim"), 2))}
        rows.append(
            dict(
                model=name,
                pictures=n,
                seconds={k: round(v, 4) for k, v in took.items()},
                **memory(),
            )
        )
        print(rows[-1], flush=True)
    return rows


# ---- speed, as ratios
def ratios(args, log):
    """What a step costs beside what it needs, with the shapes of Stable Diffusion 1.5."""
    import bench

    teacher = real_size("sd15" if CUDA else "shipped")
    cfg = TrainConfig(batch=16 if CUDA else 2, precision="bf16", dtype="bfloat16", grid_every=0)
    rows, seconds = bench.training(cfg, teacher, made_up(teacher, 32), 8 if CUDA else 1, apart=True)
    found = dict(
        batch=cfg.batch,
        ratios=[dict(what=w, ratio=round(r, 4), aim=a) for w, r, a in rows],
        seconds={k: round(v, 5) for k, v in seconds.items()},
        **memory(),
    )
    print(found, flush=True)
    return found


def bench(args, log):
    done = subprocess.run(
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
    (log / "bench.log").write_text(done.stdout + done.stderr)
    return (
        json.loads((log / "bench.json").read_text())
        if not done.returncode
        else dict(error=done.stderr[-600:])
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


def main():
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
    args = args.parse_args()
    for name in ("page", "step"):
        if value := getattr(args, name):
            return globals()[name](value)
    import diffusers
    import transformers

    file, log = Path(args.out), Path(args.log)
    log.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name() if CUDA else "cpu"
    for name in args.parts:
        start = time.time()
        found = PARTS[name](args, log)
        all = json.loads(file.read_text()) if file.exists() else {}
        all[name] = dict(
            found=found,
            minutes=round((time.time() - start) / 60, 2),
            device=device,
            commit=args.commit or commit(),
            torch=torch.__version__,
            diffusers=diffusers.__version__,
            transformers=transformers.__version__,
        )
        file.write_text(json.dumps(all, indent=1, ensure_ascii=False) + "\n")
        print(f"{name}: {all[name]['minutes']} min", flush=True)


if __name__ == "__main__":
    main()
