"""results/README.md and the pictures of the home page from what `make demo rows results` measured."""
import json, platform, shutil, subprocess, sys
from pathlib import Path
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from cond_distill.compare import step_curve
from cond_distill.metrics import table

NAMES = {"depth_distilled": "balanced (shipped)", "demo": "balanced (this machine's demo)", "depth_undistilled": "undistilled: d_x only",
         "d_x_only": "d_x only, one t a batch", "paper": "as printed (noise space)", "balanced_per_batch": "balanced, one t a batch"}
TEXT = """# Results: depth to image

Made by `make demo rows results` on commit {commit}, on {device}, training seed 0, noise seed 1234. {n} held-out depth maps, the first half with partial captions, the rest with none.
FID is on the features of the shipped recogniser (not comparable with FID on Inception features); *depth error* is the mean absolute difference of the depth read back from the picture;
*caption* is the share of true statements. `s/image` belongs to the machine; compare it within the table only.

All adaptors had (nearly) the same number of network evaluations in training: {nfe} per image of a batch, at batch 32.

{table}

## The demo's own table (256 conditions, with DPM-Solver++)

{demo}
"""

rows = [dict(r, model=NAMES.get(r["model"], r["model"])) for r in json.loads((ROOT / "results" / "depth.json").read_text())]
commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
nfe = json.loads((ROOT / "runs" / "demo" / "cond_distill.json").read_text())["nfe"]
device = "an NVIDIA GPU" if torch.cuda.is_available() else f"a CPU ({torch.get_num_threads()} threads)"
(ROOT / "results" / "README.md").write_text(TEXT.format(commit=commit, device=device, n=512, nfe=nfe, table=table(rows), demo=(ROOT / "runs" / "demo" / "table.md").read_text()))
images = ROOT / "nbs" / "images"; images.mkdir(exist_ok=True)
shutil.copy(ROOT / "runs" / "demo" / "demo.png", images / "demo.png")
step_curve(rows, floor=rows[0]["FID"]).savefig(images / "step_curve.png", dpi=110)
