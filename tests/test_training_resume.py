"""A run that is stopped in any way and taken up again is the run that was not."""

import os
import random
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from processes import FORKS
from training import Bench, files, rows, same, saved

from cond_distill.data import images
from cond_distill.data.cache import cache_examples
from cond_distill.data.stream import data_identity
from cond_distill.student import Student
from cond_distill.trainer import distill, distill_to_end, train_step
from cond_distill.training import checkpoint
from cond_distill.training.checkpoint import read_checkpoint, write_checkpoint
from cond_distill.training.distributed import Engine
from cond_distill.training.state import new_run
from cond_distill.training.validation import logged_minutes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    torch.set_num_threads(1)
    return Bench(tmp_path_factory.mktemp("resume"))


def check_same_run(one, two):
    a, b = saved(one), saved(two)
    assert rows(one) == rows(two)
    assert all(same(a[k], b[k]) for k in a if k != "config")


def test_left_and_taken_up(bench):
    """What a killed process has logged after its last checkpoint goes."""
    one, two = bench.config("whole"), bench.config("in two")
    bench.train(one)
    bench.stop(two, 5)
    log = Path(two.out) / "log.csv"
    text = log.read_text()
    log.write_text(text + "6" + ",nan" * 9 + "\n7,na")
    assert [r.step for r in bench.train(two)] == [6, 7, 8]
    check_same_run(one, two)
    assert logged_minutes(two.out) > 0


def test_moved_pictures(bench):
    """The same pictures in another place are those of the run, also of an earlier version's."""
    one, two = bench.config("left there"), bench.config("moved")
    bench.train(one)
    bench.stop(two, 3)
    copy = str(shutil.copytree(two.images, bench.folder / "other place"))
    moved = replace(two, images=copy)
    bench.stop(moved, 5)
    path, state = files(two)[0], saved(two)
    state["data"] = data_identity(bench.teacher, moved, place=copy)
    write_checkpoint(path.parent, 5, state)
    assert [r.step for r in bench.train(two)] == [6, 7, 8]
    check_same_run(one, two)
    os.utime(Path(copy) / "00.png", (1, 1))
    with pytest.raises(ValueError, match="images = "):
        bench.train(moved)


def test_out_of_one_machine_only(bench, monkeypatch):
    """Processes that see different checkpoints stop before they would wait for each other."""
    cfg = bench.config("not shared")
    bench.stop(cfg, 4)
    monkeypatch.setattr(Engine, "gather", lambda self, number: [number, 0])
    with pytest.raises(
        ValueError, match=r"from different steps, \[4, 0\]; `out` must be one folder"
    ):
        bench.train(cfg)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal(bench, number):
    """The step is finished, the run saved, and the message says how to go on."""
    cfg, handler = bench.config(f"signal {number}"), signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 3 of 8, saved in"):
        for record in distill(cfg, bench.teacher, progress=False):
            if record.step == 3:
                signal.raise_signal(number)
    assert saved(cfg)["step"] == 3 and signal.getsignal(number) is handler


def train_on_one_thread(cfg):
    """As `bench` does: the number of threads decides about last digits."""
    torch.set_num_threads(1)
    distill_to_end(cfg, progress=False)


def test_killed(bench):
    """SIGKILL at random moments, the first two before there is a checkpoint."""
    kills = int(os.environ.get("COND_DISTILL_KILLS", 4))
    cfg = bench.config("killed", cache=str(bench.folder / "cold"), steps=8 * kills)
    alone = replace(cfg, out=str(bench.folder / "left alone"), cache=str(bench.folder / "cache"))
    bench.train(alone)
    rng, begun, killed = random.Random(0), 0, 0
    while True:
        p = FORKS.Process(target=train_on_one_thread, args=(cfg,))
        p.start()
        before, begun = files(cfg)[:1], begun + 1
        while begun > 2 and p.is_alive() and files(cfg)[:1] == before:
            p.join(0.05)
        p.join(rng.uniform(0, 3 if begun < 3 else 0.5) if killed < kills else None)
        if not p.is_alive():
            break
        p.kill()
        p.join()
        killed += 1
        if files(cfg):  # nothing is lost but the steps since the last checkpoint
            logged = int((Path(cfg.out) / "log.csv").read_text().splitlines()[-1].split(",")[0])
            assert saved(cfg)["step"] >= logged - cfg.save_every
    assert p.exitcode == 0
    check_same_run(alone, cfg)


