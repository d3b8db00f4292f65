"""Adaptors × tasks on the shipped teacher, adaptors × families of teachers.

`matrix.py [--steps 120]` writes results/matrix.json (resumed) and results/matrix.md.

Every pair is trained with the same few steps of the default loss; then it is measured how well its
pictures follow the condition. The numbers say that a pair works and how fast it begins to; they are
no contest: no pair is trained to its end.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from cond_distill.adaptors.catalogue import ADAPTORS
from cond_distill.config import TrainConfig
from cond_distill.data.tasks import TASKS
from cond_distill.evaluation.compare import held_out
from cond_distill.evaluation.distances import load_networks
from cond_distill.methods.catalogue import evaluations
from cond_distill.sampler import draw_images
from cond_distill.student import Student
from cond_distill.teacher import Teacher
from cond_distill.trainer import distill_to_end
from cond_distill.utils import table

WITH_CONDITION = [name for name in ADAPTORS if name not in ("lora", "full")]

TEXT = """# Adaptors and tasks

Made by `make matrix` on {made_on}, on a CPU ({threads} threads). Every pair: \
{steps} steps at batch {batch} ({nfe} network evaluations per image of a \
batch), training seed 0; then {n} held-out conditions, 4 steps, noise seed 0.
It says that a pair works and how soon it begins to follow its condition; no pair is trained to \
its end. `lora` and `full` take no condition and are not in the table. Large is good, except for \
*depth error*. *teacher alone* does not see the condition (25 steps). *edit done* is the share of \
the way from the picture before the edit to the one after it, where the two differ: 0 for an \
answer that copies its condition, negative for one that is farther away than the copy (page \
[Tasks](../nbs/library/data/tasks.ipynb)).

{table}

Adaptors and families of teachers: the table of [Families](../nbs/library/families.ipynb), \
every cell of which is a test.
"""


def measure(nets, task, images, held):
    """The first number of a task's fidelity, and its name."""
    return next((k, v) for k, v in TASKS[task].fidelity(nets, images, held).items())


def cell(teacher, nets, adaptor, task, cfg, n):
    """Train a pair, draw with 4 steps, measure."""
    with tempfile.TemporaryDirectory() as out:
        distill_to_end(replace(cfg, adaptor=adaptor, task=task, out=out), teacher)
        student, held = Student.load(teacher, out), held_out(n, teacher.image_size, task)
        return measure(
            nets, task, draw_images(student, held["caption"], held["cond"], steps=4, batch=64), held
        )[1]


class Cells:
    """What was measured, kept in a file after every cell: a run that is stopped goes on."""

    def __init__(self, file, setting):
        state = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        self.file, self.setting = file, setting
        self.values = state["cells"] if state.get("made") == setting else {}

    def keep(self, key, value):
        self.values[key] = value
        text = json.dumps(dict(made=self.setting, cells=self.values), indent=1)
        self.file.write_text(text + "\n", encoding="utf-8")


def commit():
    """The version of the code."""
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def measure_task(cells, teacher, nets, task, cfg, n):
    """All cells of one task that are missing."""
    held = held_out(n, teacher.image_size, task)
    if f"truth/{task}" not in cells.values:
        cells.keep(f"commit/{task}", commit())
        cells.keep(f"measure/{task}", measure(nets, task, held["image"], held)[0])
        captions = held["caption"] if TASKS[task].captions else [""] * n
        alone = draw_images(teacher, captions, steps=25, sampler="ddim", batch=64)
        cells.keep(f"teacher alone/{task}", measure(nets, task, alone, held)[1])
        cells.keep(f"truth/{task}", measure(nets, task, held["image"], held)[1])
    for adaptor in WITH_CONDITION:
        if f"{adaptor}/{task}" not in cells.values:
            cells.keep(f"{adaptor}/{task}", cell(teacher, nets, adaptor, task, cfg, n))
            print(adaptor, task, cells.values[f"{adaptor}/{task}"], flush=True)


def report(cells, cfg, n):
    """results/matrix.md."""
    columns = ("teacher alone", *WITH_CONDITION, "truth")
    rows, commits = [], {}
    for t in TASKS:
        row = {"task": t, "measure": cells[f"measure/{t}"]}
        rows.append(row | {name: cells[f"{name}/{t}"] for name in columns})
        commits.setdefault(cells[f"commit/{t}"], []).append(t)
    made_on = "; ".join(f"commit {c} ({', '.join(ts)})" for c, ts in commits.items())
    return TEXT.format(
        made_on=made_on,
        threads=torch.get_num_threads(),
        steps=cfg.steps,
        batch=cfg.batch,
        nfe=evaluations(cfg),
        n=n,
        table=table(rows),
    )


def main():
    args = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    args.add_argument("--steps", type=int, default=120)
    args.add_argument("--n", type=int, default=96)
    args.add_argument("--cache", default="runs/cache")
    args = args.parse_args()
    teacher, nets = Teacher.from_pretrained("shipped"), load_networks()
    cfg = TrainConfig(steps=args.steps, batch=16, num_examples=1200, grid_every=0, cache=args.cache)
    setting = dict(teacher=teacher.fingerprint(), steps=args.steps, batch=cfg.batch, n=args.n)
    cells = Cells(ROOT / "results/matrix.json", setting)
    for task in TASKS:
        measure_task(cells, teacher, nets, task, cfg, args.n)
    text = report(cells.values, cfg, args.n)
    (ROOT / "results/matrix.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
