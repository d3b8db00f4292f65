"""What a step logs, and how often processes talk to each other in it."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from training import Bench, rows

from cond_distill.adaptors.concat import as_latent
from cond_distill.data.cache import cache_examples
from cond_distill.methods.codi import CoDi
from cond_distill.trainer import as_numbers, train_step
from cond_distill.training import state
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
    assert records[0].d_x != records[0].d_x and records[-1].nfe > 0  # NaN: nobody measured it


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
    monkeypatch.setattr(state, "build_adaptor", lambda *_: pytest.fail("an adaptor was built"))
    with pytest.raises(ValueError, match="^delta is 5000"):
        new_run(bench.config("delta", delta=5000), bench.teacher)


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
        dist.destroy_process_group()
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