def with_reader_inside(state: dict) -> dict:
    """A checkpoint as it was written when an adaptor held the reader of instructions.

    Around another adaptor (`inner`) the reader came first, else last.
    """

    def adaptor(weights: dict) -> dict:
        old = {k.removeprefix("adaptor."): v for k, v in weights.items()}
        return dict(sorted(old.items(), key=lambda item: item[0].startswith("reader.") != first))

    names = list(state["student"])
    first = any(k.startswith("adaptor.inner.") for k in names)
    state["adaptor"] = adaptor(state.pop("student"))
    for name in ("target", "ema"):
        weights = {k.removeprefix("module."): v for k, v in state[name].items()}
        n = weights.pop("n_averaged")
        old = {f"module.{k}": v for k, v in adaptor(weights).items()}
        state[name] = dict(n_averaged=n) | old
    places = {k: i for i, k in enumerate(state["adaptor"])}
    moments = state["opt"]["state"].items()
    state["opt"]["state"] = {places[names[i].removeprefix("adaptor.")]: v for i, v in moments}
    if "source" in state["method"]:
        state["method"]["source"] = adaptor(state["method"]["source"])
    return state


def in_the_old_form(state: dict) -> dict:
    """A checkpoint as it was written before averages were `AveragedModel`s."""
    state = with_reader_inside(state)
    method = state.pop("method")
    for name in ("target", "ema"):
        average = state[name]
        values = [v for k, v in average.items() if k != "n_averaged"]
        state[name] = dict(n=int(average["n_averaged"]), shadow_params=values)
    for name in ("first_distance", "last_distance", "data"):
        del state[name]
    return state | method


@pytest.mark.parametrize(
    "settings",
    [
        {},
        dict(adaptor="t2i", method="progressive", rounds=2),
        dict(discriminator=0.1),
        dict(reader=1),
        dict(method="any_step", reader=1),
    ],
)
@pytest.mark.parametrize("form", [with_reader_inside, in_the_old_form])
def test_old_checkpoint(bench, settings, form, monkeypatch):
    """Runs of earlier versions go on, whose configuration and state had another form."""
    name = f"{settings}"
    one, two = (bench.config(f"{name} {form.__name__} {k}", **settings) for k in (1, 2))
    bench.train(one)
    bench.stop(two, 5)
    path = files(two)[0]
    state = form(read_checkpoint(path))
    state["config"] = {k: v for k, v in state["config"].items() if k != "flip"}  # a later setting
    state["config"]["optimizer"] = "zero"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", checkpoint.WITHOUT_CHECKSUM)
        write_checkpoint(path.parent, 5, state)
    bench.train(two)
    assert rows(one) == rows(two)
    assert all(same(saved(one)[k], saved(two)[k]) for k in ("student", "target", "ema", "opt"))


def test_extended(bench):
    """`steps` may grow and `lr` may change; anything else in the same folder is refused."""
    cfg = bench.config("extended")
    bench.train(cfg)
    longer = replace(cfg, steps=10, lr=5e-3)
    records = bench.train(longer)
    assert [r.step for r in records] == [9, 10] and records[0].lr < 5e-3
    assert Student.load(bench.teacher, cfg.out).about["config"]["lr"] == 5e-3
    for changes in (dict(batch=2), dict(steps=9), dict(seed=1)):
        with pytest.raises(ValueError, match=f"other settings.*{next(iter(changes))} = "):
            bench.train(replace(longer, **changes))


