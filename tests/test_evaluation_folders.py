"""Pictures in folders: any size, pairs by name, broken files, and the report of the command."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from cond_distill import cli
from cond_distill.data.images import Photos
from cond_distill.data.scenes import Scenes
from cond_distill.drawing import save_picture
from cond_distill.evaluation import folders, report
from cond_distill.evaluation.damage import blur
from cond_distill.evaluation.texture import load_texture
from cond_distill.options import EvaluateConfig
from cond_distill.student import Student
from cond_distill.teacher import ASSETS, Teacher

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Folders of pictures of two sizes: real, the same ones blurred, and others."""
    root = tmp_path_factory.mktemp("pictures")
    scenes = [Scenes("held_out", size=size) for size in (48, 80)]
    for k in range(12):
        real, other = scenes[k % 2][k]["image"], scenes[k % 2][100 + k]["image"]
        for name, picture in (("real", real), ("blurred", blur(real[None], 1.0)[0])):
            (root / name).mkdir(exist_ok=True)
            save_picture(picture, root / name / f"{k:02}.png")
        (root / "other").mkdir(exist_ok=True)
        save_picture(other, root / "other" / f"other{k:02}.png")
        (root / "blurred" / f"{k:02}.txt").write_text("a scene", encoding="utf-8")
    (root / "real" / "broken.png").write_bytes(b"no picture")
    return root


def test_a_broken_file_is_named_and_left_out(places, capsys):
    pictures = folders.read_pictures(places / "real")
    assert len(pictures.images) == 12 and "1 unreadable" in capsys.readouterr().out
    assert pictures.names[0] == "00" and {x.shape[-1] for x in pictures.images} == {48, 80}


def test_pairs_are_found_by_name(places):
    real, blurred, other = (
        folders.read_pictures(places / name) for name in ("real", "blurred", "other")
    )
    matched = folders.pair_up(blurred, real)
    assert matched.names == blurred.names and folders.pair_up(other, real) is None
    net = load_texture()
    rows = [folders.measure_pictures(net, x, matched.images) for x in (real.images, blurred.images)]
    assert rows[0]["PSNR"] == 100 and rows[0]["FD-texture"] < 1e-6
    assert rows[1]["PSNR"] < 40 and rows[1]["FD-texture"] > 10
    assert "PSNR" not in folders.measure_pictures(net, other.images, real.images, paired=False)


def test_pairs_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="64 × 64 pixels and the real one 32 × 48"):
        folders.pair_columns(load_texture(), [torch.rand(3, 64, 64)], [torch.rand(3, 48, 32)])


def test_drawn_folders_from_the_command_line(places, tmp_path, capsys):
    """Table, rows and sheet are written; what this machine cannot measure is said."""
    drawn = f"{places / 'blurred'} {places / 'other'}"
    cli.main(f"evaluate --images {places / 'real'} --drawn {drawn} --out {tmp_path}".split())
    printed = capsys.readouterr().out
    assert "pairs, by name" in printed and "compared as two sets" in printed
    rows = json.loads((tmp_path / "rows.json").read_text("utf-8"))
    assert "PSNR" in rows[0] and "PSNR" not in rows[1]
    assert rows[0]["AUC"] > 0.9 and {"AUC ±", "density", "coverage"} <= rows[0].keys()
    assert {p.name for p in tmp_path.iterdir()} == {"rows.json", "table.md", "sheet.png"}


def test_adaptors_on_a_folder(places, tmp_path):
    """An adaptor for photographs draws for crops of the folder's pictures."""
    flags = "--adaptors photos_superres_distilled --steps 1 2 --n 10"
    cli.main(f"evaluate --images {places / 'blurred'} {flags} --out {tmp_path}".split())
    rows = json.loads((tmp_path / "rows.json").read_text("utf-8"))
    assert [row["steps"] for row in rows] == [1, 2]
    assert {"FD-texture", "PSNR", "SSIM", "shrunk PSNR", "s/image"} <= rows[0].keys()
    assert {p.name for p in tmp_path.iterdir()} == {
        *("rows.json", "table.md", "sheet.png", "curve.png")
    }


def changed_adaptor(folder, name, **config):
    """A shipped adaptor of scenes whose file says another training."""
    shutil.copytree(ASSETS / name, folder)
    about = json.loads((folder / "cond_distill.json").read_text("utf-8"))
    about["config"] |= config
    (folder / "cond_distill.json").write_text(json.dumps(about), "utf-8")
    return folder


