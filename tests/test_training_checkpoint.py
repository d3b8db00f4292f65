"""Whatever happens to checkpoints, a healthy one is never lost, and a bad one is never used."""

import math
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training import Bench, files, rows, same, saved

from cond_distill import cli, trainer
from cond_distill.pipeline import CoDiPipeline
from cond_distill.student import Student
from cond_distill.trainer import check_converged, distill, note_distance
from cond_distill.training.checkpoint import (
    Damaged,
    last_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from cond_distill.training.state import TrainState, new_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    torch.set_num_threads(1)
    return Bench(tmp_path_factory.mktemp("checkpoint"))


def test_flipped_bits(tmp_path):
    path = write_checkpoint(tmp_path, 1, dict(w=torch.randn(50, 3), step=1))
    whole = path.read_bytes()
    for place in range(100, len(whole), 37):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(Damaged):
            read_checkpoint(path)
    path.write_bytes(whole)
    assert read_checkpoint(path)["step"] == 1


def test_leftovers_and_mode(tmp_path):
    """What a killed save left is removed, and others may read the file."""
    (tmp_path / ".tmpA1b2C3").write_bytes(b"half a file")
    (tmp_path / "step_00000001.part").write_bytes(b"half a file")
    before = os.umask(0o022)
    try:
        path = write_checkpoint(tmp_path, 1, dict(w=torch.zeros(2)))
    finally:
        os.umask(before)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_others_can_read(bench):
    """An adaptor, and a pipeline with it; and what a killed save left is removed."""
    cfg = bench.config("read by others", adaptor="t2i")
    (bench.folder / "read by others").mkdir()
    (bench.folder / "read by others" / ".tmpA1b2C3").touch()
    before = os.umask(0o022)
    try:
        bench.train(cfg)
        pipeline = CoDiPipeline.from_student(Student.load(bench.teacher, cfg.out))
        pipeline.save_pretrained(Path(cfg.out) / "pipeline")
    finally:
        os.umask(before)
    files = list(Path(cfg.out).rglob("*.safetensors"))
    assert len(files) > 5 and all(stat.S_IMODE(f.stat().st_mode) == 0o644 for f in files)
    assert not list(Path(cfg.out).glob(".tmp*"))


def test_unreadable_is_not_damaged(bench, monkeypatch):
    """Without permission, or free file handles, nothing is skipped and nothing overwritten."""
    cfg = bench.config("unreadable")
    bench.stop(cfg, 5)
    before = {path: path.read_bytes() for path in files(cfg)}
    open_file = Path.open

    def refuse(path, *args, **kwargs):
        if path == files(cfg)[0]:
            raise PermissionError(13, "Permission denied")
        return open_file(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        with pytest.raises(OSError, match="cannot open the checkpoint .*Permission denied"):
            bench.train(cfg)
    assert before == {path: path.read_bytes() for path in files(cfg)}
    limit, opened = resource.getrlimit(resource.RLIMIT_NOFILE), []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limit[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                opened.append(open(os.devnull))
        with pytest.raises(OSError, match="cannot open the checkpoint .*Too many open files"):
            read_checkpoint(next(iter(before)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        for file in opened:
            file.close()
    assert [r.step for r in bench.train(cfg)] == [6, 7, 8]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_deleted_file_gives_its_room_back(tmp_path):
    """Nothing that was read is still mapped to the file."""
    path = write_checkpoint(tmp_path, 1, dict(w=torch.zeros(300_000)))
    state = last_checkpoint(tmp_path)[1]
    assert path.name not in Path("/proc/self/maps").read_text() and len(state["w"]) == 300_000


def test_weights_that_are_not_finite_are_never_saved(bench):
    """A run whose weights have become NaN leaves its healthy checkpoints, and can go on."""
    cfg = bench.config("diverged", steps=20, save_every=1)
    records = distill(cfg, bench.teacher, progress=False)
    taken = [next(records) for _ in range(4)]
    run = records.gi_frame.f_locals["run"]
    with torch.no_grad():
        run.state.params[0].fill_(math.nan)
    with pytest.raises(FloatingPointError, match="10 steps in a row without a finite loss"):
        list(records)
    assert len(taken) == 4 and [read_checkpoint(f)["step"] for f in files(cfg)] == [3, 2]
    assert all(p.isfinite().all() for f in files(cfg) for p in read_checkpoint(f)["ema"].values())
    assert [r.step for r in bench.train(replace(cfg, lr=cfg.lr / 2))] == list(range(4, 21))


def nothing_of(state: dict) -> dict:
    # one tensor: safetensors 0.4.3 cannot open a file without any
    return dict(step=state["step"], w=torch.zeros(1))


def other_shapes(state: dict) -> dict:
    return state | dict(student={k: v[..., :1] for k, v in state["student"].items()})


def other_moments(state: dict) -> dict:
    opt = state["opt"]
    moments = {i: dict(s, exp_avg=s["exp_avg"].flatten()[:3]) for i, s in opt["state"].items()}
    return state | dict(opt=dict(opt, state=moments))


def not_finite(state: dict) -> dict:
    return state | dict(student={k: v * math.nan for k, v in state["student"].items()})


@pytest.mark.parametrize("spoil", [nothing_of, other_shapes, other_moments, not_finite])
def test_inconsistent_falls_back(bench, spoil):
    """A whole file that does not fit the run is not used; the one before it is."""
    one, two = (bench.config(f"{spoil.__name__} {k}") for k in (1, 2))
    bench.train(one)
    bench.stop(two, 5)
    state = read_checkpoint(files(two)[0])
    write_checkpoint(files(two)[0].parent, 5, spoil(state))
    with pytest.warns(UserWarning, match="does not fit this run.*trying the checkpoint before it"):
        records = bench.train(two)
    assert [r.step for r in records] == [5, 6, 7, 8] and rows(one) == rows(two)
    assert same(saved(one)["student"], saved(two)["student"])


def test_all_inconsistent(bench):
    cfg = bench.config("none fits")
    bench.stop(cfg, 3)
    for path in files(cfg):
        write_checkpoint(path.parent, int(path.stem[5:]), nothing_of(dict(step=1)))
    with (
        pytest.warns(UserWarning, match="does not fit"),
        pytest.raises(ValueError, match="none of the 2 checkpoints in .* can be used"),
    ):
        bench.train(cfg)


def test_other_pictures(bench):
    """The pictures of a run are part of it."""
    pictures = bench.folder / "changing"
    shutil.copytree(bench.folder / "pictures", pictures)
    cfg = bench.config("of pictures", images=str(pictures))
    bench.stop(cfg, 3)
    originals = {p: (p.read_bytes(), p.stat()) for p in pictures.iterdir() if p.is_file()}
    for path in originals:
        if path.suffix in (".png", ".jpg"):
            Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(path)
    with pytest.raises(ValueError, match="other data.*give another `out`"):
        bench.train(cfg)
    for path, (content, was) in originals.items():
        path.write_bytes(content)
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert [r.step for r in bench.train(cfg)] == [4, 5, 6, 7, 8]


def test_exploded_run(bench, capsys):
    """A run that learnt nothing but large numbers ends with an error, a message, no adaptor."""
    cfg = bench.config("exploded", steps=30, lr=10.0, max_grad_norm=1e6, save_every=10)
    words = [f"--{k.replace('_', '-')}={getattr(cfg, k)}" for k in FLAGS]
    with pytest.raises(SystemExit) as end:
        cli.main(["distill", *words])
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert (
        "the loss exploded" in printed
        or "no finite loss" in printed
        or "without a finite" in printed
    )
    assert not (Path(cfg.out) / "cond_distill.json").exists()


FLAGS = (
    *("teacher", "images", "cache", "out", "task", "adaptor", "rank", "steps", "batch", "scenes"),
    *(
        "zoom",
        "workers",
        "lr",
        "max_grad_norm",
        "ramp_start",
        "ramp_end",
        "save_every",
        "grid_every",
    ),
)


@pytest.mark.parametrize("last, fine", [(0.2, True), (0.9, True), (5.0, False), (math.inf, False)])
def test_check_converged(bench, last, fine):
    state = new_run(bench.config("distances"), bench.teacher).state
    for k in range(100):
        note_distance(state, 0.1 if k < 20 else last)
        state.step += 1
    if fine:
        check_converged(state, 1e-3)
        state.skipped = 3
        with pytest.raises(FloatingPointError, match="the last 3 steps had no finite loss"):
            check_converged(state, 1e-3)
    else:
        with pytest.raises(FloatingPointError, match="the loss exploded"):
            check_converged(state, 1e-3)


def lose_losses(monkeypatch, steps):
    """These steps, counted from 0, have a loss that is no number."""
    real = trainer.backward

    def backward(run, batch, noise):
        parts = real(run, batch, noise)
        return parts | dict(loss=parts["loss"] * (float("nan") if run.state.step in steps else 1))

    monkeypatch.setattr(trainer, "backward", backward)


def test_a_skipped_step_costs_no_checkpoint(bench, monkeypatch):
    cfg = bench.config("one skipped", save_every=4)
    lose_losses(monkeypatch, [3])
    bench.train(cfg)
    assert [path.stem for path in files(cfg)] == ["step_00000008", "step_00000004"]


@pytest.mark.parametrize(
    "finite, message",
    [(True, "step 5 of 8, saved in"), (False, "step 5 of 8, and nothing is saved")],
)
def test_signal_while_steps_are_skipped(bench, monkeypatch, finite, message):
    """What the message says of the run is true."""
    cfg = bench.config(f"all skipped {finite}", save_every=100)
    lose_losses(monkeypatch, range(8))
    monkeypatch.setattr(TrainState, "is_finite", lambda self: finite)
    with pytest.raises(KeyboardInterrupt, match=message):
        for record in distill(cfg, bench.teacher, progress=False):
            if record.step == 5:
                signal.raise_signal(signal.SIGINT)
    assert [path.stem for path in files(cfg)] == ["step_00000005"] * finite
    assert not finite or saved(cfg)["skipped"] == 5


def test_a_run_that_fails_at_its_end_goes_on_with_another_rate(bench, monkeypatch):
    """The same command is refused again; nothing was saved that had no way on."""
    cfg = bench.config("fails at its end")
    lose_losses(monkeypatch, [5, 6, 7])
    for _ in range(2):
        with pytest.raises(FloatingPointError, match="the last 3 steps had no finite loss"):
            bench.train(cfg)
    monkeypatch.undo()
    assert [r.step for r in bench.train(replace(cfg, lr=1e-3))] == [7, 8]


def test_sigterm(bench):
    """A cluster that ends a job: the step is finished, the run saved, exit status 130."""
    cfg = bench.config("ended", steps=100_000, save_every=100_000)
    words = [f"--{k.replace('_', '-')}={getattr(cfg, k)}" for k in FLAGS]
    env = os.environ | dict(OMP_NUM_THREADS="1")
    command = [sys.executable, "-m", "cond_distill", "distill", *words]
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    while not (Path(cfg.out) / "log.csv").exists():
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 130 and "the same call or command goes on" in error
    assert len(rows(cfg)) == saved(cfg)["step"] >= 1
