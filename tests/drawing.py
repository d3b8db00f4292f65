"""Small teachers, students and pipelines for the tests: random weights, an adaptor that acts."""

from pathlib import Path

import tiny
import torch

from cond_distill.adaptors.catalogue import make_adaptor
from cond_distill.pipeline import CoDiPipeline
from cond_distill.student import Student
from cond_distill.teacher import Teacher

ABOUT = dict(task="superres_x4", sampler="renoise", sampling_steps=[1, 2, 4, 8])


def teacher(folder: Path, family: str = "sd2") -> Teacher:
    if not (folder / family).exists():
        tiny.MAKERS[family](folder / family)
    return Teacher.from_pretrained(folder / family)


def student(of: Teacher, adaptor: str = "controlnet", seed: int = 0, channels: int = 3) -> Student:
    """A student whose adaptor does something: every parameter is a little off its start."""
    torch.manual_seed(seed)
    student = Student(of, make_adaptor(adaptor, of, channels, rank=2))
    with torch.no_grad():
        for p in student.adaptor.parameters():
            p.add_(0.1 * torch.randn_like(p))
    student.adaptor.requires_grad_(False).eval()
    info = dict(adaptor=type(student.adaptor).__name__, settings=student.adaptor.settings)
    student.about = ABOUT | info | dict(teacher=of.fingerprint(), image_size=of.image_size)
    return student


def saved(of: Teacher, folder: Path, adaptor: str = "controlnet", **changes) -> Path:
    student(of, adaptor).save(folder, **ABOUT | changes)
    return folder


def pipeline(folder: Path, family: str = "sd2", adaptor: str = "controlnet") -> CoDiPipeline:
    pipe = CoDiPipeline.from_student(student(teacher(folder, family), adaptor))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def condition(n: int = 1, seed: int = 7, side: int = tiny.SIDE) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
