"""Advice names flags that there are."""

import ast
import re
from dataclasses import fields
from pathlib import Path

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
OF_OTHERS = {"multi-gpu", "use-fsdp", "always", "dirty"}  # of accelerate and of git


def flags(file: Path) -> set[str]:
    """Every --flag in the strings of a module."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set(re.findall(r"(?<![\w-])--([a-z][\w-]*)", node.value))
    return {flag.replace("_", "-") for flag in found if not flag.endswith("-")}


def test_every_flag_in_a_string_exists():
    known = {f.name.replace("_", "-") for config in CONFIGS for f in fields(config)}
    known |= {f"no-{name}" for name in known} | OF_OURS | OF_OTHERS
    missing = {
        f"{file.relative_to(PACKAGE)}: --{flag}"
        for file in PACKAGE.rglob("*.py")
        for flag in flags(file) - known
    }
    assert not missing, f"no command has these flags: {', '.join(sorted(missing))}"
