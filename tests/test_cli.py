"""The command line as a person meets it: wrong values, odd terminals, useless results."""

import io
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import cond_distill
from cond_distill import cli, drawing, figures, options
from cond_distill.data.scenes import Scenes
from cond_distill.student import Student
from cond_distill.teacher import ASSETS, Teacher

WRONG = {
    "sample --guidance nan": "guidance is nan; expected a number, 0 … 100",
    "sample --guidance 1e30": "guidance is 1e+30; expected a number, 0 … 100",
    "sample --guidance -1": "guidance is -1.0; expected a number, 0 … 100",
    "sample --steps 0": "steps is 0; expected a whole number, 1 … 1,000",
    "sample --seed -3": "seed is -3; expected a whole number, 0",
    "sample --sampler euler": "auto",
    "sample --image no_such.png": "image is 'no_such.png'; expected a picture file",
    "sample --mask no_such.png": "mask is 'no_such.png'; expected a picture file",
    "evaluate --n 1": "n is 1; expected a whole number, 10 …",
    "evaluate --steps 0 4": "steps is 0; expected a whole number",
    "evaluate --steps 4 4": "each once",
    "evaluate --images no_such_folder": "images is 'no_such_folder'; expected a folder",
    "evaluate --drawn no_such_folder": "drawn is 'no_such_folder'; expected a folder",
    "evaluate --adaptors": "adaptors",
    "demo --n 3": "n is 3; expected a whole number, 16 …",
    "demo --steps 0": "steps is 0; expected a whole number, 1 …",
    "plan --memory nan": "memory is nan; expected a number",
    "plan --adaptor adapter": "controlnet",
    "plan --channels 0": "channels is 0; expected a whole number",
}


def status(command: str) -> int:
    """The exit status of a command line."""
    try:
        cli.main(command.split())
    except SystemExit as end:
        return end.code or 0
    return 0


def shell(*command: str, **env: str) -> subprocess.CompletedProcess:
    """The command in a process of its own, with these environment variables."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONUTF8", "PYTHONIOENCODING")}
    words = [sys.executable, "-m", "cond_distill", *command]
    return subprocess.run(words, capture_output=True, env=inherited | env)


@pytest.mark.parametrize("command", WRONG)
def test_wrong_values_are_refused_before_any_work(command, capsys, monkeypatch):
    """Exit status 2, what was given and what is expected; nothing is opened."""

    def opened(*args, **kwargs):
        raise AssertionError("a teacher was opened")

    monkeypatch.setattr(Teacher, "from_pretrained", opened)
    assert status(command) == 2
    printed = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert WRONG[command] in printed


def test_version(capsys):
    assert status("--version") == 0
    assert capsys.readouterr().out.strip() == cond_distill.__version__


@pytest.mark.slow
@pytest.mark.parametrize(
    "env",
    [
        dict(PYTHONIOENCODING="latin-1"),
        dict(PYTHONUTF8="0", LC_ALL="C", PYTHONCOERCECLOCALE="0"),
        dict(PYTHONIOENCODING="ascii"),
    ],
    ids=["latin-1", "C", "ascii"],
)
def test_every_terminal_gets_the_whole_help(env):
    """Terminals that cannot print × or … get the same lines in plain letters."""
    modern = shell("sample", "--help", PYTHONIOENCODING="utf-8")
    old = shell("sample", "--help", **env)
    assert old.returncode == 0, old.stderr.decode("latin-1")
    flags = [flag for flag in modern.stdout.decode().split() if re.match(r"--[a-z]", flag)]
    assert flags == [
        flag for flag in old.stdout.decode("latin-1").split() if re.match(r"--[a-z]", flag)
    ]
    wrong = shell("sample", "--guidance", "nan", **env)
    assert wrong.returncode == 2 and b"guidance is nan" in wrong.stderr


def test_other_characters_are_not_lost():
    """A letter in another script stays readable as its code; a file's odd bytes stay themselves."""
    cli.print_anywhere()
    assert "図 ±".encode("ascii", "plain_letters") == b"\\u56f3 +/-"
    assert "a\udcff".encode("utf-8", "plain_letters") == b"a\xff"


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_a_function_and_explains_itself(verb, capsys):
    function, _ = cli.VERBS[verb]
    assert function.__doc__ and status(f"{verb} --help") == 0
    assert f"cond-distill {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("value", [float("nan"), 0.5])
def test_a_useless_picture_is_an_error(value, monkeypatch, tmp_path, capsys):
    """An adaptor that draws NaN or one colour ends with status 2 and leaves no picture."""
    monkeypatch.setattr(
        drawing, "draw_images", lambda *args, **kwargs: torch.full((4, 3, 64, 64), value)
    )
    out = tmp_path / "drawn.png"
    assert status(f"sample --scene 3 --out {out}") == 2 and not out.exists()
    assert "depth_distilled drew" in capsys.readouterr().err


def test_a_measured_number_is_quoted_for_its_own_sampler_only():
    """The step curve in an adaptor's file belongs to its sampler, without guidance."""
    student = Student.load(Teacher.from_pretrained("shipped"), ASSETS / "depth_distilled")
    sampler = student.about["sampler"]
    assert "measured with 4 steps" in drawing.measured_words(student, 4, sampler, 1.0)
    assert drawing.measured_words(student, 4, "consistency", 1.0) == ""
    assert drawing.measured_words(student, 4, sampler, 2.0) == ""
    assert drawing.measured_words(student, 3, sampler, 1.0) == ""


