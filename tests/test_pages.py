"""What every page has, wherever it is opened: the install cell, and nothing that surprises."""

import ast
import re

import nbformat
import pytest
from notebook import INSTALL, notebooks, short

from cond_distill.cli import VERBS

PAGES = {short(p): nbformat.read(p, 4).cells for p in notebooks()}
CODE = {name: [c for c in cells if c.cell_type == "code"] for name, cells in PAGES.items()}


def test_every_page_begins_with_the_install_cell():
    lacking = [name for name, code in CODE.items() if code and code[0].source != INSTALL]
    assert not lacking, f"run make clean-notebooks: {', '.join(lacking)}"


@pytest.mark.parametrize("name, installs", [("<google.colab._shell.Shell>", 1), ("<Shell>", 0)])
def test_the_install_cell_installs_on_colab_only(name, installs):
    calls = []

    class Shell:
        """Stands for Jupyter's shell."""

        def __str__(self):
            return name

        def run_line_magic(self, magic, text):
            calls.append(f"{magic} {text}")

    exec(INSTALL, {"get_ipython": Shell})
    assert len(calls) == installs
    assert not any(word in call for call in calls for word in ("torch", "numpy"))


def test_nothing_else_installs():
    others = [
        name
        for name, code in CODE.items()
        for cell in code[1:]
        if re.search(r"^\s*[%!]\s*pip install", cell.source, re.M)
    ]
    assert not others, f"one cell of a page installs, the first: {', '.join(others)}"


def harmless(source: str) -> bool:
    """Does code, run unasked, only import, set constants and run what a variable switches on?"""
    quiet = (ast.Import, ast.ImportFrom, ast.Assign, ast.If, ast.FunctionDef)
    return all(
        isinstance(node, quiet) and not (isinstance(node, ast.Assign) and calls(node))
        for node in ast.parse(source).body
    )


def calls(node: ast.AST) -> bool:
    """Is there a call in this code?"""
    return any(isinstance(n, ast.Call) for n in ast.walk(node))


def test_run_all_starts_nothing_that_our_tests_skip():
    pages = [
        f"{name}, cell {cell.id}"
        for name, code in CODE.items()
        for cell in code
        if re.search(r"^#\|\s*(eval:\s*false|notest|slow|cuda)", cell.source, re.M)
        and not harmless(cell.source)
    ]
    assert not pages, (
        "JupyterLab runs these cells, whatever their flag says; put the work under `if name:` with "
        f"`name = False` above it: {', '.join(pages)}"
    )


@pytest.mark.parametrize("name", [name for name in PAGES if "course/" in name])
def test_course_pages_say_how_long_they_take(name):
    """Minutes to read or to run in the head of each page of the course, as numbers."""
    head = "\n".join(cell.source for cell in PAGES[name][:3])
    assert re.search(r"\*\*(takes|runs in)\*\* (core )?(about |under )?\d+ min", head)


def test_every_page_links_itself_on_colab():
    for path in notebooks():
        text = "\n".join(c.source for c in nbformat.read(path, 4).cells)
        assert path.name == "index.ipynb" or f"/blob/main/{short(path)})" in text, short(path)


def test_the_map_has_the_reading_times_of_the_pages():
    """The table of the map has the core and all minutes of every head, and their sums."""
    text = "\n".join(c.source for c in PAGES["nbs/appendix/map.ipynb"])
    for kind in ("core", "all"):
        shown = [int(n) for n in re.search(rf"^\| {kind} \|(.*)\|$", text, re.M)[1].split("|")]
        assert sum(shown[:-1]) == shown[-1]
        for number, minutes in enumerate(shown[:-1], 1):
            cells = next(c for name, c in PAGES.items() if f"course/{number:02}_" in name)
            stated = re.search(rf"\b{kind} (\d+) min", "\n".join(c.source for c in cells[:3]))
            assert not stated or int(stated[1]) == minutes, f"{kind} of page {number}"


def commands_of(cell) -> tuple[list[str], set[str]]:
    """The stored lines "$ …" of a cell, and the texts of its source that may be behind them."""
    shown = "\n".join(o.get("text", "") for o in cell.outputs)
    stored = re.findall(r"^\$ (?:cond-distill )?(.*\S)", shown, re.M)
    source = re.sub(r"^[%!].*", "", cell.source, flags=re.M)
    constants = [n.value for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Constant)]
    return stored, {str(text).removeprefix("cond-distill ").strip() for text in constants}


@pytest.mark.parametrize(
    "name", [n for n, code in CODE.items() if any("shell(" in c.source for c in code)]
)
def test_stored_commands_are_those_of_the_source(name):
    """The output of another command beside a cell was stored before the cell was changed."""
    for cell in CODE[name]:
        if "shell(" not in cell.source or "def shell" in cell.source:
            continue
        stored, written = commands_of(cell)
        assert stored, f"{name}, cell {cell.id} has no stored command: run it"
        stale = [line for line in stored if line not in written]
        assert not stale, f"{name}, cell {cell.id} was stored for another source: {stale}"
        missing = {text for text in written if text.split(" ")[0] in VERBS} - set(stored)
        assert not missing, f"{name}, cell {cell.id}: nothing is stored of {missing}"
