"""The demo with four steps: what it writes."""

import json

import pytest
import torch

from cond_distill.experiments import demo as program
from cond_distill.experiments.demo import demo
from cond_distill.options import DemoConfig


@pytest.mark.slow
def test_demo(tmp_path, capsys):
    """Nine rows with every column, a table and a picture; the path of the picture is said."""
    out, cache = str(tmp_path / "demo"), str(tmp_path / "cache")
    rows = demo(DemoConfig(out=out, steps=4, num_examples=32, n=16, cache=cache))
    assert len(rows) == 9
    assert {"FD-texture", "AUC", "AUC ±", "density", "coverage", "captions"} <= rows[1].keys()
    assert {p.name for p in (tmp_path / "demo").iterdir()} >= {"rows.json", "table.md", "demo.png"}
    assert json.loads((tmp_path / "demo" / "rows.json").read_text("utf-8")) == rows
    assert "demo.png" in capsys.readouterr().out


def test_the_baseline_is_called_finetuned(tmp_path, monkeypatch):
    """In the table and in the picture, as on all pages."""
    named: list[str] = []
    monkeypatch.setattr(program, "Teacher", type("T", (), dict(from_pretrained=lambda *_: None)))
    monkeypatch.setattr(program, "Student", type("S", (), dict(load=lambda *_: None)))
    monkeypatch.setattr(program, "load_networks", lambda *_: None)
    monkeypatch.setattr(program, "floor", lambda *_: dict(model="floor"))
    monkeypatch.setattr(program, "held_out", lambda n: {})

    def score(nets, name, student, held, steps, sampler, tick):
        return dict(model=name, sampler="ddim" if sampler == "auto" else sampler), torch.zeros(1)

    monkeypatch.setattr(program, "score", score)
    monkeypatch.setattr(program, "comparison", lambda held, drawn: named.extend(drawn))
    monkeypatch.setattr(program, "save_figure", lambda *_: None)
    cfg = DemoConfig(out=str(tmp_path), n=16)
    rows, held, drawn = program.compare_with_plain(cfg, tmp_path)
    program.write_demo(cfg, rows, held, drawn)
    assert {row["model"] for row in rows} == {"floor", "distilled (this run)", "finetuned"}
    assert [name.split("\n")[0] for name in named].count("finetuned") == 2
