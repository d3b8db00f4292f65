"""The table and the pictures of the home page: the shipped depth adaptors, measured and drawn.

`results.py [--n 256]` writes results/depth.json, results/table.md and two pictures. It takes a few
minutes on 2 CPU cores.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from cond_distill.evaluation.compare import comparison, floor, held_out, score, spread, step_curve
from cond_distill.evaluation.distances import load_networks
from cond_distill.student import Student
from cond_distill.teacher import ASSETS, Teacher, best_device
from cond_distill.utils import table

NAMES = {
    "depth_finetuned": "finetuned",
    "depth_fixed": "distilled, fixed look-ahead",
    "depth_distilled": "distilled, any step",
}
ASKED = [  # adaptor, sampler, steps
    *(("depth_finetuned", "ddim", k) for k in (1, 2, 4, 8, 16, 50)),
    *(("depth_finetuned", "unipc", k) for k in (2, 4, 8, 16)),
    *(("depth_fixed", "auto", k) for k in (1, 2, 4, 8)),
    *(("depth_distilled", "auto", k) for k in (1, 2, 4, 8, 16)),
]
SHOWN = [  # in the picture
    *(("depth_finetuned", "ddim", k) for k in (4, 50)),
    *(("depth_distilled", "auto", k) for k in (1, 2, 4, 16)),
]
KEYS = (
    *("FD-texture", "FD-scenes", "sharpness", "AUC", "density", "coverage"),
    *("depth error", "captions", "diversity"),
)


def shown(row: dict) -> dict:
    """A row of the table: the AUC with its 95 % interval in one cell."""
    auc = f"{row['AUC']:.2f} ± {row['AUC ±']:.2f}"
    return {key: row.get(key) for key in ("model", "sampler", "steps", *KEYS)} | {"AUC": auc}


def measure(n: int):
    """Rows of the table, and the pictures to show."""
    teacher, nets = Teacher.from_pretrained("shipped", best_device()), load_networks(best_device())
    students = {name: Student.load(teacher, ASSETS / name) for name in NAMES}
    held = held_out(n)
    rows, drawn = [floor(nets, teacher, held)], {}
    for name, sampler, steps in ASKED:
        row, images = score(nets, NAMES[name], students[name], held, steps, sampler)
        rows.append(row)
        if steps == 4:
            row["diversity"] = spread(nets, students[name], held, steps, sampler=sampler)
        if (name, sampler, steps) in SHOWN:
            kind = NAMES[name].split(",")[0]
            drawn[f"{kind}\n{steps} step{'s' * (steps > 1)}"] = images
        print(shown(row), flush=True)
    return held, rows, drawn


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=256, help="held-out depth maps")
    n = parser.parse_args().n
    held, rows, drawn = measure(n)
    (ROOT / "results/depth.json").write_text(json.dumps(rows, indent=1) + "\n")
    where = "a GPU" if torch.cuda.is_available() else f"a CPU, {torch.get_num_threads()} thread(s)"
    text = (
        "AUC: of a small network that tells drawn from real, ± its 95 % interval; 0.5 is chance.\n"
        f"{n} held-out depth maps, half with partial captions, half with none; training seed 0, "
        f"noise seed 1234, on {where}, by `make results`."
    )
    (ROOT / "results/table.md").write_text(f"{table([shown(row) for row in rows])}\n\n{text}\n")
    images = ROOT / "nbs" / "images"
    comparison(held, drawn).savefig(images / "demo.png", dpi=85)
    # without transparency a tenth smaller
    Image.open(images / "demo.png").convert("RGB").save(images / "demo.png", optimize=True)
    step_curve(rows[1:], floor=rows[0]["FD-texture"]).savefig(images / "step_curve.png", dpi=110)


if __name__ == "__main__":
    main()