@pytest.mark.parametrize("method", ["codi", "any_step"])
def test_extended_run_keeps_what_its_method_had_reached(bench, method):
    """A finished run that is made longer is not without consistency at first, nor if stopped."""
    cfg = bench.config(f"longer {method}", method=method, ramp_start=0.6, ramp_end=0.8)
    bench.train(cfg)
    path = files(cfg)[0]
    state = read_checkpoint(path)
    assert state.pop("progress") == 1.0
    write_checkpoint(path.parent, 8, state)  # as an earlier version wrote it
    longer = replace(cfg, steps=16)
    bench.stop(longer, 9)
    records = bench.train(longer)
    assert len(records) == 7 and saved(longer)["progress"] == 1.0
    drawn = [r for r in rows(longer) if int(r["step"]) > 8]
    assert len(drawn) == 8 and all(float(r["w_c"]) > 0 for r in drawn)


def test_goes_on_from_an_adaptor(bench):
    """`init_from` begins a new run with what a finished one has learnt."""
    cfg = bench.config("finished")
    bench.train(cfg)
    begun = new_run(bench.config("fine-tuned", init_from=cfg.out, lr=1e-4), bench.teacher)
    learnt = Student.load(bench.teacher, cfg.out).state_dict()
    assert same(dict(begun.state.student.state_dict()), dict(learnt))
    assert all(p.requires_grad for p in begun.state.params) and begun.state.step == 0
    assert [r.step for r in bench.train(begun.cfg)] == list(range(1, 9))


def test_two_at_once(bench):
    cfg = bench.config("at once")
    bench.train(cfg)
    with FileLock(f"{cfg.out}/.lock"), pytest.raises(ValueError, match="another process"):
        bench.train(cfg)


def test_nowhere_to_write(bench):
    cfg = bench.config("written")
    Path(cfg.out).write_text("in the way")
    with pytest.raises(OSError, match="cannot write into .*give another folder"):
        bench.train(cfg)
    with pytest.raises(OSError, match="GB free and the checkpoints need"):
        bench.train(bench.config("large", keep=10**12))


@pytest.mark.parametrize(
    "changes, error",
    [
        (dict(task="depht"), "task is 'depht'"),
        (dict(images="", task="pairs"), "needs your own pictures"),
        (dict(task="depth"), "'depth'"),
        (dict(method="best"), "method is 'best'; choose one of"),
        (dict(adaptor="hypernetwork"), "adaptor is 'hypernetwork'; choose .*, fusion, full, or"),
        (dict(adaptor="full", method="consistency", reader=2), "does not use reader=2"),
        (dict(gradient_accumulation_steps=3), "must be a multiple of 3"),
        (dict(gradient_accumulation_steps=2, discriminator=0.1), "whole batch"),
        (dict(compile="none of torch's"), "torch.compile has here"),
    ],
)
def test_wrong_words(bench, changes, error):
    with pytest.raises(ValueError, match=error):
        bench.train(bench.config("refused", **changes))
    assert not (bench.folder / "refused").exists()


def test_measurement_that_fails(bench):
    """It costs no steps."""
    cfg = bench.config("measured", grid_every=3, best="beauty")
    rows = iter([dict(beauty=0.5), dict(grey=0.5)])
    with pytest.raises(ValueError, match="eval_fn of this run measures: grey"):
        bench.train(cfg, eval_fn=lambda images, held: next(rows))
    assert saved(cfg)["step"] == 3


def test_best_that_is_never_measured(bench):
    """It is refused by the call, before anything is written."""

    def grey(images, held):
        assert images.shape[1:] == (3, 16, 16) and len(images) == len(held["cond"]) == 5
        return dict(grey=0.5)

    settings = dict(teacher=bench.teacher, progress=False)
    cfg = bench.config("misspelt", grid_every=3, eval_n=5, best="gray")
    with pytest.raises(ValueError, match="best is 'gray'; eval_fn of this run measures: grey; ch"):
        distill(cfg, eval_fn=grey, **settings)
    with pytest.raises(ValueError, match="best is 'gray', and no eval_fn is given"):
        distill(cfg, **settings)
    with pytest.raises(ValueError, match="best is 'gray', and grid_every is 0"):
        distill(replace(cfg, grid_every=0), eval_fn=grey, **settings)
    assert not Path(cfg.out).exists()
    distill(replace(cfg, best="grey"), eval_fn=grey, **settings)


