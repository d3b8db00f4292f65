"""What an adaptor learns reaches a teacher in 16 bits, too."""

import pytest
import tiny
import torch
from torch import nn
from torch.func import functional_call

from cond_distill.adaptor import LowRank
from cond_distill.adaptors.catalogue import make_adaptor
from cond_distill.adaptors.several import MultiAdaptor
from cond_distill.student import Student
from cond_distill.teacher import Teacher
from cond_distill.training.state import compile_networks, set_checkpointing

KINDS = [torch.bfloat16, torch.float16]


def layer_with_change(size: float) -> tuple[nn.Module, LowRank, torch.Tensor]:
    """A layer with weights around 0.03, low-rank changes around `size`, and their product."""
    torch.manual_seed(0)
    net = nn.Sequential()
    net.add_module("up_blocks", nn.Linear(64, 48, bias=False))
    nn.init.normal_(net.up_blocks.weight, 0, 0.03)
    lora = LowRank(net, 4)
    (_, a, b), *_ = lora.pairs()
    nn.init.normal_(b)
    with torch.no_grad():
        b.mul_(size / (b @ a).std())
    return net, lora, (b @ a).detach()


@pytest.mark.parametrize("kind", KINDS)
def test_small_change(kind):
    """The change of a layer's answers, over many inputs, is the one that was learnt."""
    net, lora, wanted = layer_with_change(1e-4)
    net.to(kind)
    x = torch.randn(40_000, 64).to(kind)
    with torch.no_grad():
        before, after = net(x), functional_call(net, dict(lora(net)), x)
    change = torch.linalg.lstsq(x.float(), (after.float() - before.float())).solution.T
    assert (change - wanted).norm() < 0.1 * wanted.norm()


def test_float32_is_a_sum():
    net, lora, wanted = layer_with_change(1e-4)
    ((name, weight),) = lora(net)
    assert type(weight) is torch.Tensor
    torch.testing.assert_close(weight.detach(), net.get_parameter(name) + wanted)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher")
    tiny.stable_diffusion(path)
    return path


def loras(folder, kind, n: int = 1) -> list[Student]:
    """Students with weights that no training made, on one teacher."""
    teacher, students = Teacher.from_pretrained(folder, dtype=kind), []
    for k in range(n):
        torch.manual_seed(k)
        adaptor = make_adaptor("lora", teacher, 0, 2)
        for _, _, b in adaptor.lora.pairs():
            nn.init.normal_(b, 0, 0.1)
        students.append(Student(teacher, adaptor))
    return students


def answer(student: Student) -> torch.Tensor:
    z = torch.randn(2, *student.teacher.latent_shape, generator=torch.Generator().manual_seed(1))
    cond = [None] * 2 if isinstance(student.adaptor, MultiAdaptor) else None
    return student(z, 500, cond, student.teacher.embed(["", "a cone"])).x.float()


def both(students: list[Student]) -> Student:
    return Student(students[0].teacher, MultiAdaptor([s.adaptor for s in students], [1.0, 0.5]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_networks(folder, kind):
    """One adaptor and two of them, in 16 bits as in float32, to 16 bits."""
    whole, half = loras(folder, torch.float32, 2), loras(folder, kind, 2)
    for a, b in ((whole[0], half[0]), (both(whole), both(half))):
        torch.testing.assert_close(answer(b), answer(a), rtol=0.1, atol=0.1)


def test_gradients(folder):
    """They are the same when activations are computed again, and reach A and B."""
    gradients = []
    for again in (False, True):
        (student,) = loras(folder, torch.bfloat16)
        set_checkpointing([student.teacher.backbone], again)
        student.teacher.backbone.train(again)  # diffusers' networks recompute only then
        answer(student).square().mean().backward()
        gradients.append([p.grad for p in student.adaptor.parameters()])
    assert all(g.abs().sum() > 0 for g in gradients[0])
    for a, b in zip(*gradients):  # to 16 bits: they are summed in another order
        assert (a - b).norm() < 0.05 * a.norm()


@pytest.mark.slow
def test_compiled(folder):
    """`torch.compile` takes weights of this kind."""
    (student,) = loras(folder, torch.bfloat16)
    before = answer(student)
    compile_networks("eager", student.teacher.backbone)
    torch.testing.assert_close(answer(student), before)
