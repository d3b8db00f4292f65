"""Every command line that stands in the project is one of today's: it is parsed, and not run."""

import ast
import re
import shlex
import subprocess
from pathlib import Path

import nbformat
import pytest
from notebook import ROOT, notebooks, short

from cond_distill import cli
from cond_distill.adaptors.catalogue import ADAPTORS
from cond_distill.config import OLD_VALUES
from cond_distill.data.tasks import OWN_PICTURES, TASKS
from cond_distill.experiments.jobs import ABLATIONS, COMPARED
from cond_distill.methods.catalogue import METHODS
from cond_distill.teacher import ASSETS

# what begins a command line: the command itself, or the module
COMMAND = re.compile(r"(?:^|[\s(/])(?:cond-distill|-m cond_distill) +(?=[a-z-])(.*)")
ENDS = re.compile(r"\s(?:&&|\|\||[|;&]|#)(?:\s|$)|;|\s>|\s{4,}(?=[a-z])")  # what ends it
SETS = re.compile(r'^(\w+)="([^"]*)"$', re.M)  # a variable of the shell
SHIPPED = {p.parent.name for p in ASSETS.glob("*/cond_distill.json")}
NAMES = dict(  # of settings that are texts and name one of these, beside what is named module:name
    adaptor=ADAPTORS.keys() | {"auto"},
    method=METHODS.keys(),
    task=TASKS.keys() | OWN_PICTURES.keys(),
    tasks=TASKS.keys(),
    methods=COMPARED.keys() | ABLATIONS.keys(),
)
OF_CODE = {"VERB", "MODULE"}  # placeholders that stand where a verb or a module stands
WRONG = {"check --task sketch --out wrong"}  # stands there to show what is refused


def in_shell(text: str) -> list[str]:
    """The command lines of a piece of shell, without the command's name."""
    text = text.replace("\\\n", " ")
    variables = dict(SETS.findall(text))
    text = re.sub(r"\$(\w+)", lambda m: variables.get(m[1], m[0]), text)
    lines = [m[1] for line in text.splitlines() if (m := COMMAND.search(line))]
    return [ENDS.split(f"{line} ")[0].replace("…", " ").strip() for line in lines]


def in_markdown(text: str) -> list[str]:
    """Those of fenced blocks and of `words` between backticks."""
    blocks = re.findall(r"^```(?:sh|bash|console)?\n(.*?)^```", text, re.M | re.S)
    words = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    return [line for part in blocks + words for line in in_shell(part)]


def in_code(source: str) -> list[str]:
    """Those of the cells that call a function `shell`, and of lines that begin with !."""
    lines = [line for row in re.findall(r"^!(.*)", source, re.M) for line in in_shell(row)]
    if "shell(" not in source or source.startswith(("%%", "!")):
        return lines
    for node in ast.walk(ast.parse(re.sub(r"^[!%].*", "", source, flags=re.M))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "shell":
            line = node.args[0].value if isinstance(node.args[0], ast.Constant) else ""
            bare = line.split(" ")[0] in cli.VERBS or line.startswith("--plugin")
            lines += [line] if bare else in_shell(line)
    return lines


def of_makefile() -> list[tuple[str, str]]:
    """What `make` would run, target by target."""
    text = (ROOT / "Makefile").read_text("utf-8")
    targets = re.findall(r"^([a-z-]+):.*## ", text, re.M)
    lines = []
    for target in targets:
        command = ["make", "--no-print-directory", "-n", target]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        lines += [(f"make {target}", line.replace("$r", "0")) for line in in_shell(run.stdout)]
    return lines


def of_pages() -> list[tuple[str, str]]:
    """Those of every notebook and Markdown file."""
    lines = []
    for path in notebooks():
        for cell in nbformat.read(path, 4).cells:
            find = in_markdown if cell.cell_type == "markdown" else in_code
            lines += [(short(path), line) for line in find(cell.source)]
    for name in ("README.md", "CONTRIBUTING.md"):
        lines += [(name, line) for line in in_markdown((ROOT / name).read_text("utf-8"))]
    return lines


def of_help() -> list[tuple[str, str]]:
    """The examples at the end of each verb's help, and those of the command's own."""
    commands = [("--help", line) for line in in_shell(cli.DESCRIPTION)]
    for verb, (_, config) in cli.VERBS.items():
        example = re.split(r"Try:|, or,?", config.__doc__, maxsplit=0)[1:]
        lines = [" ".join(part.split()) for part in example]
        commands += [(f"{verb} --help", line) for part in lines for line in in_shell(part)]
    return commands


ALL = {
    (where, line)
    for where, line in [*of_makefile(), *of_pages(), *of_help()]
    if line and line not in WRONG
}


@pytest.fixture(autouse=True)
def files_are_there(monkeypatch):
    """Files and folders of a command line need not be there."""
    for name in ("is_file", "is_dir"):
        monkeypatch.setattr(Path, name, lambda self: True)


def settings(words: list[str]) -> dict:
    """Flag → values, of the words behind a verb."""
    settings: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            values = settings.setdefault(flag[2:].replace("-", "_"), [])
            values += [value] if equals else []
        elif settings:
            settings[list(settings)[-1]].append(word)
    return settings


def check(line: str, folders: set[str]) -> None:
    """Refuse a command line that today's parser does not take, or that says old names."""
    words = shlex.split(line)
    while words[:1] == ["--plugin"]:
        words = words[2:]
    if not words or words[0] in OF_CODE or words[0] in ("--version", "--help"):
        return
    assert words[0] in cli.VERBS, f"no verb {words[0]!r}"
    old = [w for w, new in zip(words, cli.todays_words(words)) if new != w]
    assert not old, f"{old} are names of earlier versions"
    if "--help" in words:
        return
    flags = settings(words[1:])
    cli.read_words(words)
    for name, values in flags.items():
        old = OLD_VALUES.get(name, {}).keys() & set(values)
        assert not old, f"{name} {old} is a name of earlier versions"
        folder = words[0] in ("sample", "evaluate", "play") and name in ("adaptor", "adaptors")
        known = SHIPPED | folders if folder else NAMES.get(name)
        for value in values if known else []:
            of_user = ":" in value or value.isupper() or value.startswith("my_") or "/" in value
            assert value in known or of_user, f"{name} is {value}; there are {', '.join(known)}"


@pytest.mark.parametrize("where, line", sorted(ALL))
def test_a_command_line_is_one_of_today(where, line):
    folders = {
        word for place, other in ALL if place == where for word in re.findall(r"--out (\S+)", other)
    }
    try:
        check(line, folders)
    except SystemExit:
        raise AssertionError(f"{where}: the parser refuses: cond-distill {line}") from None


def test_command_lines_are_found_everywhere():
    """A page whose commands are not seen would be tested for nothing."""
    where = {place for place, _ in ALL}
    assert {"make ablations", "make adaptors", "make photos", "README.md"} <= where
    assert {f"nbs/guides/{name}.ipynb" for name in ("first_hour", "extend", "your_images")} <= where
    assert len(ALL) > 60


@pytest.mark.parametrize(
    "line",
    [
        "reproduce --part 0.5",
        "reproduce --methods 'no agreement'",
        "distill --scenes 8",
        "distill --task superres_x5",
        "distill --adaptor controlled",
        "distill --method agreement_only",
        "evaluate --methods ddim",
        "evaluate --samplers euler",
        "sample --adaptor no_such_adaptor",
        "distil --steps 3",
        "demo --no-such-flag",
    ],
)
def test_wrong_command_lines_are_noticed(line):
    with pytest.raises((AssertionError, SystemExit)):
        check(line, set())
