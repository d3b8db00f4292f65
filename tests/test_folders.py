"""Folders from strangers: every damage is refused by name, before a library opens anything."""

import json
import shutil

import drawing
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from cond_distill.adaptors.scalar_input import LookAheadEmbedded
from cond_distill.folders import read_shapes
from cond_distill.pipeline import CoDiPipeline
from cond_distill.student import Student
from cond_distill.teacher import Teacher

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
ABOUT = "cond_distill.json"
LORA = "pytorch_lora_weights.safetensors"
NET = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folders")
    teacher = drawing.teacher(folder)
    drawing.saved(teacher, folder / "adaptor")
    drawing.saved(teacher, folder / "concat", "concat")
    return folder


def changed(name: str, **entries):
    """Entries of a JSON file get other values; None takes one out."""

    def damage(p):
        content = json.loads((p / name).read_text()) | entries
        (p / name).write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return damage


def setting(**entries):
    def damage(p):
        about = json.loads((p / ABOUT).read_text())
        about["settings"] |= entries
        (p / ABOUT).write_text(json.dumps(about))

    return damage


def written(name: str, content: bytes | str):
    def damage(p):
        content_ = content.encode() if isinstance(content, str) else content
        (p / name).write_bytes(content_)

    return damage


def gone(name: str):
    return lambda p: (p / name).unlink()


def cut(name: str, share: float):
    def damage(p):
        content = (p / name).read_bytes()
        (p / name).write_bytes(content[: int(len(content) * share)])

    return damage


def tensors(name: str, change):
    """The tensors of a file are replaced by what `change` makes of them."""
    return lambda p: save_file(change(load_file(p / name)), p / name)


def without_first(saved: dict) -> dict:
    return dict(list(saved.items())[1:])


def first_is_wider(saved: dict) -> dict:
    name, value = next(iter(saved.items()))
    return saved | {name: torch.cat([value, value])}


def pickled(p):
    torch.save({}, p / "diffusion_pytorch_model.bin")
    (p / NET).unlink()


def indexed(target: str):
    def damage(p):
        (p / NET).rename(p / "other.safetensors")
        index = dict(metadata={}, weight_map={"conv_in.weight": target})
        (p / f"{NET}.index.json").write_text(json.dumps(index))

    return damage


def null_side(p):
    """As the configurations of some models have it."""
    file = p / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | dict(sample_size=None)))


