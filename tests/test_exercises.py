"""Every course page ends with three exercises; one asks for code, and its answer is code too."""

import ast
import re

import nbformat
import pytest
from notebook import notebooks, short

PAGES = [p for p in notebooks() if "nbs/course/" in short(p)]
ASKED = re.compile(r"^(\w+) = None  # your code", re.M)


def exercises(page) -> tuple[list[str], str]:
    """The code cells that ask for code, and the text of the exercises with their answers.

    The other code cells of the exercises are prepared: a line of them is changed and run again.
    """
    cells = nbformat.read(page, 4).cells
    first = next(i for i, c in enumerate(cells) if "## Exercises" in c.source)
    asking = [c.source for c in cells[first:] if c.cell_type == "code" and ASKED.search(c.source)]
    return asking, "\n".join(c.source for c in cells[first:] if c.cell_type == "markdown")


def answer(text: str) -> str:
    """The code of the first folded answer."""
    folded = re.search(r"<details>.*?</summary>\n\n(.*?)</details>", text, re.S)[1]
    block = re.search(r"```python\n(.*?)```", folded, re.S)
    return block[1] if block else re.search(r"`([^`]+)`", folded)[1]


def names_set(code: str) -> set[str]:
    """The variables that code assigns."""
    nodes = ast.walk(ast.parse(code))
    return {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_three_exercises_and_one_asks_for_code(page):
    asking, text = exercises(page)
    assert re.findall(r"^\*\*(\d)\.\*\*", text, re.M) == ["1", "2", "3"]
    assert text.count("<details>") == text.count("</details>") == 3
    assert len(asking) == 1, "one cell asks for code"
    assert "assert" in asking[0], "the cell checks what the reader wrote"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_the_answer_sets_what_the_cell_asks_for(page):
    (asking,), text = exercises(page)
    code, name = answer(text), ASKED.search(asking)[1]
    if "=" in code.split("\n")[0] or "\n" in code:
        assert name in names_set(code)
    else:
        ast.parse(code, mode="eval")
