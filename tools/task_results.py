"""results/tasks.md and the picture of unselected samples of every task.

They are made from what `make tasks` measured.
"""

import json
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from cond_distill.data.tasks import TASKS
from cond_distill.evaluation.compare import comparison, held_out
from cond_distill.sampler import draw_images
from cond_distill.student import Student
from cond_distill.teacher import ASSETS, Teacher
from cond_distill.utils import table

TEXT = """# Results: super-resolution, inpainting, editing

Made by `make tasks` on commit {commit}, on {device}; training seed 0, noise seed 1234, {n} \
held-out scenes. Budgets in network evaluations: {budget}.
The distances and *perceptual* are in the features of the shipped networks; every other column is \
explained on the page [Tasks](../nbs/library/data/tasks.ipynb). Large is good, except for the \
distances and *perceptual*.

{tables}

The first held-out scenes, nothing selected: {pictures}.
"""

SMALL = dict(quality=85, subsampling=0, optimize=True, progressive=True)
N = 128  # held-out scenes, as in `make tasks`
rows = json.loads((ROOT / "results/tasks_distilled.json").read_text())
teacher, names, tables, budget = Teacher.from_pretrained("shipped"), [], [], []
for task in dict.fromkeys(r["task"] for r in rows):
    mine = [r for r in rows if r["task"] == task and r["steps"]]
    floors = [r for r in rows if r["task"] == task and not r["steps"]]
    tables.append(
        f"## {task}: {TASKS[task].about}\n\n"
        + table([{k: v for k, v in r.items() if k != "task"} for r in floors[:1] + mine])
    )
    held, drawn = held_out(N, teacher.image_size, task), {}
    shown = {k: v[:8] for k, v in held.items() if k not in ("task", "segmentation")} | dict(
        task=task
    )
    student = Student.load(teacher, ASSETS / f"{task}_distilled")
    for k in (1, 2, 4, 16):
        images = draw_images(student, shown["caption"], shown["cond"], steps=k, seed=1234)
        drawn[f"distilled\n{k} step{'s' * (k > 1)}"] = TASKS[task].composite(images, shown["cond"])
    budget.append(
        f"{task} {student.about['steps']} steps, {student.about['nfe']} an image of a batch"
    )
    file = ROOT / "nbs/images" / f"task_{task}.jpg"
    names.append(f"[{task}](../nbs/images/{file.name})")
    comparison(shown, drawn, columns=list(range(8))).savefig(file, dpi=75, pil_kwargs=SMALL)
commit = subprocess.run(
    ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
).stdout.strip()
device = (
    torch.cuda.get_device_name()
    if torch.cuda.is_available()
    else f"a CPU ({torch.get_num_threads()} threads)"
)
(ROOT / "results/tasks.md").write_text(
    TEXT.format(
        commit=commit,
        device=device,
        n=N,
        budget="; ".join(budget),
        tables="\n\n".join(tables),
        pictures=", ".join(names),
    )
)
