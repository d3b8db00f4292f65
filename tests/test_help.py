"""`--help` explains every flag in words of its own."""

import inspect
import math
import re
from dataclasses import fields
from importlib.metadata import version

import pytest

from cond_distill import cli, options
from cond_distill.adaptors.catalogue import ADAPTORS
from cond_distill.config import MethodConfig, ReproduceConfig, TeachConfig, TrainConfig
from cond_distill.methods.catalogue import EVERY, METHODS
from cond_distill.ranges import RANGES

GROUPS = ("model", "data", "method", "optimisation", "run")
# ranges that are not those of `RANGES`
OTHERS = {
    (TrainConfig, "reader"): (-1, 64),
    (options.CheckConfig, "reader"): (-1, 64),
    (ReproduceConfig, "lr"): (0.0, 10.0),
    (TeachConfig, "lr"): (1e-12, 1.0),
    (options.DemoConfig, "n"): (16, 10_000_000),
    (options.SampleConfig, "n"): (0, 1000),
    (options.SampleConfig, "steps"): (1, 1000),
    (options.EvaluateConfig, "n"): (10, 10_000_000),
    (options.EvaluateConfig, "steps"): (1, 1000),
    (options.PlanConfig, "channels"): (1, 64),
}


def printed(verb: str, capsys) -> str:
    """What `cond-distill verb --help` prints, without the frames."""
    with pytest.raises(SystemExit):
        cli.main([verb, "--help"])
    return re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out)


def help_of(text: str) -> dict[str, str]:
    """Setting → its help, of a page of `--help`."""
    lines_of: dict[str, list[str]] = {}
    for line in text.splitlines():
        if flag := re.match(r" +--([a-z][\w-]*)(.*)", line):
            words = re.split(r"\s{2,}", flag[2], maxsplit=1)
            lines_of[flag[1].replace("-", "_")] = words[1:]
        elif re.match(r" {12,}\S", line) and lines_of:
            lines_of[list(lines_of)[-1]].append(line)
    texts = {name: " ".join(" ".join(parts).split()) for name, parts in lines_of.items()}
    return {name: re.sub(r" ?\((default: |required).*", "", text) for name, text in texts.items()}


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_flag_has_help_of_its_own(verb, capsys):
    known = help_of(printed(verb, capsys))
    assert list(known.keys() - {"help"}) and {f.name for f in fields(cli.VERBS[verb][1])} <= set(
        known
    )
    assert all(known.values()), [name for name, text in known.items() if not text]
    same = [name for name, text in known.items() if list(known.values()).count(text) > 1]
    assert not same, f"these have the same help: {same}"
    riddles = [name for name, text in known.items() if text.startswith(("…", "of ", "on "))]
    riddles += [name for name, text in known.items() if text.endswith("…")]
    assert not riddles, f"help that another flag begins or ends: {riddles}"


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_says_the_range(verb, capsys):
    """The smallest and the largest value of each number, or that there is no largest."""
    known, kind = help_of(printed(verb, capsys)), cli.VERBS[verb][1]
    for name, bounds in RANGES.items():
        low, high = OTHERS.get((kind, name), bounds)
        if name not in known or (kind, name) == (TeachConfig, "size"):
            continue
        ways = {f"{low:g} to {high:.12g}", f"{low:g} or more"} if high > 1e12 else set()
        ways |= {f"{low:g} to {high:.12g}"}
        if 0 < low < 1e-3:
            ways = {f"above 0, at most {high:.12g}", f"above 0, below {high:.12g}", "above 0, in"}
        if math.isclose(high, 10**12):
            ways |= {f"{low:g} or more"}
        assert any(way in known[name] for way in ways), (name, ways, known[name])


@pytest.mark.skipif(version("tyro").startswith("0."), reason="this tyro shows one list of flags")
@pytest.mark.parametrize("verb", ["distill", "check"])
def test_flags_of_a_training_stand_in_five_groups(verb, capsys):
    text = printed(verb, capsys)
    places = [text.find(f"{group} options") for group in GROUPS]
    assert min(places) > 0 and places == sorted(places)
    flags = {"teacher": 0, "task": 1, "z-s": 2, "batch": 3, "seed": 4}
    for flag, group in flags.items():
        at = re.search(rf"\n +--{flag} ", text).start()
        assert places[group] < at < (places + [len(text)])[group + 1]


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_has_an_example(verb, capsys):
    assert f"Try: cond-distill {verb}" in " ".join(printed(verb, capsys).split())


def test_a_training_is_made_of_its_groups():
    words = "distill --lr 0.01 --task edit --no-flip --z-s noise --rank 3 --seed 5".split()
    settings = dict(lr=0.01, task="edit", flip=False, z_s="noise", rank=3, seed=5)
    assert cli.read_words(words) == TrainConfig(**settings)
    checked = cli.read_words(["check", *words[1:]])
    assert checked == options.CheckConfig(**settings) and type(checked) is options.CheckConfig


@pytest.mark.parametrize("wrong", ["--lr nan", "--ramp-start 0.9", "--batch 0", "--z-s truth"])
def test_a_wrong_setting_ends_with_one_sentence(wrong, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["distill", *wrong.split()])
    assert end.value.code == 2
    name = wrong.split()[0].removeprefix("--")
    assert re.search(name.replace("-", "[-_]"), capsys.readouterr().err)


@pytest.mark.parametrize("kind", {config for _, config in cli.VERBS.values()}, ids=str)
def test_no_word_of_the_help_is_cut(kind):
    """A comment that is wrapped at a hyphen is printed as "look- ahead"."""
    cut = re.findall(r"^ *#.*\w-$", inspect.getsource(inspect.getmodule(kind)), re.M)
    assert not cut, cut


def readers() -> dict[str, set[str]]:
    """Setting of a method → the methods that read it, with whatever other settings."""
    with_these = ({}, dict(discriminator=0.1), dict(kernel="exponential"), dict(timesteps="all"))
    readers: dict[str, set[str]] = {f.name: set() for f in fields(MethodConfig)}
    for name, kind in METHODS.items():
        for changes in with_these:
            for setting in kind(TrainConfig(method=name, **changes)).reads() | EVERY:
                readers[setting].add(name)
    return readers


@pytest.mark.parametrize("verb", ["distill", "check"])
def test_help_says_which_methods_read_a_setting(verb, capsys):
    """The last words: 'for method "a"' or 'not for methods "a", "b"'; nothing where all do."""
    known = help_of(printed(verb, capsys))
    said = {}
    for name in readers():
        end = re.search(r'; (not )?for methods? ((?:"\w+"(?:, )?)+)$', known[name])
        named = set(re.findall(r'"(\w+)"', end[2])) if end else set()
        said[name] = named if end and not end[1] else set(METHODS) - named
    assert said == readers()


def test_help_says_which_adaptors_have_no_rank(capsys):
    without = ", ".join(f'"{name}"' for name, kind in ADAPTORS.items() if not kind.has_rank)
    known = help_of(printed("distill", capsys))
    assert known["rank"].endswith(f"; not for adaptors {without}")
