"""What a step logs, and how often processes talk to each other in it."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from training import Bench, rows

from cond_distill.adaptors.concat import as_latent
from cond_distill.adaptors.lora import LoRAAdaptor
from cond_distill.adaptors.scalar_input import GuidanceEmbedded
from cond_distill.data.cache import cache_examples
from cond_distill.data.source import make_batch
from cond_distill.loss import sample_noise
from cond_distill.methods.any_step import KERNELS
from cond_distill.methods.codi import CoDi
from cond_distill.methods.two_stage import consistency
from cond_distill.student import Student
from cond_distill.teacher import Teacher
from cond_distill.trainer import as_numbers, train_step
from cond_distill.training import state
from cond_distill.training.distributed import leave_processes
from cond_distill.training.state import new_run
from cond_distill.training.validation import Record
from cond_distill.utils import append_row, lock_of


class Own(CoDi):
    """A method that logs one number of its own at first, later two, and nothing else."""

    def __init__(self, cfg):
        super().__init__(cfg)
        self.step = 0

    def loss(self, student, target, batch, noise):
        loss, _ = super().loss(student, target, batch, noise)
        self.step += 1
        return loss, dict(mine=loss.detach() + 1, **(dict(later=2.0) if self.step > 2 else {}))


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    torch.set_num_threads(1)
    return Bench(tmp_path_factory.mktemp("parts"))


@pytest.mark.slow
def test_own_parts(bench):
    """They are in the records and in the log, as many as there are."""
    cfg = bench.config("own", steps=4)
    records = bench.train(cfg, method=Own(cfg))
    assert [r.parts["mine"] for r in records] == pytest.approx([r.loss + 1 for r in records])
    assert [r.parts.get("later") for r in records] == [None, None, 2.0, 2.0]
    assert [row["later"] for row in rows(cfg)] == ["", "", "2.0", "2.0"]
    assert float(rows(cfg)[0]["mine"]) == pytest.approx(records[0].loss + 1, abs=1e-5)
    assert records[0].d_x != records[0].d_x and records[-1].nfe == 0  # nobody measured it


def test_names_of_the_record():
    """Numbers that a record has always had stay its attributes."""
    known = dict(step=1, loss=0.5, d_x=0.4, lr=0.1, grad_norm=1.0, nfe=2, seconds=0.0)
    record = Record.of(**known, sharpness=3.0)
    assert record.d_x == 0.4 and record.parts == dict(sharpness=3.0)
    assert {"d_c", "w_c", "sharpness"} < record.row().keys() and "parts" not in record.row()


def test_new_column(tmp_path):
    """Earlier rows are empty there, and later ones where they have no value."""
    for row in (dict(step=1, a=1.0), dict(step=2, b=2.0), dict(step=3, a=3.0, b=4.0)):
        append_row(tmp_path / "log.csv", row)
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines == ["step,a,b", "1,1.0,", "2,,2.0", "3,3.0,4.0"]


def test_small_and_large_numbers_in_the_log(tmp_path):
    """Six significant digits; whole numbers as they are."""
    row = dict(step=12_345_678, lr=2e-7, loss=1.23456789e-5, seconds=98765.4321)
    append_row(tmp_path / "log.csv", row)
    assert (tmp_path / "log.csv").read_text().split() == [
        "step,lr,loss,seconds",
        "12345678,2e-07,1.23457e-05,98765.4",
    ]


def test_a_lock_stays():
    """Whoever holds the lock of a part holds it still when the whole is looked up."""
    part, other = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    held = lock_of(part)
    whole = torch.nn.Sequential(other, part)
    assert lock_of(whole) is held and lock_of(part) is held and lock_of(other) is held


def test_a_step_size_is_checked_before_anything_is_built(bench, monkeypatch):
    monkeypatch.setattr(state, "build_student", lambda *_: pytest.fail("a student was built"))
    with pytest.raises(ValueError, match="^delta is 5000"):
        new_run(bench.config("delta", delta=5000), bench.teacher)


ALL_CALLS = [
    *[dict(method="codi", z_s=z_s) for z_s in ("model", "noise", "teacher", "forward")],
    *[dict(method=name) for name in ("paper", "consistency_only", "finetune")],
    dict(method="paper", z_s="teacher"),
    *[dict(method="any_step", kernel=kernel) for kernel in KERNELS],
    dict(method="any_step", z_s="plain"),
    *[
        dict(method=name, guidance=guidance)
        for name in ("progressive", "consistency", "lcm")
        for guidance in (1.0, 3.0)
    ],
]


@pytest.mark.parametrize("settings", ALL_CALLS, ids=str)
def test_every_network_evaluation_is_counted(bench, settings, monkeypatch):
    """What the loss reports, and what is known before it, are the calls that it makes."""
    cfg = bench.config("calls", steps=2, **settings)
    if settings["method"] == "any_step":
        cfg = replace(cfg, plain_fraction=0.0)
    run, data = new_run(cfg, bench.teacher), cache_examples(bench.teacher, cfg, progress=False)
    batch = make_batch(data, cfg, bench.teacher.empty(), torch.Generator(), "cpu", 0)
    noise = run.method.sample_noise(bench.teacher.schedule, batch["x"], torch.Generator(), 1)
    calls, real = [], Teacher.predict
    monkeypatch.setattr(
        Teacher,
        "predict",
        lambda self, z, *args, **k: calls.append(len(z)) or real(self, z, *args, **k),
    )
    parts = run.loss(batch, noise)[1]
    assert sum(calls) == cfg.batch * float(parts["forwards"])
    expected = cfg.batch * run.method.step_forwards(1)
    if cfg.method == "any_step":  # near the end nothing lies ahead
        assert cfg.batch < sum(calls) <= expected
    else:
        assert sum(calls) == expected


def test_a_followed_student_that_takes_the_guidance_makes_one_call(bench):
    student = Student(bench.teacher, LoRAAdaptor.from_teacher(bench.teacher, rank=1))
    embedded = Student(bench.teacher, GuidanceEmbedded.of(bench.teacher, student.adaptor))
    x = torch.zeros(2, *bench.teacher.latent_shape)
    batch = dict(x=x, cond=torch.zeros(2, 3, 16, 16), text=bench.teacher.embed(["", ""]))
    noise = sample_noise(bench.teacher.schedule, x, torch.Generator())
    for source, calls in ((embedded, 3), (student, 4)):
        parts = consistency(student, student, batch, noise, source=source, guidance=2.0)[1]
        assert parts["forwards"] == calls


def test_a_loss_changes_nothing(bench):
    """The discriminator learns in a training step, and not where its loss is only computed."""
    cfg = bench.config("pure", discriminator=0.1, ramp_start=0.0, ramp_end=0.1)
    run, data = new_run(cfg, bench.teacher), cache_examples(bench.teacher, cfg, progress=False)
    train_step(run, data)
    train_step(run, data)

    def state() -> list[torch.Tensor]:
        discriminator = run.method.discriminator
        moments = discriminator.opt.state_dict()["state"].values()
        return [
            *(p.detach().clone() for p in discriminator.heads.parameters()),
            *(v.clone() for values in moments for v in values.values()),
        ]

    before = state()
    batch = make_batch(data, cfg, bench.teacher.empty(), torch.Generator(), "cpu", 0)
    noise = run.method.sample_noise(bench.teacher.schedule, batch["x"], torch.Generator(), 7)
    assert run.loss(batch, noise)[1]["extra"] != 0
    assert len(before) > 8 and all(map(torch.equal, before, state()))
    train_step(run, data)
    assert not any(map(torch.equal, before[:2], state()[:2]))


def test_one_exchange(bench):
    """With gradients of four pieces, processes exchange them once a step."""
    cfg = bench.config("exchange", gradient_accumulation_steps=4)
    run, data = new_run(cfg, bench.teacher), cache_examples(bench.teacher, cfg, progress=False)
    alone = train_step(run, data)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        run = new_run(cfg, bench.teacher)
        loss, buckets = DistributedDataParallel(run.loss, broadcast_buffers=False), []

        def hook(state, bucket):
            buckets.append(bucket.index())
            return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(first)

        loss.register_comm_hook(None, hook)
        together = train_step(replace(run, loss=loss), data)
    finally:
        leave_processes()
    assert not dist.is_initialized()
    assert len(buckets) == len(set(buckets)) > 0
    assert together == pytest.approx(alone)


def first(future):
    return future.value()[0]


@pytest.mark.parametrize("adaptor", ["concat", "fusion"])
def test_condition_is_encoded_once(bench, adaptor, monkeypatch):
    """Student, target and discriminator take the same latent of a batch's conditions."""
    cfg = bench.config(f"once {adaptor}", adaptor=adaptor, discriminator=0.1, ramp_start=0.0)
    run, data = new_run(cfg, bench.teacher), cache_examples(bench.teacher, cfg, progress=False)
    calls, real = [], bench.teacher.vae.encode
    monkeypatch.setattr(bench.teacher.vae, "encode", lambda x: calls.append(len(x)) or real(x))
    for _ in range(2):
        train_step(run, data)
    assert calls == [cfg.batch, cfg.batch]


