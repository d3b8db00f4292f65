"""Copy finished adaptors into the package's assets.

`ship.py RUN [RUN…]` copies runs, with a measured step curve and a model card each;
`ship.py --measure NAME [NAME…]` measures and describes shipped ones anew, `ship.py --cards NAME
[NAME…]` writes their cards anew from what was measured.
"""

import json
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from cond_distill.config import TrainConfig, renamed
from cond_distill.data.tasks import find_task
from cond_distill.evaluation.compare import held_out, score
from cond_distill.evaluation.distances import load_networks
from cond_distill.student import Student
from cond_distill.teacher import ASSETS, Teacher
from cond_distill.training.validation import logged_minutes, measure_curve
from cond_distill.utils import table

WAYS = dict(
    ControlNetAdaptor="A `ControlNetModel` and low-rank changes (LoRA) to the decoder",
    T2IAdaptor="A `T2IAdapter`, computed once an image, and low-rank changes (LoRA) to the decoder",
    ConcatAdaptor=(
        "Extra input channels for the condition's latent, and low-rank changes (LoRA) to all layers"
    ),
    LoRAAdaptor="Low-rank changes (LoRA) to all layers",
    FusionAdaptor="The paper's full model: a copy of the backbone and a second copy of its encoder",
)


def read_about(folder):
    """What the file of an adaptor says, settings under today's names."""
    about = json.loads((folder / "cond_distill.json").read_text(encoding="utf-8"))
    return about | dict(config=renamed(about["config"]))


def write_about(folder, about):
    """Write the file of an adaptor."""
    text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
    (folder / "cond_distill.json").write_text(text, encoding="utf-8")


def curve(folder, about, n=128):
    """Rows of a measured step curve: of scenes the distances, of photographs the task's own."""
    config = {k: v for k, v in about["config"].items() if k in TrainConfig.__dataclass_fields__}
    student = Student.load(Teacher.from_pretrained(config["teacher"]), folder)
    cfg = TrainConfig(**config)
    steps = (1, 2, 4, 8, 16) if student.any_step else (1, 2, 4, 8)
    if not student.any_step and not about["sampling_steps"]:
        steps = (4, 8, 50)
    if cfg.images:
        return measure_curve(
            student,
            cfg,
            lambda images, held: find_task(cfg.task).fidelity(None, images, held),
            n,
            steps,
        )
    nets, held = load_networks(), held_out(n, 64, cfg.task)
    return [
        dict(steps=k, n=n)
        | {
            m: round(v, 4)
            for m, v in score(nets, "", student, held, k)[0].items()
            if m not in ("model", "sampler", "steps", "s/image")
        }
        for k in steps
    ]


def flags(settings):
    """The flags of `cond-distill distill` that give these settings."""
    plain, words = TrainConfig(), []
    for key, value in settings.items():
        told_elsewhere = key in ("out", "cache", "save_every", "grid_every", "workers")
        if key not in vars(plain) or value == getattr(plain, key) or told_elsewhere:
            continue
        flag = key.replace("_", "-")
        words.append(f"--no-{flag}" if value is False else f"--{flag}")
        if not isinstance(value, bool):
            words.append(str(value))
    return " ".join(words)


def data_words(settings):
    """What a run was trained on."""
    if settings.get("images"):
        return f"{settings['num_examples']} crops of the photographs in `{settings['images']}`"
    captions = "with instructions"
    if find_task(settings["task"]).captions:
        dropped = f"{settings['caption_dropout']:.0%} of them dropped"
        captions = f"captions '{settings['captions']}', {dropped}"
    return f"{settings['num_examples']} rendered training scenes, {captions}"


def way(about):
    """How the condition comes in."""
    return WAYS[about["settings"].get("inner", about["adaptor"])]


def caption_words(about):
    """Which captions the held-out conditions had."""
    if not find_task(about["task"]).captions:
        return "with instructions"
    photographs = about["config"].get("images")
    return "without captions" if photographs else "the first half with captions"


def card(about, name, took):
    """The model card."""
    c = about["config"]
    measured = table([{k: v for k, v in r.items() if k != "n"} for r in about["curve"]])
    kinds = dict(
        finetune="A finetuned adaptor: plain finetuning, the baseline",
        any_step="A distilled adaptor for any number of steps, told how far each step goes",
    )
    kind = kinds.get(c["method"], "A distilled adaptor for 1, 2, 4 or 8 steps")
    reader = "; a small transformer reads the instruction" if about.get("reader") else ""
    return f"""---
license: apache-2.0
library_name: diffusers
---
# {name}

{kind}. {way(about)}{reader}, for the teacher with the fingerprint \
{about["teacher"]} and {about["image_size"]} × {about["image_size"]} pictures. \
Task: {find_task(about["task"]).about} (`{about["task"]}`).

- data: {data_words(c)}; seed {c["seed"]}
- training: {about["steps"]} steps at batch {c["batch"]}, {about["nfe"]} network evaluations per \
image of a batch, {took:.0f} minutes on a CPU
- command: `cond-distill distill {flags(c)}`
- sampler it was made for: {about["sampler"]}

Measured on {about["curve"][0]["n"]} held-out conditions ({caption_words(about)}), noise seed \
{0 if c.get("images") else 1234}, on a CPU:

{measured}

More, and beside others: `results/` in the repository.

`cond_distill.json` has the whole configuration.
"""


def write_card(folder, about):
    """Write the file and the card of an adaptor."""
    write_about(folder, about)
    text = card(about, folder.name, about["minutes"])
    (folder / "README.md").write_text(text, encoding="utf-8")


def describe(folder, took):
    """Measure what lies in a folder of the assets, and write its card."""
    about = read_about(folder)
    about |= dict(minutes=took, curve=curve(folder, about))
    write_card(folder, about)
    print(
        (
            f"{folder.name}: {sum(p.stat().st_size for p in folder.iterdir()) / 1e6:.1f} MB\n"
            f"{table(about['curve'])}"
        ),
        flush=True,
    )


def ship(run):
    """Copy a finished run."""
    about, out = (
        read_about(run),
        ASSETS / run.name,
    )
    files = [*run.glob("*.safetensors"), *run.glob("config.json")]
    if not files:
        raise SystemExit(f"{run} holds no weights; has its training finished?")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for file in files:
        shutil.copy(file, out / file.name)
    # not the folders of the machine it was made on
    about["config"] |= dict(out=f"runs/{run.name}", cache="runs/cache")
    (out / "cond_distill.json").write_text(
        json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    describe(out, logged_minutes(run))


def old_minutes(folder):
    """Of a shipped one, from its file, or from the card that it has."""
    about = read_about(folder)
    return about.get("minutes") or float(
        re.search(r", (\d+) minutes on a CPU", (folder / "README.md").read_text(encoding="utf-8"))[
            1
        ]
    )


if sys.argv[1] == "--measure":
    for name in sys.argv[2:]:
        describe(ASSETS / name, old_minutes(ASSETS / name))
elif sys.argv[1] == "--cards":
    for folder in map(ASSETS.joinpath, sys.argv[2:]):
        write_card(folder, read_about(folder) | dict(minutes=old_minutes(folder)))
else:
    for run in map(Path, sys.argv[1:]):
        ship(run)