def inverted(images):
    """An estimator: the negative of a grey picture, for the task depth."""
    return 1 - images.mean(1, keepdim=True)


def test_an_adaptor_with_an_estimator_on_a_folder(places, tmp_path, monkeypatch):
    """Its conditions are those of its training: the estimator stands in its file."""
    estimator = dict(estimator=f"{__name__}:inverted", images="mine")
    folder = changed_adaptor(tmp_path / "adaptor", "depth_distilled", **estimator)
    flags = f"--adaptors {folder} --steps 1 --n 10 --out {tmp_path / 'out'}"
    cli.main(f"evaluate --images {places / 'real'} {flags}".split())
    (row,) = json.loads((tmp_path / "out" / "rows.json").read_text("utf-8"))
    assert {"map error", "FD-texture"} <= row.keys()
    held = report.folder_examples(places / "real", task_of_student(folder, places), 64, 2)
    assert torch.allclose(held["cond"], inverted(held["image"]))


def task_of_student(folder, places):
    student = Student.load(Teacher.from_pretrained("shipped"), folder)
    return report.task_of_student(student, str(places / "real"))


def test_an_adaptor_without_an_estimator_wants_pairs(places, tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(f"evaluate --adaptors depth_distilled --images {places / 'real'}".split())
    printed = capsys.readouterr().err
    assert "trained without an estimator" in printed and "estimator=" not in printed


def test_an_adaptor_of_pictures_wants_pictures(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(f"evaluate --adaptors photos_superres_distilled --out {tmp_path}".split())
    printed = capsys.readouterr().err
    assert "was trained on pictures" in printed and "--images FOLDER" in printed


def test_an_adaptor_of_pictures_of_the_size_of_scenes_wants_pictures(tmp_path, capsys):
    folder = changed_adaptor(tmp_path / "mine", "superres_x4_distilled", images="photos")
    with pytest.raises(SystemExit):
        cli.main(f"evaluate --adaptors {folder} --out {tmp_path / 'out'}".split())
    printed = capsys.readouterr().err
    assert "mine was trained on pictures" in printed and "--images FOLDER" in printed


@pytest.fixture(scope="module")
def differently_cut(tmp_path_factory):
    """Adaptors whose trainings cut crops differently: (their folders, opened)."""
    tmp = tmp_path_factory.mktemp("cut")
    settings = dict(usual={}, plain=dict(flip=False), close=dict(max_crop_scale=1.5))
    folders = {
        name: changed_adaptor(tmp / name, "superres_x4_distilled", images="photos", **config)
        for name, config in settings.items()
    }
    teacher = Teacher.from_pretrained("shipped")
    return folders, {name: Student.load(teacher, folder) for name, folder in folders.items()}


@pytest.mark.parametrize("order", [("usual", "plain", "close"), ("close", "plain", "usual")])
def test_examples_are_cut_as_those_of_the_training(places, differently_cut, monkeypatch, order):
    """Whatever the order of the adaptors, each is measured on examples of its own settings."""
    folders, students = differently_cut
    asked = {}

    def add_adaptor(shown, name, student, held, *_):
        asked[name] = held["image"]

    monkeypatch.setattr(report, "add_adaptor", add_adaptor)
    monkeypatch.setattr(report, "open_adaptor", lambda name, *_: students[Path(name).name])
    names = tuple(str(folders[name]) for name in order)
    cfg = EvaluateConfig(adaptors=names, images=str(places / "real"), n=10, steps=(1,))
    titles = [made.title for made in report.evaluate_adaptors(cfg, None)]
    assert titles == ["superres_x4", "superres_x4_2", "superres_x4_3"]
    for name, cut in dict(
        usual=dict(), plain=dict(flip=False), close=dict(max_crop_scale=1.5)
    ).items():
        want = Photos(places / "real", "superres_x4", 64, "all", 10, **cut).batch(range(10))
        assert torch.equal(asked[name], want["image"]), name
    assert not torch.equal(asked["usual"], asked["plain"])


def test_a_module_that_a_file_names_is_not_imported(places):
    student = Student.load(Teacher.from_pretrained("shipped"), ASSETS / "depth_distilled")
    student.about["config"] = dict(student.about["config"], estimator="this:s")
    with pytest.raises(ValueError, match="if you trust that module"):
        report.task_of_student(student, str(places / "real"))
