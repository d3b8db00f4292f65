"""The memory plan agrees with itself, and with what a real network on a CPU keeps."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from inspect import signature
from typing import get_args, get_type_hints

import drawing
import pytest
import torch

from cond_distill import cli
from cond_distill.adaptors.choice import CHOICES
from cond_distill.counter import Counter
from cond_distill.options import PlanConfig
from cond_distill.plan import PLANNED, advise, at_batch, plan, shapes_only

ERROR = 0.1  # of the plan's activations against those of a real forward pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan")
    drawing.teacher(path, "sd1")
    return path / "sd1"


@pytest.mark.slow
def test_advice_is_the_largest_batch_that_fits(folder, capsys, monkeypatch):
    """What is advised fits, twice as much does not, and the command's table says the same."""
    # one picture at a time: beside so small a network the autoencoder would take the most
    monkeypatch.setattr("cond_distill.plan.AUTOENCODER_PIXELS", 1)
    limit = 1.52  # GB, of which 1.5 are reserved
    plans = advise(str(folder), "t2i", limit, rank=2)
    for checkpointing, fit in zip((False, True), plans, strict=True):
        settings = ("t2i", 3, 2, 2 * fit.batch, "float16", checkpointing)
        twice = plan(shapes_only(str(folder)), *settings)
        assert fit.memory <= limit < twice.memory and 1 < fit.batch < 256
    rows = cli.plan(PlanConfig(str(folder), "t2i", memory=limit, rank=2))
    assert [row["largest batch"] for row in rows] == [fit.batch for fit in plans]
    assert [row["together, GB"] for row in rows] == [fit.memory for fit in plans]
    assert "largest batch" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("adaptor", ["controlnet", "t2i", "concat"])
def test_activations_of_a_real_network(folder, adaptor):
    """Bytes that a forward pass on the CPU keeps for the backward pass, in float32."""
    batch = 16
    counted = plan(shapes_only(str(folder)), adaptor, 3, 2, batch, "float32")
    student = drawing.student(drawing.teacher(folder.parent, "sd1"), adaptor)
    student.adaptor.requires_grad_(True)
    z = torch.randn(batch, *student.teacher.latent_shape)
    text, cond = student.teacher.embed([""] * batch), drawing.condition(batch)
    parameters = [*student.teacher.parameters(), *student.adaptor.parameters()]
    with Counter(parameters) as real:
        student(z, 500, cond, text)
    assert counted.trained == sum(p.numel() for p in student.adaptor.parameters())
    gigabytes = real.bytes / 1e9
    assert abs(gigabytes - counted.activations) < ERROR * gigabytes, (
        gigabytes,
        counted.activations,
    )


@pytest.mark.slow
def test_more_of_everything(folder):
    """Memory grows with the batch, and checkpointing keeps less."""
    one, two = (plan(shapes_only(str(folder)), "t2i", 3, 2, batch, "float16") for batch in (8, 16))
    assert 1.9 < two.activations / one.activations < 2.1
    recomputed = plan(shapes_only(str(folder)), "t2i", 3, 2, 16, "float16", True)
    assert recomputed.activations < two.activations and recomputed.operations > two.operations


@pytest.mark.slow
def test_a_plan_leaves_its_teacher_as_it_was(folder):
    teacher, settings = shapes_only(str(folder)), ("controlnet", 3, 2, 4, "bfloat16")
    first = plan(teacher, *settings)
    plan(teacher, *settings, gradient_checkpointing=True)
    assert plan(teacher, *settings) == first
    assert next(teacher.backbone.parameters()).dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_any_batch_follows_from_two(folder, checkpointing):
    """What `advise` takes for a batch is what counting it finds."""
    four, eight, many = (
        plan(shapes_only(str(folder)), "controlnet", 3, 2, batch, "float16", checkpointing)
        for batch in (4, 8, 64)
    )
    assert asdict(at_batch(four, eight, 64)) == pytest.approx(asdict(many), rel=1e-3)


def test_counting_changes_nothing_for_others():
    """Within a count the rest of the process, such as another thread, has PyTorch's attention."""
    attend = torch.nn.functional.scaled_dot_product_attention
    q = torch.randn(1, 1, 4, 8)
    wanted = attend(q, q, q)
    with Counter() as count, ThreadPoolExecutor(1) as pool:
        assert torch.nn.functional.scaled_dot_product_attention is attend
        assert torch.equal(pool.submit(attend, q, q, q).result(), wanted)
        assert count.operations == 0
        attend(q, q, q)
        assert count.operations == 4 * 4 * 4 * 8


@pytest.mark.slow
def test_a_plan_for_what_auto_takes(folder):
    """Every adaptor that "auto" stands for can be planned; the default dtype is for training."""
    assert {choice.adaptor for choice in CHOICES.values()} <= set(PLANNED)
    assert PlanConfig().dtype == signature(plan).parameters["dtype"].default == "bfloat16"
    assert get_args(get_type_hints(PlanConfig)["adaptor"]) == PLANNED
    for name in PLANNED:
        assert advise(str(folder), name, 8.0, rank=2)[0].batch > 1
    with pytest.raises(ValueError, match="plans are made for controlnet, t2i, concat, lora"):
        advise(str(folder), "fusion", 8.0)


@pytest.mark.slow
def test_a_condition_is_encoded_once_a_step(folder):
    """The autoencoder's work for "concat" is counted once, however often the student is called."""
    counts = []
    for size in (0, 128):
        teacher = shapes_only(str(folder), image_size=size)
        with Counter() as encoding:
            teacher.encode(torch.empty(8, 3, *teacher.size, device="meta"))
        plain = plan(teacher, "lora", 3, 2, 8).operations
        counts.append((plan(teacher, "concat", 3, 2, 8).operations - plain) / encoding.operations)
    assert all(1 < c < 2 for c in counts), counts
