"""Shards: hostile ones are skipped and named, captions arrive, a run can be resumed."""

import io
import json
import tarfile
import time
from itertools import islice, takewhile
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from cond_distill.config import TrainConfig
from cond_distill.data import shards
from cond_distill.data.shards import check_shard, shard_files
from cond_distill.data.source import ExampleSource, make_batch
from cond_distill.data.stream import Place, ShardReader, Shards, Stream, held_out_examples
from cond_distill.teacher import Teacher

pytest.importorskip("webdataset")


def png(k: int, mode="RGB") -> bytes:
    out = io.BytesIO()
    colour = tuple(np.random.default_rng(k).integers(0, 256, 3).tolist())
    Image.new("RGB", (64, 64), colour).convert(mode).save(out, "PNG")
    return out.getvalue()


def write_tar(file: Path, members: dict, format=tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(file, "w", format=format) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file


@pytest.fixture
def folder(tmp_path) -> Path:
    for s in range(3):
        members = {}
        for k in range(20):
            members[f"{k:04}.png"] = png(100 * s + k)
            members[f"{k:04}.json"] = json.dumps({"caption": f"number {k}"}).encode()
        write_tar(tmp_path / f"{s}.tar", members)
    return tmp_path


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    tiny.stable_diffusion(folder)
    return Teacher.from_pretrained(folder)


def config(folder: Path, **changes) -> TrainConfig:
    fixed = dict(
        images=f"{folder}/*.tar", task="superres_x4", out=str(folder / "run"), max_crop_scale=1.0
    )
    return TrainConfig(**fixed | dict(batch=4, workers=2, save_every=3) | changes)


def test_captions_in_json(folder):
    shards = Shards(config(folder), 64)
    rows = [shards.example(s, 0) for s in islice(ShardReader(shards.files, buffer=1), 9)]
    assert all(r["caption"].startswith("number ") for r in rows)
    with pytest.raises(ValueError, match="no column 'what'"):
        Shards(config(folder, caption_column="what"), 64).held_out(1)


def endless() -> bytes:
    """A sparse file whose map of places never ends, as Python's tarfile reads it."""
    info = tarfile.TarInfo("0.png")
    info.size = 512
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    info.pax_headers |= {"GNU.sparse.name": "0.png", "GNU.sparse.realsize": str(10**13)}
    return info.tobuf(tarfile.PAX_FORMAT) + b"9" * 512


def hostile(kind: str) -> bytes:
    if kind == "endless":
        return endless()
    info = tarfile.TarInfo("0.png")
    info.size = dict(huge=10**13, cut=10_000)[kind]
    return info.tobuf() + b"x" * 2000


@pytest.mark.parametrize("kind", ["endless", "huge", "cut"])
def test_hostile_shards(folder, kind):
    (folder / "1.tar").write_bytes(hostile(kind))
    began = time.time()
    with pytest.raises(ValueError, match=r"1\.tar is not a readable shard"):
        check_shard(str(folder / "1.tar"), seconds=10)
    assert time.time() - began < 30


def test_time_limit(folder, monkeypatch):
    monkeypatch.setattr(shards, "SCAN", "import time; time.sleep(60)")
    with pytest.raises(ValueError, match="looking through it takes more than 0.5 seconds"):
        check_shard(str(folder / "1.tar"), seconds=0.5)


@pytest.mark.slow
def test_hostile_shards_are_skipped_and_named(folder, capsys):
    (folder / "1.tar").write_bytes(hostile("huge"))
    (folder / "2.tar").write_text("no tar file")
    shards = {Path(s["__url__"]).name for s in islice(ShardReader(shard_files(str(folder))), 60)}
    printed = capsys.readouterr().out
    assert shards == {"0.tar"} and "1.tar" in printed and "2.tar" in printed


def test_nothing_to_read(folder):
    for s in range(3):
        (folder / f"{s}.tar").write_text("no tar file")
    with pytest.raises(ValueError, match="not a readable shard"):
        Shards(config(folder), 64)
    with pytest.raises(ValueError, match="no shards"):
        Shards(config(folder / "none"), 64)


@pytest.mark.slow
def test_broken_pictures_are_replaced(folder, teacher, capsys):
    members = {f"{k:04}.png": b"no picture" if k % 3 else png(k) for k in range(30)}
    write_tar(folder / "0.tar", members)
    stream = Stream(teacher, config(folder, images=f"{folder}/0.tar"))
    rows = [stream.batch(step) for step in range(3)]
    stream.close()
    assert all(len(r["x"]) == 4 and r["x"].abs().sum((1, 2, 3)).all() for r in rows)
    assert "0.tar:0" in capsys.readouterr().out


def test_no_commands_from_names(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "pipe:touch x #.tar").write_bytes((folder / "0.tar").read_bytes())
    files = shard_files("*.tar")
    assert all(f.startswith("/") for f in files)
    assert len(list(islice(ShardReader(files, buffer=1), 100))) == 100
    assert not (folder / "x").exists()


@pytest.mark.slow
def test_each_process_its_share(folder):
    files = shard_files(f"{folder}/{{0..2}}.tar")

    def samples(process, processes):
        reader = ShardReader(files, 0, process, processes, buffer=1)
        first = takewhile(lambda _: reader.place.tour == 0, reader)
        return [s["__url__"] + s["__key__"] for s in first]

    whole = set(samples(0, 1))
    for n in (2, 3, 5):  # five: fewer shards than processes
        shares = [set(samples(k, n)) for k in range(n)]
        assert set.union(*shares) == whole and sum(map(len, shares)) == len(whole)


@pytest.mark.slow
def test_resumed(folder, teacher):
    """A run that is stopped goes on behind what it has seen."""
    cfg = config(folder)
    stream = Stream(teacher, cfg)
    for step in range(3):
        stream.batch(step)
    stream.close()
    again = Stream(teacher, cfg)
    place = again.places.find(3)
    assert place and place != Place()
    rows = again.batch(3)
    assert again.reader.place.tour >= place.tour and len(rows["x"]) == 4
    again.close()
    write_tar(folder / "3.tar", {"0.png": png(0)})  # other shards: from the beginning
    assert Stream(teacher, cfg).places.find(3) is None


@pytest.mark.slow
def test_source(folder, teacher):
    cfg = config(folder)
    stream = Stream(teacher, cfg)
    assert isinstance(stream, ExampleSource)
    g = torch.Generator().manual_seed(0)
    batch = make_batch(stream, cfg, teacher.empty(), g, "cpu")
    assert batch["cond"].shape == (4, 3, teacher.image_size, teacher.image_size)
    held = stream.held_out(3)
    assert torch.equal(held["image"], held_out_examples(cfg, teacher.image_size, 3)["image"])
    names = {f"{Path(f).name}:{k:04}" for f in stream.shards.files for k in range(20)}
    trained = {Path(s["__url__"]).name + ":" + s["__key__"] for s in islice(stream.reader, 150)}
    assert trained < names and len(trained) < len(names)
    stream.close()


def test_pairs(tmp_path, teacher):
    members = {
        f"{k}.{side}.png": png(k, m)
        for k in range(20)
        for side, m in (("input", "L"), ("target", "RGB"))
    }
    write_tar(tmp_path / "0.tar", members)
    shards = Shards(config(tmp_path, task="pairs"), 32)
    rows = [shards.example(s, 0) for s in islice(ShardReader(shards.files, buffer=1), 5)]
    assert all(r["cond"].std(0).max() < 1e-6 < r["image"].std(0).max() for r in rows)
    with pytest.raises(ValueError, match="pairs"):
        Shards(config(tmp_path), 32)
