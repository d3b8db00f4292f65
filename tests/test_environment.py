"""A run is what its settings say: neither accelerate's variables nor the locale change it."""

import ast
from pathlib import Path

import pytest
import tiny
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import cond_distill
from cond_distill.config import TrainConfig
from cond_distill.student import Student
from cond_distill.teacher import Teacher
from cond_distill.trainer import distill_to_end

VARIABLES = dict(
    ACCELERATE_DYNAMO_BACKEND="eager",
    ACCELERATE_GRADIENT_ACCUMULATION_STEPS="4",
    ACCELERATE_MIXED_PRECISION="bf16",
    ACCELERATE_USE_MEGATRON_LM="true",
    ACCELERATE_TORCH_DEVICE="meta",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("environment")
    tiny.MAKERS["sd2"](folder / "teacher")
    tiny.pictures(folder / "pictures")
    return folder


def trained(folder: Path, out: Path) -> dict[str, torch.Tensor]:
    """The weights of an adaptor after two steps, saved and opened again."""
    AcceleratorState._reset_state(True)  # accelerate reads the variables once in a process
    teacher = Teacher.from_pretrained(folder / "teacher")
    cfg = TrainConfig(
        teacher=str(folder / "teacher"),
        images=str(folder / "pictures"),
        task="superres_x4",
        out=str(out),
        cache=str(folder / "cache"),
        steps=2,
        batch=4,
        num_examples=8,
        workers=0,
        grid_every=0,
        rank=2,
    )
    distill_to_end(cfg, teacher, progress=False)
    Student.load(teacher, out)
    return {k: v for file in sorted(out.glob("*.safetensors")) for k, v in load_file(file).items()}


@pytest.fixture(scope="module")
def plain(folder):
    return trained(folder, folder / "plain")


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIABLES)
def test_variables_of_accelerate(name, folder, plain, tmp_path, monkeypatch):
    monkeypatch.setenv(name, VARIABLES[name])
    weights = trained(folder, tmp_path / "other")
    AcceleratorState._reset_state(True)
    assert weights.keys() == plain.keys()
    assert all(torch.equal(weights[k], plain[k]) for k in plain)


def text_without_encoding(source: str) -> list[str]:
    """Calls that open a text file and leave its encoding to the locale: 'line: name'."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        named = {k.arg: k.value for k in node.keywords}
        words = [a for a in [*node.args[1:2], named.get("mode")] if isinstance(a, ast.Constant)]
        binary = any("b" in str(w.value) for w in words)
        plain = dict(read_text=len(node.args) < 1, write_text=len(node.args) < 2)
        plain |= dict(open=isinstance(node.func, ast.Name) and not binary)
        plain |= dict.fromkeys(("run", "Popen", "check_output"), "text" in named)
        if plain.get(name) and "encoding" not in named:
            lines.append(f"{node.lineno}: {name}")
    return lines


def test_every_text_file_names_its_encoding():
    assert text_without_encoding("open('a'); open('a', 'rb'); p.read_text()") == [
        "1: open",
        "1: read_text",
    ]
    package = Path(str(cond_distill.__file__)).parent
    nameless = {
        str(file.relative_to(package)): lines
        for file in sorted(package.rglob("*.py"))
        if (lines := text_without_encoding(file.read_text("utf-8")))
    }
    assert not nameless
