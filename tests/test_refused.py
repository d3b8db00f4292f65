"""Wrong uses of a command end with one line that says what to do, and never with a traceback."""

import shlex
import sys
from dataclasses import replace

import drawing
import pytest
import torch
from PIL import Image
from training import Bench

from cond_distill import cli
from cond_distill.config import TeachConfig, TrainConfig
from cond_distill.data.scenes import Scenes
from cond_distill.drawing import picture_file
from cond_distill.evaluation.folders import read_pictures, texture_crops
from cond_distill.loss import check_step_size
from cond_distill.model_card import model_card
from cond_distill.opening import find_adaptor
from cond_distill.pipeline import CoDiPipeline
from cond_distill.sampler import draw_images, figure, sample
from cond_distill.schedule import Schedule
from cond_distill.student import compose
from cond_distill.tiles import draw_tiled

OWN = """
import torch

def three(images):
    return images

def failing(images):
    return images["left"]

def wordy(images):
    return "bright"
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("refused"))
    drawing.saved(bench.teacher, bench.folder / "adaptor")
    drawing.pipeline(bench.folder).save_pretrained(bench.folder / "pipe")
    (bench.folder / "own_maps.py").write_text(OWN)
    (bench.folder / "file").write_text("x")
    (bench.folder / "broken").mkdir()
    for k in range(3):
        (bench.folder / "broken" / f"{k}.png").write_bytes(b"no picture")
    Image.new("RGB", (16, 16), "teal").save(bench.folder / "rgb.png")
    sys.path.insert(0, str(bench.folder))
    yield bench
    sys.path.remove(str(bench.folder))


TRAIN = "--teacher F/teacher --workers 0 --num-examples 4 --batch 2 --steps 2 --cache F/c"
TRAIN += " --grid-every 0"
CODI = "--task superres_x4 --method codi"
PHOTOS = f"{TRAIN} --images F/pictures --max-crop-scale 1.5"
COMMANDS = {
    "sample --image ² --out F/x.png": "expected a picture file",
    "sample --scene 3 --out F/x.mpg": "ends in '.mpg'; expected .png",
    "sample --scene 3 --out F/file/x.png": "cannot write into F/file",
    "sample --scene 3 --guidance 0.5 --out F/x.png": "guidance_scale is 0.5",
    "sample --adaptor edit_distilled --image F/rgb.png --caption red --guidance 2 --out F/x.png": (
        "it takes no captions, or always needs its instruction"
    ),
    f"distill {PHOTOS} --out F/a {CODI} --delta 5000": "delta is 5000; expected 1 …",
    f"check {PHOTOS} --out F/a {CODI} --delta 5000": "delta is 5000; expected 1 … 999",
    "plan --model F/teacher --adaptor lora --rank 0": "nothing would be trained",
    "evaluate --drawn F/pictures --images F/pictures --out F/file": "cannot write into F/file",
    f"distill {PHOTOS} --out F/a --task superres_x4 --adaptor lora --rank 0": (
        "nothing would be trained"
    ),
    f"distill {PHOTOS} --out F/a --task inpaint --init-from F/adaptor": (
        "takes conditions of 3 channels, and task 'inpaint' has 4"
    ),
    f"distill {PHOTOS} --out F/a --task superres_x4 --rounds 9": "rounds is 9; expected 1 … steps",
    f"distill {PHOTOS} --out F/a --task superres_x4 --caption-column what": "has no metadata.jsonl",
    f"distill {PHOTOS} --out F/a --task depth --estimator own_maps:three": (
        "expected [4, 1, 16, 16] in [0, 1]"
    ),
    f"distill {PHOTOS} --out F/a --task depth --estimator own_maps:failing": (
        "estimator 'own_maps:failing' failed: TypeError"
    ),
    f"distill {PHOTOS} --out F/a --task depth --estimator own_maps:wordy": "gave a str",
    f"distill {PHOTOS} --out F/a --task superres_x4 --cache F/file": "cannot write into F/file/",
    f"check {PHOTOS} --out F/file --task superres_x4": "cannot write into F/file: File exists",
    f"distill {TRAIN} --images F/broken --out F/a --task superres_x4 --workers 1": (
        "eight unreadable pictures in a row"
    ),
    f"distill {TRAIN} --images F/rgb.png --out F/a --task superres_x4": "rgb.png' is a file",
    # the rest of the line depends on whether `datasets` is installed
    f"distill {TRAIN} --images no_such --out F/a --task superres_x4": "no folder",
    "teach --images F/pictures --size 16 --work F/file": "cannot write into F/file: File exists",
    "teach --images F/pictures --size 16 --work F/w --out F/file": "cannot write into F/file",
    "teach --images F/pictures --size 16 --lr 10": "lr is 10.0; expected a number",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_refused(command, bench, capsys):
    """Exit status 2, the reason, and no traceback of another process or library."""
    place = str(bench.folder)
    with pytest.raises(SystemExit) as end:
        cli.main(shlex.split(command.replace("F/", f"{place}/")))
    printed = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert end.value.code == 2 and "Traceback" not in printed
    assert COMMANDS[command].replace("F/", f"{place}/") in printed, printed
    if "Error parsing" not in printed:  # our own word stands on a line of its own
        assert "cond-distill: " in printed


def test_nothing_is_asked_of_the_hub(bench, monkeypatch):
    """A data set that is no folder is looked for on this machine only, unless it may be fetched."""
    datasets = pytest.importorskip("datasets")
    offline = []

    def load(name):
        offline.append(datasets.config.HF_HUB_OFFLINE)
        raise FileNotFoundError(name)

    monkeypatch.setattr(datasets, "load_dataset", load)
    before = datasets.config.HF_HUB_OFFLINE
    cfg = bench.config("hub", images="someone/pictures")
    for fetch in (False, True):
        with pytest.raises(FileNotFoundError, match="no folder and no data set"):
            bench.train(replace(cfg, fetch=fetch))
    assert offline == [True, before] and datasets.config.HF_HUB_OFFLINE == before


def test_a_saved_pipeline_is_an_adaptor(bench):
    assert find_adaptor(str(bench.folder / "pipe")) == bench.folder / "pipe" / "adaptor"


def test_step_size():
    """Every Δt that a schedule has room for, and none beyond."""
    schedule = Schedule.linear(100)
    for delta in (1, 99):
        check_step_size(delta, schedule)
    for delta in (0, -3, 100, 5000):
        with pytest.raises(ValueError, match=f"delta is {delta}; expected 1 … 99"):
            check_step_size(delta, schedule)


def test_names_of_pictures(tmp_path):
    assert picture_file(str(tmp_path / "new" / "x")).name == "x.png"
    with pytest.raises(ValueError, match="is a folder"):
        picture_file(str(tmp_path))


@pytest.mark.parametrize("message", ["CUDA out of memory. Tried", "can't allocate memory: you"])
def test_memory(message, monkeypatch, capsys):
    """A full GPU or machine: one line with advice. Any other RuntimeError keeps its traceback."""

    def run(words):
        raise RuntimeError(f"{message}\nmore")

    monkeypatch.setattr(cli, "run", run)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["plan"])
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and "smaller --batch" in printed
    monkeypatch.setattr(cli, "run", lambda words: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        cli.main(["plan"])


def test_configurations():
    with pytest.raises(ValueError, match="^rounds is -9"):
        TrainConfig(rounds=-9, steps=8)
    with pytest.raises(ValueError, match="^lr is 1.5"):
        TeachConfig(images="x", lr=1.5)


def test_eight_bit_moments(bench, monkeypatch):
    """Without bitsandbytes the option says what it needs, before the first step."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ValueError, match="needs bitsandbytes .pip install bitsandbytes. and a GPU"):
        bench.train(bench.config("eight", optimizer="adamw8bit"))
    assert not (bench.folder / "eight" / "checkpoints").exists()


