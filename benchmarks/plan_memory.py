"""Is the memory that `plan` counts the memory that a training takes?

`python benchmarks/plan_memory.py` takes two training steps for each of a few shapes, on the CPU, in
float32, each in a process of its own, and writes results/plan_memory.json: the plan without its
reserve, and by how much the process grew at its peak, in GB. Linux only; about five minutes of one
CPU core. (On a GPU: benchmarks/gpu.py.)
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from cond_distill import plan as planning
from cond_distill.config import TrainConfig
from cond_distill.trainer import train_step
from cond_distill.training.state import new_run

ROOT = Path(__file__).resolve().parents[1]
SIDE, WORDS = 16, 32  # positions of a latent, tokens of a caption
SHAPES = {"1 million": (32, 64), "16 million": (128, 256)}  # the teacher's U-Net: its channels
CASES = [
    (shape, adaptor, batch)
    for shape, batches in (("1 million", (16, 64)), ("16 million", (8, 24)))
    for adaptor in ("t2i", "controlnet")
    for batch in batches
]


def parts(channels: tuple[int, ...]) -> dict:
    """The configurations of a model with Stable Diffusion's parts, as `plan` knows them."""
    levels, width = len(channels) - 1, 2 * channels[0]
    down = ("CrossAttnDownBlock2D",) * levels + ("DownBlock2D",)
    up = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * levels
    unet = dict(sample_size=SIDE, block_out_channels=channels, norm_num_groups=8)
    unet |= dict(down_block_types=down, up_block_types=up, cross_attention_dim=width)
    vae = dict(down_block_types=("DownEncoderBlock2D",) * 3, block_out_channels=(16,) * 3)
    vae |= dict(up_block_types=("UpDecoderBlock2D",) * 3, norm_num_groups=4)
    text = dict(hidden_size=width, intermediate_size=width, num_hidden_layers=2, vocab_size=1000)
    text |= dict(max_position_embeddings=WORDS, num_attention_heads=4)
    return dict(unet=unet | dict(attention_head_dim=8), vae=vae, text=[text], words=WORDS)


def grown(key: str) -> float:
    """Gigabytes of this process: VmRSS now, VmHWM at its peak."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(rf"{key}:\s+(\d+)", status)[1]) * 1024 / 1e9


def measure(shape: str, adaptor: str, batch: int) -> dict:
    """Plan and peak of one training, in this process."""
    torch.set_num_threads(1)
    planning.KNOWN[shape] = parts(SHAPES[shape])
    counted = planning.plan(planning.shapes_only(shape), adaptor, 3, 4, batch, "float32")
    before = grown("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak begins anew
    teacher = planning.shapes_only(shape, "cpu")
    width = teacher.backbone.config.cross_attention_dim
    teacher._empty = torch.zeros(1, WORDS, width)
    data = dict(
        x=torch.randn(batch, *teacher.latent_shape),
        cond=torch.zeros(batch, 3, teacher.image_size, teacher.image_size, dtype=torch.uint8),
        text=torch.zeros(batch, WORDS, width),
    )
    with tempfile.TemporaryDirectory() as out:
        cfg = TrainConfig(task="superres_x4", adaptor=adaptor, rank=4, batch=batch, out=out)
        run = new_run(cfg, teacher)
        for _ in range(2):
            train_step(run, {k: v.numpy() for k, v in data.items()})
    return dict(
        teacher=shape,
        adaptor=adaptor,
        batch=batch,
        planned=counted.memory - counted.reserve,
        measured=grown("VmHWM") - before,
    )


def main():
    rows = []
    for case in CASES:
        command = [sys.executable, __file__, json.dumps(case)]
        run = subprocess.run(command, stdout=subprocess.PIPE, check=True, encoding="utf-8")
        rows.append(json.loads(run.stdout))
        print(rows[-1], flush=True)
        file = ROOT / "results" / "plan_memory.json"
        file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(*json.loads(sys.argv[1]))))
    else:
        main()
