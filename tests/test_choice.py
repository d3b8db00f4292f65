"""What `adaptor="auto"` stands for: the task's entry, the run's own, or that of another folder."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import tiny
from training import Bench, saved

from cond_distill import cli
from cond_distill.adaptors.catalogue import make_adaptor
from cond_distill.adaptors.choice import CHOICES, NO_CONTROLNET, UNKNOWN, choose_adaptor
from cond_distill.data.tasks import OWN_PICTURES, TASKS
from cond_distill.student import Student
from cond_distill.teacher import Teacher
from cond_distill.training.checkpoint import checkpoints, saved_config
from cond_distill.training.preflight import preflight
from cond_distill.training.state import chosen, new_run

RESULTS = Path(__file__).parents[1] / "results" / "world2.json"


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("choice"))


def test_every_task_has_an_entry():
    assert set(CHOICES) == set(TASKS) | set(OWN_PICTURES)


@pytest.mark.parametrize("task", CHOICES)
def test_reasons_quote_the_results(task):
    """Each decimal number stands in the rows of this task in the tables of results."""
    if not RESULTS.exists():
        pytest.skip("no results beside the tests")
    tables = json.loads(RESULTS.read_text(encoding="utf-8"))["tables"]
    full = tables["reproduce"].partition(f"**{task}**")[2].partition("\n**")[0]
    short = re.findall(rf"^\| {task} \|.*$", tables["matrix"], re.M)
    numbers = re.findall(r"\d+\.\d+", CHOICES[task].reason)
    rows = short if "120 steps" in CHOICES[task].reason else full.splitlines()
    assert all(any(f" {n} |" in row for row in rows) for n in numbers), numbers


@pytest.mark.parametrize("family, network", [("pixels", "concat"), ("sd3", "controlnet")])
def test_families(family, network, tmp_path):
    """Networks in pixel space have no ControlNet; Stable Diffusion 3 has one."""
    tiny.MAKERS[family](tmp_path)
    teacher = Teacher.from_pretrained(tmp_path)
    choice = choose_adaptor("depth", teacher)
    assert choice.adaptor == network and (choice is NO_CONTROLNET) == (family == "pixels")
    assert choose_adaptor("my_tasks:FOG", teacher).adaptor == network
    assert choose_adaptor("edit", teacher) is CHOICES["edit"] and UNKNOWN.adaptor == "controlnet"


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny.MAKERS)
def test_a_network_of_a_derived_class_is_of_its_family(family, tmp_path):
    """What a teacher can do follows from its family, not from how its network's class is called."""
    tiny.MAKERS[family](tmp_path)
    teacher = Teacher.from_pretrained(tmp_path)
    kind = type(teacher.backbone)
    assert teacher.network_kind == kind.__name__
    adaptor, size = choose_adaptor("depth", teacher).adaptor, 2 * teacher.image_size
    teacher.backbone.__class__ = type("Mine", (kind,), {})
    assert choose_adaptor("depth", teacher).adaptor == adaptor
    make_adaptor(adaptor, teacher, 1, rank=2)
    if kind.__name__ == "UNet2DConditionModel":
        assert teacher.at_size(size).image_size == size


def test_what_is_saved_and_printed(bench, capsys):
    """The name that was taken is in the checkpoint and in the adaptor's file, and is said once."""
    cfg = bench.config("auto", adaptor="auto", steps=2)
    bench.train(cfg, progress=True)
    printed = capsys.readouterr().out
    assert printed.count("adaptor concat: a step costs less") == 1 and "--adaptor" in printed
    about = json.loads((Path(cfg.out) / "cond_distill.json").read_text())
    assert about["adaptor"] == "ConcatAdaptor" and about["config"]["adaptor"] == "concat"
    assert saved(cfg)["config"]["adaptor"] == "concat"
    bench.train(replace(cfg, out=str(bench.folder / "silent"), adaptor="concat"))
    assert "choose" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_keeps_its_adaptor(bench, capsys):
    """A run of an earlier version, whose checkpoint says "controlnet", goes on under "auto"."""
    cfg = bench.config("begun", adaptor="controlnet")
    bench.stop(cfg, 3)
    assert saved_config(Path(cfg.out) / "checkpoints") == asdict(cfg)
    later = replace(cfg, adaptor="auto")
    records = bench.train(later, progress=True)
    assert [record.step for record in records] == [4, 5, 6, 7, 8]
    assert "adaptor controlnet: the run in" in capsys.readouterr().out
    with pytest.raises(ValueError, match="adaptor = 'controlnet' there, 'concat' here"):
        bench.train(replace(cfg, adaptor="concat"))


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over(bench):
    cfg = bench.config("damaged", adaptor="t2i")
    bench.stop(cfg, 4)
    newest, older = checkpoints(Path(cfg.out) / "checkpoints")
    newest.write_bytes(b"no checkpoint")
    assert saved_config(newest.parent)["adaptor"] == "t2i"
    older.unlink()
    assert saved_config(newest.parent) == {}


@pytest.mark.parametrize("method", ["codi", "any_step"])
def test_begin_from_another_adaptor(bench, method):
    """The kind of the folder, whatever input a method has added to it."""
    first = bench.config(f"first {method}", adaptor="t2i", method=method, steps=1)
    bench.train(first)
    run = new_run(bench.config("second", adaptor="auto", init_from=first.out), bench.teacher)
    assert run.cfg.adaptor == run.choice.adaptor == "t2i" and run.method.cfg is run.cfg
    assert type(run.state.student) is Student


def test_begin_from_no_adaptor(bench):
    with pytest.raises(FileNotFoundError, match="holds no adaptor"):
        chosen(bench.config("third", adaptor="auto", init_from=str(bench.folder)), bench.teacher)


@pytest.mark.slow
def test_check_says_it(bench, capsys):
    cfg = bench.config("checked", adaptor="auto", task="colourise", grid_every=0)
    preflight(cfg, bench.teacher)
    assert "adaptor controlnet: a ControlNet follows" in capsys.readouterr().out


def test_help(capsys):
    with pytest.raises(SystemExit):
        cli.main(["distill", "--help"])
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert '"auto": that of `init_from`' in printed and "(default: auto)" in printed