def test_card_of_an_any_step_student():
    """Its example draws in few steps, as the student is meant to; a plain denoiser takes 50."""
    about = dict(task="depth", image_size=64, adaptor="x", teacher="0", samplers=[dict(steps=1)])
    assert "num_inference_steps=4)" in model_card("m", about, None, "ddim", 3.0)
    assert "num_inference_steps=50)" in model_card("m", about | dict(samplers=[]), None, "ddim", 3)


NOTHING = {
    "embed": (lambda s: s.teacher.embed([]), "captions is empty"),
    "sample": (lambda s: next(sample(s, [], drawing.condition(0))), "captions is empty"),
    "draw_images": (lambda s: draw_images(s, []), "captions is empty"),
    "of a teacher": (lambda s: draw_images(s.teacher, []), "captions is empty"),
    "pipeline": (
        lambda s: CoDiPipeline.from_student(s)([], image=[]),
        "image is an empty list",
    ),
    "tiles": (lambda s: draw_tiled(s, "", torch.rand(1, 3, 0, 16)), "of at least one pixel"),
    "encode": (lambda s: s.teacher.encode(drawing.condition(0)), "expected one image or more"),
    "compose": (lambda s: compose([]), "students is empty"),
    "figure": (lambda s: figure([]), "rows is empty"),
    "scenes": (lambda s: Scenes("held_out").batch([]), "indices is empty"),
    "crops": (lambda s: texture_crops([]), "pictures is empty"),
}


@pytest.mark.parametrize("call", NOTHING)
def test_nothing_to_draw_is_refused(bench, call):
    """An empty list is named, whatever draws or measures."""
    act, error = NOTHING[call]
    with pytest.raises(ValueError, match=error):
        act(drawing.student(bench.teacher))


def test_a_folder_without_pictures_is_refused(bench):
    (bench.folder / "nothing").mkdir()
    with pytest.raises(ValueError, match="no pictures in .*nothing"):
        read_pictures(bench.folder / "nothing")
