"""Caches: never stale, never too large for the disk, and conditions keep their bits."""

import errno
import hashlib
import importlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from cond_distill.config import TeachConfig, TrainConfig
from cond_distill.data import cache
from cond_distill.data.cache import cache_examples, cache_name, describe
from cond_distill.data.folder import digest
from cond_distill.data.images import Photos, photos_of
from cond_distill.data.source import ArrayExamples, first_rows
from cond_distill.experiments.photo_teacher import photo_cache
from cond_distill.teacher import Teacher


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Teacher:
    folder = tmp_path_factory.mktemp("teacher")
    tiny.stable_diffusion(folder)
    return Teacher.from_pretrained(folder)


@pytest.fixture
def cfg(tmp_path) -> TrainConfig:
    (tmp_path / "pictures").mkdir()
    for k in range(3):
        x = np.random.default_rng(k).integers(0, 256, (80, 80, 3)).astype(np.uint8)
        Image.fromarray(x).save(tmp_path / "pictures" / f"{k}.png")
    return TrainConfig(
        images=str(tmp_path / "pictures"),
        task="superres_x4",
        num_examples=20,
        workers=0,
        cache=str(tmp_path / "cache"),
    )


@pytest.mark.parametrize("field", ["scaling_factor", "shift_factor"])
@pytest.mark.parametrize("images", ["", "pictures"])
def test_scale_of_the_latents(teacher, cfg, field, images):
    cfg = cfg if images else replace(cfg, images="")
    before = cache_name(teacher, cfg)
    old = teacher.vae.config.get(field)
    teacher.vae.register_to_config(**{field: 0.123})
    try:
        assert cache_name(teacher, cfg) != before
    finally:
        teacher.vae.register_to_config(**{field: old})
    assert cache_name(teacher, cfg) == before


@pytest.mark.parametrize(
    "change",
    [
        dict(flip=False),
        dict(max_crop_scale=2.0),
        dict(seed=1),
        dict(channel_shuffle=True),
        dict(num_examples=21),
    ],
)
def test_settings(teacher, cfg, change):
    assert cache_name(teacher, replace(cfg, **change)) != cache_name(teacher, cfg)


def test_another_picture_of_the_same_name(teacher, cfg):
    before = cache_name(teacher, cfg)
    Image.new("RGB", (80, 80)).save(f"{cfg.images}/1.png")
    assert cache_name(teacher, cfg) != before


def test_other_captions(teacher, cfg):
    before = cache_name(teacher, cfg)
    for words in ("a wall", "a road"):
        with open(f"{cfg.images}/0.txt", "w") as f:
            f.write(words)
        assert cache_name(teacher, cfg) != before
        before = cache_name(teacher, cfg)


OWN = """
from dataclasses import replace
from cond_distill.data.tasks import find_task
TASK = replace(find_task("superres_x4"), name="own")
def maps(images):
    return images.mean(1, keepdim=True)
"""


@pytest.mark.parametrize("parts", [dict(task="TASK"), dict(task="depth", estimator="maps")])
def test_code_of_your_own(teacher, cfg, parts, tmp_path, monkeypatch):
    """A task or an estimator of your own: after a change of its code the examples are new."""
    module = f"own_{len(parts)}"
    (tmp_path / f"{module}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module(module)
    names = {k: v if v == "depth" else f"{module}:{v}" for k, v in parts.items()}
    cfg = replace(cfg, **names)
    before = cache_name(teacher, cfg)
    assert cache_name(teacher, cfg) == before
    (tmp_path / f"{module}.py").write_text(OWN + "# better\n")
    assert cache_name(teacher, cfg) != before


@pytest.mark.parametrize("task", ["superres_x4", "colourise"])
def test_small_pictures_are_counted(teacher, cfg, task, recwarn):
    """They are enlarged, which a model that learns to enlarge should not take for detail."""
    for name, side in (("small", 12), ("exact", 16), ("too small", 7)):
        Image.new("RGB", (side, 90)).save(Path(cfg.images) / f"{name}.png")
    cfg = replace(cfg, task=task)
    photos = photos_of(cfg, 16)
    said = "1 picture is smaller than 16 × 16 pixels and enlarged"
    assert "small.png" in {item.name for item in photos.items}  # and not held out
    assert said in photos.report() and said not in photos_of(cfg, 8).report()
    cache_examples(teacher, cfg, progress=False)
    warned = [w for w in recwarn if said in str(w.message)]
    assert len(warned) == (task == "superres_x4")


def test_a_moved_folder_holds_the_same_pictures(cfg, tmp_path):
    """Copied with its dates it has the same digest; the digits of earlier versions are known."""
    folder = Path(cfg.images)
    copy = shutil.copytree(folder, tmp_path / "elsewhere" / "copy")
    assert digest(copy) == digest(folder)
    assert digest(copy, place=folder) == digest(folder, place=folder) != digest(folder, place=copy)
    sha = hashlib.sha256(os.fsencode(folder))
    for file in sorted(folder.iterdir()):
        stat = file.stat()
        sha.update(f"\n{file.name} () {stat.st_size} {stat.st_mtime_ns} ".encode())
    assert digest(folder, place=folder) == sha.hexdigest()[:8]
    os.utime(copy / "0.png", (1, 1))
    assert digest(copy) != digest(folder)


def test_a_cache_of_moved_pictures_and_of_an_earlier_version(teacher, cfg, tmp_path, monkeypatch):
    """Neither is made anew."""
    cache_examples(teacher, cfg, progress=False)
    monkeypatch.setattr(cache, "_make", None)
    (tmp_path / "pictures").rename(tmp_path / "moved")
    moved = replace(cfg, images=str(tmp_path / "moved"))
    assert len(cache_examples(teacher, moved, progress=False)["x"]) == 20
    place = Path(cfg.cache)
    (place / cache_name(teacher, moved)).rename(
        place / cache_name(teacher, moved, place=moved.images)
    )
    assert len(cache_examples(teacher, moved, progress=False)["x"]) == 20
    assert len([*place.iterdir()]) == 1


def test_full_disk(teacher, cfg, monkeypatch):
    """What a cache needs is known, and reserved, before anything is written into it."""
    usage = os.statvfs(".")
    assert usage.f_bavail >= 0
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: type("U", (), dict(free=1000)))
    with pytest.raises(OSError, match=r"20 examples need .* GB .*num_examples="):
        cache_examples(teacher, cfg, progress=False)
    monkeypatch.undo()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        cache_examples(teacher, cfg, progress=False)
    monkeypatch.undo()
    assert len(cache_examples(teacher, cfg, progress=False)["x"]) == 20  # and then it goes on


