"""Advice names flags that there are."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import nbformat
from notebook import ROOT, notebooks, short

import cond_distill
from cond_distill import cli
from cond_distill.evaluation import samplers
from cond_distill.experiments import evaluators, teacher_card, toy_renders

PACKAGE = Path(cond_distill.__file__).parent
CONFIGS = [config for _, config in cli.VERBS.values()]
CONFIGS += [
    value
    for module in (evaluators, samplers, teacher_card, toy_renders)
    for value in vars(module).values()
    if isinstance(value, type) and hasattr(value, "__dataclass_fields__")
]
OF_OURS = {"help", "version", "plugin"}
# of accelerate, torchrun, git, pip and uv
OF_OTHERS = {
    "multi-gpu",
    "use-fsdp",
    "always",
    "dirty",
    "index-url",
    "config-file",
    "num-processes",
}
OF_OTHERS |= {"nproc-per-node", "standalone", "filter", "depth", "universal", "python-version"}
OF_OTHERS |= {"extra", "no-annotate", "upgrade", "no-print-directory"}


def flags_in(text: str) -> set[str]:
    """Every --flag of a text."""
    flags = re.findall(r"(?<![\w-])--([a-z][\w-]*)", text)
    return {flag.replace("_", "-") for flag in flags if not flag.endswith("-")}


def flags(file: Path) -> set[str]:
    """Every --flag in the strings of a module."""
    nodes = ast.walk(ast.parse(file.read_text("utf-8")))
    values = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return set().union(*(flags_in(value) for value in values if isinstance(value, str)))


def texts() -> dict[str, str]:
    """Name → text of every page, and of the files that a reader takes commands from."""
    cells_of = {short(p): nbformat.read(p, 4).cells for p in notebooks()}
    pages = {name: "\n".join(cell.source for cell in cells) for name, cells in cells_of.items()}
    others = ("Makefile", "README.md", "CONTRIBUTING.md")
    return pages | {name: (ROOT / name).read_text("utf-8") for name in others}


def known_flags() -> set[str]:
    """Those of the commands, of modules that are run, and of the few other programs."""
    known = {f.name.replace("_", "-") for config in CONFIGS for f in fields(config)}
    return known | {f"no-{name}" for name in known} | OF_OURS | OF_OTHERS


def of_scripts() -> set[str]:
    """Those of the scripts under tools/ and benchmarks/."""
    files = [*(ROOT / "tools").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    return set().union(
        *(re.findall(r'add_argument\(\s*"--([\w-]+)"', f.read_text("utf-8")) for f in files)
    )


def test_every_flag_in_a_string_exists():
    known = known_flags()
    missing = {
        f"{file.relative_to(PACKAGE)}: --{flag}"
        for file in PACKAGE.rglob("*.py")
        for flag in flags(file) - known
    }
    assert not missing, f"no command has these flags: {', '.join(sorted(missing))}"


def test_every_flag_on_a_page_exists():
    known = known_flags() | of_scripts()
    missing = {
        f"{name}: --{flag}" for name, text in texts().items() for flag in flags_in(text) - known
    }
    assert not missing, f"no command has these flags: {', '.join(sorted(missing))}"
