"""Models of one's own: finetuned teachers, more guidance than the shipped students bear."""

import warnings

import drawing
import pytest
import torch

from cond_distill.opening import open_adaptor, shared_teacher
from cond_distill.pipeline import CoDiPipeline
from cond_distill.student import Student


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def finetuned(folder):
    """A teacher of the same shape with other weights."""
    teacher = drawing.teacher(folder)
    with torch.no_grad():
        for p in teacher.backbone.parameters():
            p.mul_(-1.0)
    return teacher


def test_much_guidance_warns(folder):
    """Above what was tried, a student draws, and says so; without a caption guidance is refused."""
    pipe = drawing.pipeline(folder)
    with pytest.warns(UserWarning, match="guidance_scale is 7.5; .*distilled without guidance"):
        pipe("", drawing.condition(), guidance_scale=7.5, num_inference_steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pipe("", drawing.condition(), guidance_scale=3.0, num_inference_steps=1)
    with pytest.raises(ValueError, match="takes 1 or more"):
        pipe("", drawing.condition(), guidance_scale=0.5)
    pixels = drawing.pipeline(folder, "pixels", "concat")
    with pytest.raises(ValueError, match="takes 1 .it takes no captions"):
        pixels("", drawing.condition(), guidance_scale=2.0)


@pytest.mark.slow
def test_a_finetuned_teacher_is_taken_if_allowed(folder, finetuned, tmp_path):
    """`strict=False` warns; what is saved afterwards belongs to the new teacher."""
    saved = drawing.saved(drawing.teacher(folder), tmp_path / "adaptor")
    with pytest.raises(ValueError, match="trained on teacher .*--any-teacher"):
        Student.load(finetuned, saved)
    with pytest.warns(UserWarning, match="trained on teacher"):
        student = Student.load(finetuned, saved, strict=False)
    assert student.about["trained_on"] == drawing.teacher(folder).fingerprint()
    CoDiPipeline.from_student(student).save_pretrained(tmp_path / "pipe")
    CoDiPipeline.from_pretrained(tmp_path / "pipe")


def test_a_pipeline_does_not_save_broken_weights(folder, tmp_path):
    """As `Student.save`: NaN is refused."""
    pipe = drawing.pipeline(folder)
    next(pipe.adaptor.inner.parameters()).data.fill_(torch.nan)
    with pytest.raises(ValueError, match="holds NaN"):
        pipe.save_pretrained(tmp_path / "pipe")


@pytest.mark.slow
def test_adaptors_of_one_teacher_share_it(folder, tmp_path):
    """Two open adaptors hold one teacher; a teacher that was written again is opened again."""
    teacher = drawing.teacher(folder)
    names = [str(drawing.saved(teacher, tmp_path / name)) for name in "ab"]
    where = str(folder / "sd2")
    first, second = (open_adaptor(name, where) for name in names)
    assert first.teacher is second.teacher
    assert shared_teacher(where) is first.teacher
    weights = next((folder / "sd2").rglob("*.safetensors"))
    weights.touch()
    assert shared_teacher(where) is not first.teacher
