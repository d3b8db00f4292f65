"""Import paths, names and files of earlier versions go on working."""

import json
from dataclasses import asdict, fields, replace
from importlib import import_module
from pathlib import Path

import drawing
import pytest
import tiny
import torch

from cond_distill import _moved
from cond_distill.adaptors.full import FullFinetune
from cond_distill.cli import read_words
from cond_distill.config import OLD_NAMES, ReproduceConfig, TrainConfig
from cond_distill.opening import find_adaptor
from cond_distill.pipeline import CoDiPipeline
from cond_distill.sampler import LookAhead, Sampler, pick_sampler, saved_sampler
from cond_distill.student import Student
from cond_distill.student_file import StudentInfo
from cond_distill.teacher import Teacher
from cond_distill.training.resume import OtherRun, check_same_settings


def test_modules():
    for old, new in _moved.MODULES.items():
        assert import_module(f"cond_distill.{old}") is import_module(f"cond_distill.{new}")


def test_names():
    for module, homes in _moved.NAMES.items():
        assert homes
        for old, (place, new) in _moved.homes_of(module).items():
            by_old_name = getattr(import_module(f"cond_distill.{module}"), old)
            assert by_old_name is getattr(import_module(f"cond_distill.{place}"), new), old


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


def test_saved_pipeline(tmp_path):
    """A folder whose adaptor is a part of `cond_distill.pipeline`, where its class once was."""
    drawing.pipeline(tmp_path).save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved" / "model_index.json"
    parts = json.loads(file.read_text())
    assert parts["adaptor"] == ["cond_distill.pipeline_parts", "PipelineAdaptor"]
    parts["adaptor"][0] = "cond_distill.pipeline"
    file.write_text(json.dumps(parts))
    assert CoDiPipeline.from_pretrained(tmp_path / "saved").adaptor.about["task"] == "superres_x4"


def test_saved_pipeline_with_an_earlier_name_of_its_sampler(tmp_path):
    """Opened and saved again it is drawn as before."""
    drawing.pipeline(tmp_path).save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved" / "adaptor" / "cond_distill.json"
    about = json.loads(file.read_text())
    about.pop("sampler", None)
    file.write_text(json.dumps(about | dict(method="consistency")))
    CoDiPipeline.from_pretrained(tmp_path / "saved").save_pretrained(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "adaptor" / "cond_distill.json").read_text())
    assert StudentInfo.of(again).sampler == "renoise"


def test_settings():
    """Earlier names of settings: as arguments, attributes, flags, and in a changed copy."""
    cfg = TrainConfig(scenes=8, look_ahead=300.0, recolour=True)
    assert cfg == TrainConfig(num_examples=8, max_look_ahead=300.0, channel_shuffle=True)
    assert replace(cfg, max_crop_scale=2.0).zoom == 2.0 and cfg.precision == "no"
    with pytest.raises(AttributeError, match="no 'lookahead'"):
        cfg.lookahead  # noqa: B018
    words = "distill --scenes 8 --look-ahead=300 --recolour --no-checkpointing".split()
    assert read_words(words) == cfg
    assert TrainConfig(preset="agreement_only") == TrainConfig(method="consistency_only")
    old = TrainConfig(preset="any_step", longest=500, instant=0.25, longer=1.0, z_s="instant")
    assert old == TrainConfig(
        method="any_step", max_jump=500, plain_fraction=0.25, jump_power=1.0, z_s="plain"
    )
    assert TrainConfig(told="backbone").conditioning == "backbone"
    assert TrainConfig(method="balanced", adaptor="backbone") == TrainConfig(
        method="codi", adaptor="full"
    )
    assert TrainConfig(data="pixels", clip=2.0) == TrainConfig(
        data_distance="pixels", max_grad_norm=2.0
    )
    assert ReproduceConfig(part=0.5) == ReproduceConfig(budget_fraction=0.5)
    known = {f.name for kind in (TrainConfig, ReproduceConfig) for f in fields(kind)}
    assert set(OLD_NAMES.values()) <= known


def test_an_old_name_beside_the_new_one_is_refused():
    with pytest.raises(ValueError, match="data is the earlier name of data_distance; give"):
        TrainConfig(data="pixels", data_distance="features")
    for words in ("--scenes 8 --num-examples 9", "--num-examples 9 --scenes=8"):
        with pytest.raises(ValueError, match="are names of one setting; give --num-examples"):
            read_words(["distill", *words.split()])


def test_a_value_that_is_no_name_stays():
    """Only values of settings that had other values are renamed."""
    drawn = "sample --caption consistency --adaptor consistency --method consistency".split()
    cfg = read_words(drawn)
    assert (cfg.caption, cfg.adaptor, cfg.sampler) == ("consistency", "consistency", "renoise")
    assert read_words(["sample", "--adaptor=backbone"]).adaptor == "backbone"
    cfg = read_words("evaluate --adaptors consistency codi --samplers ddim consistency".split())
    assert cfg.adaptors == ("consistency", "codi") and cfg.samplers == ("ddim", "renoise")
    cfg = read_words("distill --out backbone --adaptor backbone --z-s instant".split())
    assert (cfg.out, cfg.adaptor, cfg.z_s) == ("backbone", "full", "plain")


def test_a_note_keeps_its_name(tmp_path):
    """What somebody writes beside a student today is read as it was written."""
    tiny.stable_diffusion(tmp_path / "teacher")
    teacher = Teacher.from_pretrained(tmp_path / "teacher")
    student = Student(teacher, FullFinetune.from_teacher(teacher))
    student.save(tmp_path / "student", method="finetune", data="my photographs", scenes=8)
    again = Student.load(teacher, tmp_path / "student")
    assert again.about["method"] == "finetune" and again.about["data"] == "my photographs"
    assert again.about["scenes"] == 8 and StudentInfo.of(again.about).sampler == "ddim"
    assert pick_sampler(again, 4) == Sampler("ddim")


def test_checkpoint_with_old_settings():
    """A checkpoint's configuration under earlier names is that of the same run."""
    new = asdict(TrainConfig(num_examples=8))
    old = {today: name for name, today in OLD_NAMES.items()}
    saved = {old.get(name, name): value for name, value in new.items()}
    assert "scenes" in saved and "num_examples" not in saved
    check_same_settings(TrainConfig(num_examples=8), saved, Path("step_00000001"))
    with pytest.raises(OtherRun, match="num_examples = 8 there, 9 here"):
        check_same_settings(TrainConfig(num_examples=9), saved, Path("step_00000001"))


def test_sampler_and_shipped_folder():
    """Re-noising was called "consistency", and the finetuned adaptors "undistilled"."""
    drawn = read_words("sample --adaptor depth_undistilled --sampler consistency".split())
    assert drawn.sampler == "renoise"
    assert find_adaptor(drawn.adaptor).name == "depth_finetuned"
    assert read_words("evaluate --methods=consistency ddim".split()).samplers == ("renoise", "ddim")
    assert StudentInfo.of(dict(method="consistency")).sampler == "renoise"
    row = dict(steps=1, method="consistency", timesteps=400, of_step=0)
    assert saved_sampler([row], 4) == Sampler("renoise", LookAhead(400, 0))


def test_sampler_of_an_any_step_student():
    """Its earlier name is drawn, too."""

    class Model:
        any_step = True
        about = dict(samplers=[Sampler("ddim", LookAhead(0, 1)).to_row(4)])

    assert pick_sampler(Model, 4, "consistency") == Sampler("renoise")
