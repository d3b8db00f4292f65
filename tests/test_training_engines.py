"""Two processes find the losses of one, and a checkpoint of each engine opens in the others."""

import csv
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import asdict
from pathlib import Path

import pytest
import tiny
from processes import free_port, launch

from cond_distill.config import TrainConfig

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def start(*words: str) -> str:
    """What a Python that is started with these words prints."""
    env = os.environ | dict(OMP_NUM_THREADS="1", ACCELERATE_USE_CPU="true")
    command = [sys.executable, *words]
    run = subprocess.run(command, capture_output=True, text=True, env=env, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


def configuration(folder: Path) -> dict:
    """Six steps on pictures in a folder, with a tiny teacher."""
    tiny.stable_diffusion(folder / "teacher", "v_prediction")
    tiny.pictures(folder / "pictures")
    return asdict(
        TrainConfig(
            teacher=str(folder / "teacher"),
            images=str(folder / "pictures"),
            cache=str(folder / "cache"),
            task="superres_x4",
            method="codi",
            steps=6,
            batch=4,
            num_examples=16,
            max_crop_scale=1.5,
            workers=0,
            ramp_start=0.0,
            grid_every=0,
        )
    )


def losses(folder: Path) -> list[float]:
    return [float(row["loss"]) for row in csv.DictReader(open(folder / "log.csv"))]


@pytest.mark.parametrize("adaptor", ["controlnet", "fusion", "lora"])
def test_two_processes(tmp_path, adaptor):
    """Runs that one engine begins and another finishes have the losses of one process."""
    base = configuration(tmp_path) | dict(adaptor=adaptor)
    base["rank"] = 2 if adaptor == "lora" else 0

    def run(name: str, stop: int = 0, **settings):
        return base | dict(out=str(tmp_path / name)) | settings, stop

    launch([run("one"), run("one, then DDP", 3), run("one, then FSDP", 3)], 1, tmp_path)
    several = [run("one, then DDP"), run("one, then FSDP", fsdp=True)]
    several += [run("FSDP, then one", 3, fsdp=True)]
    if adaptor == "controlnet":  # whole runs, and from one engine to the other
        several += [run("DDP", gradient_accumulation_steps=2), run("FSDP", fsdp=True)]
        several += [run("DDP, then FSDP", 3), run("DDP, then FSDP", fsdp=True)]
    launch(several, 2, tmp_path)
    launch([run("FSDP, then one")], 1, tmp_path)
    folders = [file.parent for file in tmp_path.glob("*/log.csv")]
    assert len(folders) == (7 if adaptor == "controlnet" else 4)
    for folder in folders:
        assert losses(folder) == pytest.approx(losses(tmp_path / "one"), rel=1e-5), folder.name
        assert (folder / "cond_distill.json").is_file()


LAUNCHER = "-m accelerate.commands.launch --main_process_port 0 --config_file".split()
KERNEL = """
import json, sys
from accelerate import notebook_launcher
from cond_distill.config import TrainConfig
from cond_distill.trainer import distill_to_end
cfg = TrainConfig(**json.loads(sys.argv[1]))
notebook_launcher(distill_to_end, (cfg, None, False), num_processes=2, use_port=sys.argv[2])
"""


def flags(settings: dict) -> list[str]:
    """The command line of `distill` for settings that are not the default."""
    words = ["-m", "cond_distill", "distill"]
    for name, value in settings.items():
        if value != asdict(TrainConfig())[name]:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def test_launchers(tmp_path):
    """However processes are started: one adaptor, the same losses."""
    base = configuration(tmp_path) | dict(steps=2)

    def run(name: str) -> dict:
        return base | dict(out=str(tmp_path / name))

    launch([(run("one"), 0)], 1, tmp_path)
    for name in ("gpus", "fsdp"):
        file, text = tmp_path / f"{name}.yaml", (ROOT / f"configs/{name}.yaml").read_text()
        file.write_text(text.replace("use_cpu: false", "use_cpu: true").replace("_GPU", "_CPU"))
        printed = start(*LAUNCHER, str(file), *flags(run(name)))
        assert printed.count("adaptor, log and grids") == 1
    start("-c", KERNEL, json.dumps(run("notebook")), str(free_port()))
    for name in ("gpus", "fsdp", "notebook"):
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "one"), rel=1e-5), name


def test_shares(tmp_path):
    """A batch that cannot be shared equally is refused before the first step."""
    base = configuration(tmp_path) | dict(out=str(tmp_path / "odd"), batch=5)
    with pytest.raises(
        AssertionError, match="which 2 processes with gradient_accumulation_steps=1 cannot share"
    ):
        launch([(base, 0)], 2, tmp_path)


def test_shards(tmp_path):
    """Each of two processes reads its own shards, and goes on behind what it has read."""
    base = configuration(tmp_path)
    for k in range(4):
        with tarfile.open(tmp_path / f"{k}.tar", "w") as tar:
            for file in sorted((tmp_path / "pictures").iterdir()):
                tar.add(file, f"{k}_{file.name}")
    shards = base | dict(images=f"{tmp_path}/*.tar")
    one, two = (shards | dict(out=str(tmp_path / name), save_every=3) for name in ("1", "2"))
    launch([(one, 0), (two, 3), (two, 0)], 2, tmp_path)
    for run in ("1", "2"):
        assert (tmp_path / run / "shards_1_of_2.json").is_file() and len(
            losses(tmp_path / run)
        ) == 6
    assert losses(tmp_path / "1")[:3] == pytest.approx(losses(tmp_path / "2")[:3], rel=1e-5)