def test_no_run_is_lost_by_its_measurement(bench):
    """A measurement that fails is a warning; the run goes on, and the adaptor is written."""

    def fails(images, held):
        raise ZeroDivisionError("of mine")

    cfg = bench.config("unmeasurable", grid_every=4)
    with pytest.warns(UserWarning, match="failed at step 4: ZeroDivisionError: of mine") as warned:
        records = bench.train(cfg, eval_fn=fails)
    assert [r.measured for r in records] == [None] * 8
    assert len([w for w in warned if "ZeroDivisionError" in str(w.message)]) == 3
    about = Student.load(bench.teacher, cfg.out).about
    assert about["steps"] == 8 and "curve" not in about


def test_best(bench):
    """The best sampling average stays in best/, and `judge` is the earlier name of `eval_fn`."""
    values = iter([1.0, 3.0, float("nan"), 2.0, *[0.0] * 4])
    cfg = bench.config("best", grid_every=2)
    records = bench.train(cfg, judge=lambda images, held: dict(sharpness=next(values)))
    assert [r.step for r in records if r.grid] == [2, 4, 6, 8]
    assert records[3].measured == records[3].judged == dict(sharpness=3.0)
    about = Student.load(bench.teacher, f"{cfg.out}/best").about
    assert about["steps"] == 4 and about["best"] == dict(sharpness=3.0)
    curve = Student.load(bench.teacher, cfg.out).about["curve"]
    assert [row["steps"] for row in curve] == [1, 2, 4, 8]


def test_unmeasured(bench):
    """With eval_n=0 nothing is measured, and nothing can be the best."""
    cfg = bench.config("unmeasured", grid_every=4, eval_n=0)
    records = bench.train(cfg, eval_fn=lambda images, held: dict(grey=1 / 0))
    assert [r.measured for r in records] == [None] * 8
    assert "curve" not in Student.load(bench.teacher, cfg.out).about
    assert not (Path(cfg.out) / "best").exists()
    with pytest.raises(ValueError, match="best is 'grey', and eval_n is 0"):
        bench.config("refused", best="grey", eval_n=0)


@pytest.mark.parametrize(
    "changes", [dict(gradient_checkpointing=True), dict(gradient_accumulation_steps=2)]
)
@pytest.mark.parametrize("adaptor", ["controlnet", "fusion"])
def test_same_losses(bench, adaptor, changes):
    """Recomputing activations, and working a batch off in pieces, change no loss."""
    losses = []
    for k, settings in enumerate(({}, changes)):
        name = f"{adaptor} {[*changes]} {k}"
        cfg = bench.config(name, adaptor=adaptor, steps=3, **settings)
        losses.append([r.loss for r in bench.train(cfg)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_data_that_is_not_finite(bench):
    """Ten steps without a finite loss end a run, and its weights are as they were."""
    run = new_run(bench.config("broken data"), bench.teacher)
    data = cache_examples(bench.teacher, run.cfg, progress=False)
    broken = dict(data, x=data["x"] * float("nan"))
    before = [p.detach().clone() for p in run.state.params]
    for _ in range(3):
        train_step(run, broken)
    assert run.state.skipped == 3 and all(map(torch.equal, before, run.state.params))
    train_step(run, data)
    assert run.state.skipped == 0


def test_a_folder_is_listed_once_and_its_held_out_pictures_opened_once(bench, monkeypatch):
    """However many grids are drawn and measured, and whatever else asks for the pictures."""
    listed, opened = [], []
    real_list, real_make = images.find_images, images.make_example

    def list_pictures(*args):
        listed.append(args)
        return real_list(*args)

    def make_example(item, k, task, crops, held):
        opened.append(k) if held else None
        return real_make(item, k, task, crops, held)

    monkeypatch.setattr(images, "find_images", list_pictures)
    monkeypatch.setattr(images, "make_example", make_example)
    cfg = bench.config("listed once", grid_every=2, eval_n=3, cache=str(bench.folder / "new"))
    bench.train(cfg, eval_fn=lambda drawn, held: dict(grey=drawn.mean().item()))
    assert len(listed) == 1
    assert sorted(opened) == sorted([*range(6), *range(3)])  # of the grid, of the measurement