def test_changed_condition_is_encoded_again(bench):
    cond = torch.rand(2, 3, 16, 16)
    before = as_latent(bench.teacher, cond)
    cond.mul_(0.5)
    assert not torch.equal(as_latent(bench.teacher, cond), before)
    with torch.inference_mode():
        assert torch.equal(as_latent(bench.teacher, cond.clone()), as_latent(bench.teacher, cond))


def test_average_counts_where_it_is(bench):
    """The number of averaged values is read on the CPU, not on the device of the weights."""
    run = new_run(bench.config("average"), bench.teacher)
    now = [p.detach() for p in run.state.ema.module.parameters()]
    before = [p.clone() for p in now]
    unread = torch.empty((), device="meta")  # as a number that must not be read
    values = [p.detach() + 1 for p in before]
    run.state.ema.multi_avg_fn(
        [p.detach() for p in run.state.ema.module.parameters()], values, unread
    )
    for p, old in zip(run.state.ema.module.parameters(), before):
        torch.testing.assert_close(p, old + 0.9)  # decay 1 / 10 at first


def test_numbers_are_read_at_once():
    values = dict(loss=torch.tensor(0.5), grad_norm=torch.tensor(float("inf")))
    with patch.object(torch.Tensor, "item", side_effect=AssertionError):
        assert as_numbers(values) == dict(loss=0.5, grad_norm=float("inf"))
