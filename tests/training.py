"""Short trainings with a tiny teacher, for the tests of the trainer."""

import csv
import weakref
from dataclasses import replace
from pathlib import Path

import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from cond_distill.adaptors.catalogue import ADAPTORS
from cond_distill.config import TrainConfig
from cond_distill.teacher import Teacher
from cond_distill.trainer import distill
from cond_distill.training.checkpoint import checkpoints, read_checkpoint


class Bench:
    """A teacher, pictures and a configuration of eight steps in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        tiny.stable_diffusion(folder / "teacher", "v_prediction")
        tiny.pictures(folder / "pictures")
        self.teacher = Teacher.from_pretrained(folder / "teacher")

    def config(self, name: str, **changes) -> TrainConfig:
        base = TrainConfig(
            teacher=str(self.folder / "teacher"),
            images=str(self.folder / "pictures"),
            cache=str(self.folder / "cache"),
            out=str(self.folder / name),
            task="superres_x4",
            adaptor="lora",
            method="codi",
            rank=1,
            steps=8,
            batch=4,
            num_examples=16,
            max_crop_scale=1.5,
            workers=0,
            lr=1e-2,
            ramp_start=0.2,
            save_every=2,
            grid_every=0,
        )
        kind = ADAPTORS.get(changes.get("adaptor", ""))
        if kind and not kind.has_rank:
            base = replace(base, rank=TrainConfig.rank)
        if changes.get("method", "codi") not in ("codi", "any_step"):  # they have no ramp
            base = replace(base, ramp_start=TrainConfig.ramp_start)
        return replace(base, **changes)

    def train(self, cfg: TrainConfig, **settings) -> list:
        """The records of a run."""
        return list(distill(cfg, self.teacher, **dict(progress=False) | settings))

    def stop(self, cfg: TrainConfig, step: int):
        """A run that is left after a step."""
        for record in distill(cfg, self.teacher, progress=False):
            if record.step == step:
                break


def files(cfg: TrainConfig) -> list[Path]:
    """The checkpoints of a run, the newest first."""
    return checkpoints(Path(cfg.out) / "checkpoints")


def saved(cfg: TrainConfig) -> dict:
    """The state in the newest checkpoint."""
    return read_checkpoint(files(cfg)[0])


def rows(cfg: TrainConfig) -> list[dict]:
    """The log without the seconds."""
    with open(Path(cfg.out) / "log.csv", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def same(a, b) -> bool:
    """Are two nested states equal to the bit?"""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if torch.is_tensor(a) else a == b


class Peak(TorchDispatchMode):
    """The most bytes that the tensors made on a device within a `with` took at a time."""

    def __init__(self, device: str):
        super().__init__()
        self.device, self.live, self.now, self.most = device, set(), 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.live |= {a.untyped_storage()._cdata for a in args if torch.is_tensor(a)}
        out = function(*args, **(kwargs or {}))
        for a in filter(torch.is_tensor, tree_iter(out)):
            storage = a.untyped_storage()
            if a.device.type == self.device and storage._cdata not in self.live:
                self.live.add(storage._cdata)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.gone, storage._cdata, storage.nbytes())
        return out

    def gone(self, key, size):
        self.live.discard(key)
        self.now -= size