ADAPTORS = {
    "no file about it": (gone(ABOUT), "holds no adaptor"),
    "an empty file about it": (written(ABOUT, ""), "is not JSON"),
    "half of it": (cut(ABOUT, 0.5), "is not JSON"),
    "another encoding": (written(ABOUT, b"\xff\xfe{}"), "is not JSON"),
    "a list": (written(ABOUT, "[1]"), "holds a list"),
    "brackets without end": (written(ABOUT, "[" * 100_000), "is not JSON"),
    "no class": (changed(ABOUT, adaptor=None), "adaptor in .* is None"),
    "a class nobody knows": (changed(ABOUT, adaptor="Gift"), "this version has"),
    "no settings": (changed(ABOUT, settings=None), "settings in .* is None"),
    "settings of another kind": (changed(ABOUT, settings=[1]), "expected an object"),
    "steps that are no list": (changed(ABOUT, sampling_steps="four"), "expected a list"),
    "another teacher": (changed(ABOUT, teacher="0" * 12), "trained on teacher 0000"),
    "a huge rank": (setting(rank=100_000), "^rank is 100000"),
    "a large rank": (setting(rank=3000), "^rank is 3000 in .*, and 2 in the weights"),
    "a negative rank": (setting(rank=-1), "^rank is -1"),
    "a rank that is a word": (setting(rank="two"), "^rank is 'two'"),
    "no low-rank weights": (gone(LORA), f"{LORA} is missing"),
    "low-rank weights of another shape": (tensors(LORA, first_is_wider), "rank is 2"),
    "a low-rank weight without a side": (
        tensors(LORA, lambda saved: saved | {next(iter(saved)): torch.zeros(())}),
        "rank is 2",
    ),
    "a low-rank weight less": (tensors(LORA, without_first), "is missing and|is missing;"),
    "an empty file": (written(LORA, b""), "is damaged"),
    "a pointer": (written(LORA, POINTER), "git-lfs pointer"),
    "an interrupted download": (cut(LORA, 0.9), "is damaged: it ends after"),
    "a header without end": (written(LORA, b"\xff" * 64), "is damaged"),
    "a header of another kind": (written(LORA, b"\x02" + b"\0" * 7 + b"[]"), "is damaged"),
    "no weights of the network": (gone(NET), "holds no safetensors file|lacks|describe"),
    "an interrupted download of them": (cut(NET, 0.5), "is damaged: it ends after"),
    "a weight of the network less": (tensors(NET, without_first), "lacks 1 tensors"),
    "a weight of another shape": (tensors(NET, first_is_wider), "are not what its config"),
    "no configuration": (gone("config.json"), "config.json is missing"),
    "a broken configuration": (written("config.json", "{"), "is not JSON"),
    "a billion layers": (changed("config.json", layers_per_block=10**9), "describes more than"),
    "another width": (changed("config.json", block_out_channels=[8, 8]), "are not what its"),
    "blocks nobody knows": (changed("config.json", down_block_types=["Gift"] * 2), "describes no"),
    "code of its own": (changed("config.json", auto_map={"AutoModel": "m.M"}), "auto_map"),
    "a program": (written("model.py", "raise SystemExit"), "holds a program, model.py"),
    "a pickle": (pickled, "no safetensors file|lacks|describe"),
    "an index that names a pickle": (indexed("diffusion_pytorch_model.bin"), "names '.*bin'"),
    "an index that leads out": (indexed("../x.safetensors"), "names '../x.safetensors'"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ADAPTORS)
def test_damaged_adaptor(name, folder, tmp_path):
    damage, message = ADAPTORS[name]
    shutil.copytree(folder / "adaptor", tmp_path / "adaptor")
    damage(tmp_path / "adaptor")
    with pytest.raises((ValueError, OSError, TypeError), match=message) as caught:
        Student.load(drawing.teacher(folder), tmp_path / "adaptor")
    # our own words, raised here: no traceback of a library
    assert "cond_distill" in str(caught.traceback[-1].path)
    assert len(str(caught.value)) < 700


@pytest.mark.slow
def test_adaptor_in_one_file(folder, tmp_path):
    """An adaptor that keeps all its weights in one file."""
    for damage, message in (
        (tensors("adaptor.safetensors", without_first), "is missing"),
        (tensors("adaptor.safetensors", first_is_wider), "are not what its configuration"),
        (setting(rank=100), "^rank is 100"),
        (setting(colour="red"), "make no ConcatAdaptor"),
    ):
        shutil.copytree(folder / "concat", tmp_path / "concat", dirs_exist_ok=True)
        damage(tmp_path / "concat")
        with pytest.raises(ValueError, match=message):
            Student.load(drawing.teacher(folder), tmp_path / "concat")


SCALAR = "scalar_input.safetensors"
INNER = {
    "no file of the input": (gone(SCALAR), f"{SCALAR} is missing"),
    "an empty file of it": (written(SCALAR, b""), "is damaged"),
    "another shape": (tensors(SCALAR, first_is_wider), "are not what its configuration"),
    "a number for a matrix": (
        tensors(SCALAR, lambda saved: saved | {next(iter(saved)): torch.zeros(())}),
        "are not what its configuration",
    ),
    "no settings inside": (setting(inner_settings=[1]), r"inner_settings in .* is \[1\]"),
    "a huge rank inside": (setting(inner_settings=dict(rank=10**5)), "^rank is 100000"),
    "nothing known inside": (setting(inner="Gift"), "make no LookAheadEmbedded"),
}


@pytest.mark.parametrize("name", INNER)
def test_damaged_any_step_adaptor(name, folder, tmp_path):
    """An adaptor with one more input, which keeps another adaptor inside."""
    damage, message = INNER[name]
    teacher = drawing.teacher(folder)
    inner = drawing.student(teacher, "concat").adaptor
    Student(teacher, LookAheadEmbedded.of(teacher, inner)).save(tmp_path, **drawing.ABOUT)
    damage(tmp_path)
    with pytest.raises((ValueError, OSError), match=message) as caught:
        Student.load(teacher, tmp_path)
    assert "cond_distill" in str(caught.traceback[-1].path)


TEACHERS = {
    "no scheduler": (gone("scheduler/scheduler_config.json"), "scheduler_config.json is missing"),
    "a pointer": (written(f"unet/{NET}", POINTER), "git-lfs pointer"),
    "no tokenizer": (lambda p: shutil.rmtree(p / "tokenizer"), "tokenizer .*is missing"),
    "a broken tokenizer": (written("tokenizer/tokenizer_config.json", "{"), "is not JSON"),
    "a class that is a list": (changed("model_index.json", _class_name=["m", "P"]), "not run"),
    "a part of an unknown library": (changed("model_index.json", unet=["evil", "X"]), "is a X"),
    "a part of another library": (
        changed("model_index.json", unet=["evil", "UNet2DConditionModel"]),
        "of 'evil'",
    ),
    "no side": (changed("unet/config.json", sample_size=0), "sample_size in .* is 0"),
    "a side that is null": (null_side, "sample_size in .* is None"),
    "two sides": (changed("unet/config.json", sample_size=[8, 12]), r"is \[8, 12\]"),
    "a network that is missing": (lambda p: shutil.rmtree(p / "vae"), "vae' is missing"),
    "a program": (written("unet/unet.py", "raise SystemExit"), "holds a program"),
    "attention from the hub": (
        changed("text_encoder/config.json", _attn_implementation="someone/kernels"),
        "remove this entry",
    ),
    "a text encoder of many layers": (
        changed("text_encoder/config.json", num_hidden_layers=10**9),
        "describes more than",
    ),
    "a text encoder of another width": (
        changed("text_encoder/config.json", hidden_size=24),
        "cannot be opened as CLIPTextModel",
    ),
    "a tensor less": (tensors(f"unet/{NET}", without_first), "lacks 1 tensors"),
}


@pytest.mark.parametrize("name", TEACHERS)
def test_damaged_teacher(name, folder, tmp_path):
    damage, message = TEACHERS[name]
    shutil.copytree(folder / "sd2", tmp_path / "teacher")
    damage(tmp_path / "teacher")
    with pytest.raises((ValueError, OSError), match=message) as caught:
        Teacher.from_pretrained(tmp_path / "teacher")
    assert "cond_distill" in str(caught.traceback[-1].path)


def test_sides_as_a_pair(folder, tmp_path):
    shutil.copytree(folder / "sd2", tmp_path / "pair")
    changed("unet/config.json", sample_size=[8, 8])(tmp_path / "pair")
    assert Teacher.from_pretrained(tmp_path / "pair").latent_shape == (4, 8, 8)


def test_mean_of_latents(folder, tmp_path):
    """An autoencoder whose latents have a mean and a spread for each channel."""
    shutil.copytree(folder / "sd2", tmp_path / "means")
    mean, std = [0.5, -1.0, 0.0, 2.0], [2.0, 1.0, 0.5, 4.0]
    changed("vae/config.json", latents_mean=mean, latents_std=std)(tmp_path / "means")
    plain, moved = drawing.teacher(folder), Teacher.from_pretrained(tmp_path / "means")
    images = drawing.condition(2)
    expected = plain.encode(images) / plain.vae.config.scaling_factor
    expected = (expected - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    x = moved.encode(images)
    assert torch.allclose(x, expected * moved.vae.config.scaling_factor, atol=1e-5)
    assert torch.allclose(moved.decode(x), plain.decode(plain.encode(images)), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("change", [dict(scaling_factor=1.0), dict(shift_factor=0.5)])
def test_another_scale_of_the_latents(folder, tmp_path, change):
    """The same weights, and another scaling in the autoencoder's configuration."""
    shutil.copytree(folder / "sd2", tmp_path / "scaled")
    changed("vae/config.json", **change)(tmp_path / "scaled")
    scaled = Teacher.from_pretrained(tmp_path / "scaled")
    assert scaled.fingerprint() == drawing.teacher(folder).fingerprint()
    with pytest.raises(ValueError, match="trained on latents with the scaling.*vae/config.json"):
        Student.load(scaled, folder / "adaptor")
    shutil.copytree(folder / "adaptor", tmp_path / "old")  # of a version that did not write it
    changed(ABOUT, latents=None)(tmp_path / "old")
    Student.load(scaled, tmp_path / "old")


def test_an_adaptor_that_may_not_be_read(folder, monkeypatch):
    """It is not said to be missing."""

    def refuse(file, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(file))

    teacher = drawing.teacher(folder)
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(PermissionError, match="Permission denied: '.*cond_distill.json'"):
        Student.load(teacher, folder / "adaptor")


def test_pickles_are_not_opened(folder, tmp_path):
    """A pipeline of ours in which one network is a pickle: refused, and the pickle not run."""
    drawing.pipeline(folder).save_pretrained(tmp_path / "pipeline")
    vae = tmp_path / "pipeline" / "vae"
    torch.save(load_file(vae / NET), vae / "diffusion_pytorch_model.bin")
    (vae / NET).unlink()
    with pytest.raises(OSError, match="holds no safetensors file"):
        CoDiPipeline.from_pretrained(tmp_path / "pipeline")


def test_shapes_from_the_header(tmp_path):
    saved = {"a": torch.zeros(3, 2), "b": torch.zeros((), dtype=torch.bfloat16)}
    save_file(saved, tmp_path / "x.safetensors")
    assert read_shapes(tmp_path / "x.safetensors") == {"a": (3, 2), "b": ()}


def test_tiny_makers(folder):
    """Every family goes through the door."""
    for family in tiny.MAKERS:
        drawing.teacher(folder, family)
