"""Copy finished adaptors into the package's assets, with a model card each: `ship.py RUN [RUN…]`."""
import csv, json, shutil, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from cond_distill.config import TrainConfig
from cond_distill.tasks import find_task

ASSETS = ROOT / "cond_distill" / "assets"

def minutes(run):
    "Minutes of the training, from its log (sum over resumptions)."
    seconds = [float(r["seconds"]) for r in csv.DictReader(open(run / "log.csv"))]
    return sum(a for a, b in zip(seconds, seconds[1:] + [0.]) if b < a) / 60

WAYS = dict(ControlNetAdaptor="A `ControlNetModel` and low-rank changes (LoRA) to the decoder", T2IAdaptor="A `T2IAdapter`, computed once an image, and low-rank changes (LoRA) to the decoder",
            ConcatAdaptor="Extra input channels for the condition's latent, and low-rank changes (LoRA) to all layers", LoRAAdaptor="Low-rank changes (LoRA) to all layers",
            FusionAdaptor="The paper's full model: a copy of the backbone and a second copy of its encoder")

def card(about, run):
    "The model card."
    c, plain = about["config"], TrainConfig()
    kind = "An undistilled adaptor: plain finetuning, the opponent" if c["preset"] == "data_only" else "A distilled adaptor for 1, 2, 4 or 8 steps"
    shown = {k: v for k, v in c.items() if k in vars(plain) and v != getattr(plain, k) and k not in ("out", "cache", "save_every", "grid_every", "workers")}
    flags = " ".join(f"--no-{k.replace('_', '-')}" if v is False else f"--{k.replace('_', '-')}" + ("" if v is True else f" {v}") for k, v in shown.items())
    data = f"{c['scenes']} crops of the photographs in `{c['images']}`" if c.get("images") else f"{c['scenes']} rendered training scenes, captions '{c['captions']}', {c['caption_dropout']:.0%} of them dropped"
    return f"""---
license: apache-2.0
library_name: diffusers
---
# {run.name}

{kind}. {WAYS[about["adaptor"]]}, for the teacher with the fingerprint {about["teacher"]} and {about["image_size"]} × {about["image_size"]} pictures. Task: {find_task(about["task"]).about} (`{about["task"]}`).

- data: {data}; seed {c["seed"]}
- training: {about["steps"]} steps at batch {c["batch"]}, {about["nfe"]} network evaluations per image of a batch, {minutes(run):.0f} minutes on a CPU
- command: `cond-distill distill {flags}`
- sampler it was made for: {about["method"]}
- measurements: see `results/` in the repository

`cond_distill.json` has the whole configuration.
"""

for run in map(Path, sys.argv[1:]):
    about, out = json.loads((run / "cond_distill.json").read_text()), ASSETS / run.name
    out.mkdir(parents=True, exist_ok=True)
    for file in (*run.glob("*.safetensors"), *run.glob("config.json")): shutil.copy(file, out / file.name)
    about["config"] |= dict(out=f"runs/{run.name}", cache="runs/cache")  # not the folders of the machine it was made on
    (out / "cond_distill.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    (out / "README.md").write_text(card(about, run))
    print(f"{out.name}: {sum(p.stat().st_size for p in out.iterdir()) / 1e6:.1f} MB")
