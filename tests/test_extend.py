"""A task, an adaptor, a method and a teacher family of somebody else, outside of the package.

They are the files that the guide `extend` writes.
"""

import os
import subprocess
import sys
from pathlib import Path

import drawing
import nbformat
import pytest
import tiny
import torch
from diffusers import LDMPipeline, UNet2DModel, VQModel

from cond_distill import cli
from cond_distill.adaptor import Adaptor
from cond_distill.adaptors.catalogue import adaptor_classes, make_adaptor
from cond_distill.adaptors.lora import LoRAAdaptor
from cond_distill.config import TrainConfig
from cond_distill.data.tasks import better
from cond_distill.extensions import find, import_modules
from cond_distill.sampler import draw_images
from cond_distill.student import Student
from cond_distill.teacher import Teacher
from cond_distill.trainer import distill

GUIDE = Path(__file__).parents[1] / "nbs" / "guides" / "extend.ipynb"
MAGIC = "%%writefile "
PARTS = dict(
    task="my_task:MOSAIC", adaptor="my_adaptor:MiddleAdaptor", method="my_method:SharpCoDi"
)


@pytest.fixture(scope="module", autouse=True)
def parts(tmp_path_factory):
    """A folder with the guide's files, which Python finds."""
    folder = tmp_path_factory.mktemp("parts")
    for cell in nbformat.read(GUIDE, 4).cells:
        if cell.source.startswith(MAGIC):
            name, _, text = cell.source.removeprefix(MAGIC).partition("\n")
            (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder


def configuration(folder: Path, **changes) -> TrainConfig:
    tiny.pictures(folder / "pictures")
    small = dict(
        steps=2, batch=2, rank=2, num_examples=8, workers=0, grid_every=0, max_crop_scale=1.5
    )
    places = dict(out=folder / "out", cache=folder / "cache", images=folder / "pictures")
    return TrainConfig(
        **{k: str(v) for k, v in places.items()}, teacher=str(folder / "teacher"), **small | changes
    )


def flags(cfg: TrainConfig) -> list[str]:
    """What is typed for a configuration."""
    usual = vars(TrainConfig())
    changed = {k: v for k, v in vars(cfg).items() if v != usual[k]}
    return [word for k, v in changed.items() for word in (f"--{k.replace('_', '-')}", str(v))]


def test_short(parts):
    """Each in under 60 lines."""
    lines = [len(file.read_text().splitlines()) for file in parts.glob("*.py")]
    assert len(lines) == 4 and max(lines) < 60


@pytest.mark.slow
@pytest.mark.parametrize("parts", [["task"], ["adaptor"], ["method"], [*PARTS]])
def test_trains_and_draws(tmp_path, parts):
    """One part beside the package's others, and all together."""
    tiny.stable_diffusion(tmp_path / "teacher")
    cfg = configuration(tmp_path, **dict(task="edges") | {k: PARTS[k] for k in parts})
    records = list(distill(cfg, progress=False))
    assert len(records) == 2
    assert all((r.extra > 0) == ("method" in parts) for r in records)  # the term of the method
    student = Student.load(Teacher.from_pretrained(cfg.teacher), cfg.out)
    cond = torch.rand(1, student.adaptor.channels, tiny.SIDE, tiny.SIDE)
    assert draw_images(student, [""], cond, steps=2).shape == (1, 3, tiny.SIDE, tiny.SIDE)


def test_family(tmp_path):
    """An unconditional latent model, which the package does not open by itself."""
    import_modules("my_family:")
    networks = dict(
        vqvae=VQModel(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            num_vq_embeddings=16,
        ),
        unet=UNet2DModel(
            sample_size=tiny.SIDE // 2,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
            norm_num_groups=4,
        ),
    )
    networks = {k: tiny.draw_weights(net, 1) for k, net in networks.items()}
    scheduler = tiny.ddim_scheduler("epsilon")
    LDMPipeline(**networks, scheduler=scheduler).save_pretrained(tmp_path / "teacher")
    cfg = configuration(tmp_path, task="superres_x4", adaptor="concat")
    assert len(list(distill(cfg, progress=False))) == 2
    teacher = Teacher.from_pretrained(cfg.teacher)
    assert type(teacher) is sys.modules["my_family"].LatentTeacher
    student = Student.load(teacher, cfg.out)
    cond = torch.rand(1, 3, tiny.SIDE, tiny.SIDE)
    assert draw_images(student, [""], cond, steps=2).shape == cond.shape


@pytest.mark.slow
def test_command_line(tmp_path, parts):
    """Typed by a stranger, whose modules are in the working folder; the student names them."""
    tiny.stable_diffusion(tmp_path / "teacher")
    cfg = configuration(tmp_path, **PARTS)
    command = [str(Path(sys.executable).with_name("cond-distill"))]

    def shell(*words):
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        return subprocess.run(
            command + list(words), cwd=parts, env=env, capture_output=True, text=True
        )

    run = shell("distill", *flags(cfg))
    assert run.returncode == 0, run.stderr
    picture, drawn = tmp_path / "pictures" / "00.png", tmp_path / "drawn.png"
    draw = ["sample", "--adaptor", cfg.out, "--image", str(picture), "--fit", "--out", str(drawn)]
    refused = shell(*draw)
    assert refused.returncode == 2 and "--plugin" in refused.stderr, refused.stderr
    run = shell("--plugin", "my_task", "--plugin", "my_adaptor", *draw)
    assert run.returncode == 0 and drawn.is_file(), run.stderr


def test_files_import_nothing(tmp_path, monkeypatch):
    """A file that names a module of a stranger does not run it."""
    monkeypatch.chdir(tmp_path)
    Path("harmful.py").write_text("open('harm', 'w').close()")
    for name in ("harmful:TASK", "os:system", "json:NOTHING"):
        with pytest.raises(ValueError, match=name):
            find(name, {}, "task", dict)
    with pytest.raises(ValueError, match="no module 'no_such_module'"):
        import_modules("no_such_module:TASK")
    assert not Path("harm").exists()


def test_a_class_named_like_one_of_the_package(tmp_path, monkeypatch):
    """It neither replaces that one where files are opened, nor is it trained under its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Adaptor, "kinds", dict(Adaptor.kinds))
    code = "from cond_distill.adaptor import Adaptor\nclass {0}(Adaptor):\n    pass\n"
    for name in ("LoRAAdaptor", "Backbone"):  # the second stands in earlier files
        Path(f"own_{name.lower()}.py").write_text(code.format(name))
        import_modules(f"own_{name.lower()}:{name}")
        assert adaptor_classes()["LoRAAdaptor"] is Adaptor.kinds["LoRAAdaptor"] is LoRAAdaptor
        with pytest.raises(ValueError, match=f"{name} is the name of a class of this package"):
            make_adaptor(f"own_{name.lower()}:{name}", drawing.teacher(tmp_path), 1)


def test_plugin_words(tmp_path, monkeypatch):
    """`--plugin` is taken off the command line before the verb is read."""
    monkeypatch.chdir(tmp_path)
    Path("first_plugin.py").write_text("SEEN = True")
    assert cli.import_plugins(["--plugin", "first_plugin", "plan", "--help"]) == ["plan", "--help"]
    assert sys.modules["first_plugin"].SEEN
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--plugin", "no_such_module", "plan"])
    assert stopped.value.code == 2


def test_the_name_of_a_measure_says_what_is_better():
    assert better("mosaic error", 0.1, 0.2) and better("map error", 0.1, 0.2)
    assert better("depth error", 0.1, 0.2) and better("FD-texture", 1.0, 2.0)
    assert better("PSNR", 30.0, 20.0) and not better("overlap", 0.1, 0.2)
