"""Import paths, names and files of earlier versions go on working."""

import json
from importlib import import_module

import tiny
import torch

from cond_distill import _moved
from cond_distill.adaptors.full import FullFinetune
from cond_distill.student import Student
from cond_distill.teacher import Teacher


def test_modules():
    for old, new in _moved.MODULES.items():
        assert import_module(f"cond_distill.{old}") is import_module(f"cond_distill.{new}")


def test_names():
    for module, homes in _moved.NAMES.items():
        for old, home in homes.items():
            place, _, new = home.partition(":")
            found = getattr(import_module(f"cond_distill.{module}"), old)
            assert found is getattr(import_module(f"cond_distill.{place}"), new or old), old


def test_saved_adaptor(tmp_path):
    """A file that calls its adaptor's class by an old name."""
    tiny.stable_diffusion(tmp_path / "teacher")
    teacher = Teacher.from_pretrained(tmp_path / "teacher")
    student = Student(teacher, FullFinetune.from_teacher(teacher))
    torch.nn.init.normal_(student.adaptor.change[0])
    student.save(tmp_path / "student")
    file = tmp_path / "student" / "cond_distill.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | dict(adaptor="Backbone")))
    again = Student.load(teacher, tmp_path / "student")
    assert torch.equal(again.adaptor.change[0], student.adaptor.change[0])
