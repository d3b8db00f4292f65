"""Methods of the comparison with several times its budget.

`longer.py CoDi finetuned --times 6` trains and evaluates them; can be stopped, and goes on.

The budget of `make reproduce` is what two CPU cores do in some minutes. What is left of an order of
methods when each may train for longer? Batches are four times as large, so six times the budget are
one and a half times the steps; the learning rate is the one that the comparison's search found
(with small batches), the data are the same. Each method's result is a small file of its own. On a
GPU many at a time are faster: these networks are too small to fill it.
"""

import argparse
import itertools
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from cond_distill.config import TrainConfig
from cond_distill.evaluation.compare import held_out
from cond_distill.evaluation.distances import load_networks
from cond_distill.experiments.budget import demo_budget
from cond_distill.experiments.evaluation import commit, evaluate_job, minutes_of, stages_of
from cond_distill.experiments.jobs import ABLATIONS, COMPARED, Job, train
from cond_distill.experiments.reproduce import in_processes
from cond_distill.teacher import Teacher, best_device


def is_made(file, args) -> bool:
    """Is the result there? Stops where it was made with other settings."""
    if not file.exists():
        return False
    was = json.loads(file.read_text())
    if (was["batch"], was["rows"][0]["n"]) != (args.batch, args.n):
        raise SystemExit(
            f"{file} was made with batch {was['batch']} and {was['rows'][0]['n']} conditions, "
            f"wanted are {args.batch} and {args.n}; move it away, and {args.runs}"
        )
    print(f"{file.name} is there")
    return True


def searched_rate(job: Job) -> float:
    """The learning rate that the comparison found for this method."""
    name = replace(job, method=job.searched, seed=0).name
    return json.loads((ROOT / f"results/reproduce/{name}.json").read_text())["job"]["lr"]


def one(method, task, seed, args):
    """Train, evaluate, write."""
    job = Job(method, task, seed)
    file = ROOT / "results/longer" / f"{job.name.replace('/', '_')}_times{args.times:g}.json"
    if is_made(file, args):
        return
    teacher = Teacher.from_pretrained("shipped", best_device())
    job = replace(job, lr=searched_rate(job), budget=args.times * demo_budget(teacher))
    folder = Path(args.runs) / f"{job.name}_times{args.times:g}_batch{args.batch}"
    student = train(job, teacher, folder, args.cache, batch=args.batch, workers=os.cpu_count() // 2)
    networks, held = load_networks(teacher.device), held_out(args.n, teacher.image_size, task)
    rows = evaluate_job(replace(job, budget_fraction=args.times), student, networks, held)
    result = dict(
        **dict(method=method, task=task, seed=seed, times=args.times, batch=args.batch),
        scenes=TrainConfig().scenes,
        lr=job.lr,
        rows=rows,
        stages=stages_of(folder),
        minutes=minutes_of(folder),
        threads=torch.get_num_threads(),
        device="cpu" if teacher.device.type == "cpu" else torch.cuda.get_device_name(),
        commit=args.commit or commit(),
    )
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(result, indent=1) + "\n")
    print(file.name, {r["steps"]: round(r["FD-texture"], 2) for r in rows}, flush=True)


def apart(jobs, args):
    """The same in processes of their own, whose output goes to files."""
    same = [
        f"--{k}={v}"
        for k in ("times", "batch", "n", "runs", "cache", "commit")
        if (v := getattr(args, k)) is not None
    ]
    failed = in_processes(
        {
            Path(args.runs) / f"{task}_{method}_seed{seed}.log": [
                sys.executable,
                __file__,
                method,
                "--tasks",
                task,
                "--seeds",
                str(seed),
                *same,
            ]
            for task, seed, method in jobs
        },
        args.at_once,
    )
    if failed:
        raise SystemExit(f"failed: {', '.join(map(str, failed))}")


def main():
    args = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    args.add_argument(
        "methods",
        nargs="+",
        choices=COMPARED | ABLATIONS,
        metavar="METHOD",
        help=f"of {', '.join(COMPARED | ABLATIONS)}",
    )
    args.add_argument("--tasks", nargs="+", default=["depth"])
    args.add_argument("--seeds", nargs="+", type=int, default=[0])
    args.add_argument(
        "--at-once", type=int, default=1, help="trainings at a time, each in its own process"
    )
    args.add_argument("--times", type=float, default=6.0, help="budgets of the comparison")
    args.add_argument("--batch", type=int, default=128)
    args.add_argument("--n", type=int, default=512, help="held-out conditions")
    args.add_argument("--runs", default="runs/longer")
    args.add_argument("--cache", default="runs/cache")
    args.add_argument("--commit", help="of this code, where git does not know it")
    args = args.parse_args()
    jobs = itertools.product(args.tasks, args.seeds, args.methods)
    if args.at_once > 1:
        return apart(jobs, args)
    for task, seed, method in jobs:
        one(method, task, seed, args)


if __name__ == "__main__":
    main()
