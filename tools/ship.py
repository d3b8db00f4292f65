"""Copy finished adaptors into the package's assets, with a model card each: `ship.py RUN [RUN…]`."""
import csv, json, shutil, sys
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / "cond_distill" / "assets"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "pytorch_lora_weights.safetensors")

def minutes(run):
    "Minutes of the training, from its log (sum over resumptions)."
    seconds = [float(r["seconds"]) for r in csv.DictReader(open(run / "log.csv"))]
    return sum(a for a, b in zip(seconds, seconds[1:] + [0.]) if b < a) / 60

def card(about, run):
    "The model card."
    c = about["config"]
    kind = "An undistilled adaptor: plain finetuning, the opponent" if c["preset"] == "data_only" else "A distilled adaptor for 1, 2, 4 or 8 steps"
    flags = " ".join(f"--{k.replace('_', '-')} {v}" for k, v in c.items() if k in ("preset", "rank", "steps", "batch", "lr", "delta", "look_ahead", "ramp_start", "ramp_end", "timesteps", "focus", "scenes", "seed")) + ("" if c["per_sample"] else " --no-per-sample")
    return f"""---
license: apache-2.0
library_name: diffusers
---
# {run.name}

{kind}. A `ControlNetModel` and low-rank changes (LoRA) to the U-Net's decoder, which make the small shipped teacher ({about["teacher"]}) obey a depth map (near = bright, [0, 1], 64 × 64).

- data: {c["scenes"]} rendered training scenes, captions '{c["captions"]}', half of them dropped; seed {c["seed"]}
- training: {about["steps"]} steps at batch {c["batch"]}, {about["nfe"]} network evaluations per image of a batch, {minutes(run):.0f} minutes on two CPU cores
- command: `cond-distill distill {flags}`
- sampler it was made for: {about["method"]}
- measurements: see `results/` in the repository

`cond_distill.json` has the whole configuration.
"""

for run in map(Path, sys.argv[1:]):
    about, out = json.loads((run / "cond_distill.json").read_text()), ASSETS / run.name
    out.mkdir(parents=True, exist_ok=True)
    for name in (*WEIGHTS, "config.json"): shutil.copy(run / name, out / name)
    about["config"] |= dict(out=f"runs/{run.name}", cache="runs/cache")  # not the folders of the machine it was made on
    (out / "cond_distill.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    (out / "README.md").write_text(card(about, run))
    print(f"{out.name}: {sum(p.stat().st_size for p in out.iterdir()) / 1e6:.1f} MB")