def test_check_ends_with_1_where_an_answer_is_no(monkeypatch, tmp_path):
    """The exit status of `check` is that of its answers."""
    from cond_distill.training import preflight

    monkeypatch.setattr(preflight, "report", lambda checks: "")
    for ok, wanted in ((True, 0), (None, 0), (False, 1)):
        answers = [SimpleNamespace(ok=ok)]
        monkeypatch.setattr(preflight, "preflight", lambda cfg, a=answers: a)
        assert status(f"check --out {tmp_path}") == wanted


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_an_old_terminal_gets_the_report_of_check(encoding, monkeypatch, tmp_path):
    """Characters that it cannot print come as plain letters; nothing of the report is lost."""
    from cond_distill.training import preflight

    answers = [preflight.Check(f"is {k} fine — × …?", k > 0, "σ² ≤ 1", "x → y") for k in range(3)]
    monkeypatch.setattr(preflight, "preflight", lambda cfg: answers)
    terminal = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(terminal, encoding, write_through=True))
    assert status(f"check --out {tmp_path}") == 1
    printed = terminal.getvalue().decode(encoding)
    assert all(f"is {k} fine" in printed for k in range(3)) and "What to do" in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    "folder", sorted(p.parent.name for p in ASSETS.glob("*/cond_distill.json"))
)
def test_every_shipped_adaptor_draws_for_a_file(folder, tmp_path):
    """A person's own picture, depth map, mask or instruction."""
    scene = Scenes("held_out", size=96)[12]
    drawing.save_picture(scene["image"], tmp_path / "picture.png")
    Image.open(tmp_path / "picture.png").convert("L").save(tmp_path / "depth.png")
    Image.new("L", (96, 96), 255).save(tmp_path / "hole.png")
    task = folder.rsplit("_", 1)[0]
    image = tmp_path / ("depth.png" if task == "depth" else "picture.png")
    flags = {"inpaint": f"--mask {tmp_path / 'hole.png'}", "edit": "--caption red"}.get(task, "")
    command = (
        f"sample --adaptor {folder} --image {image} {flags} --fit --n 1 --out {tmp_path / 'a'}"
    )
    assert status(command) == 0
    assert len(set(Image.open(tmp_path / "a.png").size)) == 1  # the picture alone


@pytest.mark.slow
def test_plan_says_no_with_its_exit_status():
    assert status("plan --model shipped --memory 0.1") == 1


def test_titles_of_a_sheet_fit_their_columns():
    """No title is wider than its picture, and none is cut by the border."""
    cond, images = torch.rand(1, 64, 64), torch.rand(4, 3, 64, 64)
    caption = "a small shiny striped yellow sphere right of a matte green cone on a tiled floor"
    fig = figures.sheet(cond, images, "superres_x4", caption, 4)
    fig.canvas.draw()
    width, height = fig.canvas.get_width_height()
    for ax in fig.axes:
        title, picture = ax.title.get_window_extent(), ax.get_window_extent()
        assert title.width <= picture.width + 8 and 0 <= title.x0 and title.y1 <= height
        assert picture.width > 80  # at 60 dots an inch: 160 in the file
    top = fig._suptitle.get_window_extent()
    assert 0 <= top.x0 and top.x1 <= width and top.y1 <= height


def test_options_load_nothing_heavy():
    code = "import sys, cond_distill.options, cond_distill.cli; print('torch' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout.strip() == "False", process.stderr
    assert options.SampleConfig().guidance == 1.0


@pytest.fixture
def quick_draw(monkeypatch):
    """Pictures without a network."""

    def drawn(student, captions, *args, **kwargs):
        return torch.rand(len(captions), 3, 64, 64)

    monkeypatch.setattr(drawing, "draw_images", drawn)


@pytest.mark.parametrize("flag", ["", "--no-sheet"])
def test_several_pictures_are_also_written_one_by_one(flag, quick_draw, tmp_path):
    """out.png shows all of them with labels; out_0.png … are the pictures themselves."""
    assert status(f"sample --scene 5 --n 3 --out {tmp_path / 'out.png'} {flag}") == 0
    sizes = {f.name: Image.open(f).size for f in sorted(tmp_path.iterdir())}
    sheet = sizes.pop("out.png", None)
    assert sizes == {f"out_{k}.png": (64, 64) for k in range(3)}
    assert (sheet is None) == bool(flag)


def test_a_file_whose_name_is_a_number(quick_draw, tmp_path, monkeypatch, capsys):
    """`--image 5` is the file of that name; without it, scene 5, as in earlier versions."""
    monkeypatch.chdir(tmp_path)
    assert status("sample --image 5 --n 1") == 0
    assert "--scene 5" in capsys.readouterr().out
    Image.new("L", (64, 64), 77).save("5.png")
    os.rename("5.png", "5")
    cfg, task = options.SampleConfig(image="5"), drawing.find_task("depth")
    assert (drawing.read_condition(cfg, task, 64)[0] == 77 / 255).all()
    assert status("sample --image 5 --n 1") == 0
    assert "--scene" not in capsys.readouterr().out
    assert status("sample --image 5 --scene 6") == 2
