"""The demo with four steps: what it writes."""

import json

import pytest

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
