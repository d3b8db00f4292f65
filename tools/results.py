"""The table and the pictures of the home page, and results/README.md.

They are made from what `make demo rows results` measured.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from cond_distill.compare import step_curve
from cond_distill.metrics import table

NAMES = {
    "depth_undistilled": "undistilled",
    "paper": "as printed",
    "balanced_per_batch": "distilled, one t a batch",
    "look_ahead_500": "distilled, look-ahead 500",
    "controlnet_alone": "distilled, ControlNet alone",
    "demo": "**the demo**",
    "depth_distilled": "trained longer",
}
# the rows of the home page; the others are on the page Results
HOME = ("depth_undistilled", "demo", "depth_distilled")
OPPONENT, STEPS = "depth_undistilled", (1, 2, 4, 8, 50)
TEXT = """# Results: depth to image

Made by `make demo rows results` on commit {commit}, on {device}; training seed 0, noise seed \
1234. {n} held-out depth maps, the first half with partial captions, the rest with none.

- **FID** is on the features of the shipped recogniser (not comparable with FID on Inception \
features).
- **depth error** is the mean absolute difference of the depth read back from the picture to the \
condition.
- **caption** is the share of true statements; **diversity** the mean perceptual distance of 6 \
answers to each of 12 depth maps without a caption.
- `s/image` belongs to the machine; compare it within a table only.

{budget}

{table}

## The demo's own table

{demo}
"""


def load(name):
    return json.loads((ROOT / "results" / name).read_text())


def folder(model):
    return next(
        p
        for p in (
            ROOT / "runs" / model,
            ROOT / "runs/rows" / model,
            ROOT / "cond_distill/assets" / model,
        )
        if (p / "cond_distill.json").exists()
    )


def short(rows, names):
    """A line per model and sampler."""
    out = []
    for name in names:
        for sampler in dict.fromkeys(r["sampler"] for r in rows if r["model"] == name):
            pick = {r["steps"]: r for r in rows if (r["model"], r["sampler"]) == (name, sampler)}
            last = pick.get(4)
            out.append(
                {"model, sampler": f"{NAMES[name]}, {sampler}"}
                | {
                    ("FID@1" if k == 1 else f"@{k}"): f"{pick[k]['FID']:.1f}" if k in pick else None
                    for k in STEPS
                }
                | {
                    f"{k}@4": f"{last[k]:.3f}"
                    for k in ("depth error", "caption", "diversity")
                    if k in last
                }
            )
    return table(out)


rows = load("depth.json")
floor, rows = rows[0], rows[1:] + load("reference.json")[1:] + load("unipc.json")[1:]
budget = {
    name: json.loads((folder(name) / "cond_distill.json").read_text())
    for name in NAMES
    if any(r["model"] == name for r in rows)
}
text = (
    "| adaptor | steps | batch | network evaluations per image of a batch |\n|---|---|---|---|\n"
    + "\n".join(
        f"| {NAMES[k]} | {v['steps']} | {v['config']['batch']} | {v['nfe']} |"
        for k, v in budget.items()
    )
)
commit = subprocess.run(
    ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
).stdout.strip()
device = (
    torch.cuda.get_device_name()
    if torch.cuda.is_available()
    else f"a CPU ({torch.get_num_threads()} threads)"
)
n = 256
caption = (
    f"@k: with k steps. {n} held-out depth maps, half with partial captions, half without; "
    f"{device}, training seed 0; by `make demo rows results`. FID on the recogniser's features; "
    f"the autoencoder alone has {floor['FID']:.3f} and a depth error of {floor['depth error']:.3f}."
)
for file, names in (("table.md", HOME), ("depth.md", NAMES)):
    (ROOT / "results" / file).write_text(short(rows, names) + "\n\n" + caption + "\n")
(ROOT / "results" / "README.md").write_text(
    TEXT.format(
        commit=commit,
        device=device,
        n=n,
        budget=text,
        table=table([floor] + rows),
        demo=(ROOT / "runs/demo/table.md").read_text(),
    )
)
images = ROOT / "nbs" / "images"
images.mkdir(exist_ok=True)
shutil.copy(ROOT / "runs/demo/demo.png", images / "demo.png")


def line(model, sampler, name):
    return [dict(r, model=name) for r in rows if (r["model"], r["sampler"]) == (model, sampler)]


curves = (
    line("demo", "consistency", "distilled")
    + line("demo", "ddim", "distilled")
    + line(OPPONENT, "ddim", "undistilled")
    + line(OPPONENT, "unipc", "undistilled")
    + line("paper", "ddim", "as printed")
)
step_curve(curves, floor=floor["FID"]).savefig(images / "step_curve.png", dpi=110)