def test_full_disk_of_a_teacher(cfg, tmp_path, monkeypatch):
    """The crops that an own teacher learns from are reserved in the same way."""
    teach_cfg = TeachConfig(
        images=cfg.images, work=str(tmp_path / "work"), num_examples=20, size=16, workers=0
    )
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: type("U", (), dict(free=1000)))
    with pytest.raises(OSError, match=r"20 examples need .* GB .*work=FOLDER"):
        photo_cache(teach_cfg)
    monkeypatch.undo()
    crops = photo_cache(teach_cfg)
    stat = os.stat(crops.filename)
    assert crops.shape == (20, 3, 16, 16) and stat.st_blocks * 512 >= stat.st_size
    assert np.array_equal(photo_cache(teach_cfg), crops) and crops.any()


def test_room_is_reserved(teacher, cfg, capsys):
    arrays = cache_examples(teacher, cfg)
    printed = capsys.readouterr().out
    assert "3 pictures, captions for 0" in printed and "20 examples take" in printed
    for a in arrays.values():
        stat = os.stat(a.filename)
        assert stat.st_blocks * 512 >= stat.st_size
    folder = os.path.dirname(arrays["x"].filename)
    assert json.load(open(f"{folder}/key.json"))["task"] == "superres_x4"


def test_sixteen_bits_of_a_pair(teacher, tmp_path):
    """A ramp of 4,096 values in 16 bits has more than 256 of them in the cache."""
    (tmp_path / "input").mkdir()
    (tmp_path / "target").mkdir()
    ramp = (np.arange(64 * 64).reshape(64, 64) + 30_000).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "input" / "a.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "target" / "a.png")
    cfg = TrainConfig(
        images=str(tmp_path), task="pairs", num_examples=1, workers=0, max_crop_scale=1.0
    )
    arrays = cache_examples(teacher, replace(cfg, cache=str(tmp_path / "c")), progress=False)
    values = arrays["cond"][0, 0]
    assert values.dtype == np.uint16 and len(np.unique(values)) > 200  # in a range of 16
    want = Photos(tmp_path, "pairs", teacher.image_size, max_crop_scale=1.0)[0]["cond"]
    got = first_rows(arrays, 1)["cond"][0]
    assert (got - want).abs().max() < 1e-4


def test_captions_beyond_the_encoder(teacher, cfg):
    assert "cut" not in describe(teacher, Photos(cfg.images, cfg.task))
    name = Photos(cfg.images, cfg.task).items[0].name  # not held out
    Path(cfg.images, name).with_suffix(".txt").write_text("a red sphere on a floor " * 40)
    assert "1 captions are cut" in describe(teacher, Photos(cfg.images, cfg.task))


def test_arrays_say_what_is_one():
    cond = np.array([0, 65535], np.uint16).reshape(2, 1, 1, 1)
    rows = ArrayExamples(dict(x=cond, cond=cond), 2).rows(slice(2))
    assert rows["cond"].flatten().tolist() == [0, 1] and rows["cond"].dtype == torch.float32
