"""The form of the code: short functions and modules, typed interfaces, nothing said twice."""

import ast
import io
import re
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cond_distill"
LONGEST_LINE, LONGEST_FUNCTION, LONGEST_MODULE, PASSAGE = 100, 40, 400, 6
RENDERER = "cond_distill/data/render.py"  # one scene needs many numbers
GENERATED = {"_modidx.py"}
NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def written(file: Path) -> str:
    """The Python that somebody wrote in a file: of a notebook, the cells that are not exported."""
    if file.suffix == ".ipynb":
        cells = [c.source for c in nbformat.read(file, 4).cells if c.cell_type == "code"]
        text = "\n\n".join(c for c in cells if not c.startswith("#| export"))
        return "\n".join(s for s in text.splitlines() if not s.startswith(("%", "!")))
    text = file.read_text()
    if PACKAGE in file.parents and "# %% " in text:
        # without the head and the list of names, which nbdev writes
        text = "".join(re.findall(r"^# %% \.\..*?(?=^# %% |\Z)", text, re.M | re.S))
    return text


@cache
def sources() -> dict[str, str]:
    """The text of every Python file and notebook."""
    files = [f for folder in ("tools", "tests", "benchmarks") for f in ROOT.glob(f"{folder}/*.py")]
    files += [f for f in PACKAGE.rglob("*.py") if f.name not in GENERATED]
    files += ROOT.glob("nbs/**/*.ipynb")
    return {file.relative_to(ROOT).as_posix(): written(file) for file in sorted(files)}


def long_lines() -> Iterator[str]:
    for file, text in sources().items():
        if any(len(line) > LONGEST_LINE for line in text.splitlines()):
            yield file


def functions(file: str, nested: bool = True) -> Iterator[tuple[str, ast.FunctionDef]]:
    """(name, node) for each function of a file; a method's name has its class's before it."""
    places = [("", ast.parse(sources()[file]))]
    while places:
        prefix, place = places.pop()
        for node in ast.iter_child_nodes(place):
            name = prefix + getattr(node, "name", "") if isinstance(node, NAMED) else ""
            is_function = name and not isinstance(node, ast.ClassDef)
            if is_function:
                yield name, node
            if nested or not is_function:
                places.append((f"{name}." if name else prefix, node))


def long_functions() -> Iterator[str]:
    for file in sources():
        for name, node in functions(file):
            if node.end_lineno - node.lineno >= LONGEST_FUNCTION and file != RENDERER:
                yield f"{file}: {name}"


def long_modules() -> Iterator[str]:
    for file, text in sources().items():
        if file.endswith(".py") and len(text.splitlines()) > LONGEST_MODULE:
            yield file


def assigned_lambdas() -> Iterator[str]:
    for file, text in sources().items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Lambda):
                yield f"{file}: {ast.unparse(node).partition(' =')[0]}"


def semicolons() -> Iterator[str]:
    """Between statements. At the end of a notebook's cell one keeps a value from being shown."""
    for file, text in sources().items():
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        for token, following in zip(tokens, tokens[1:]):
            if token.string == ";" and following.type != tokenize.NEWLINE:
                yield file


def is_public(name: str) -> bool:
    return all(p == "__init__" or not p.startswith("_") for p in name.split("."))


def gives_something(node: ast.FunctionDef) -> bool:
    """Does a function return or yield a value? Functions inside it do not count."""
    places = [*node.body]
    while places:
        place = places.pop()
        if isinstance(place, (ast.Yield, ast.YieldFrom)):
            return True
        if isinstance(place, ast.Return) and place.value and ast.unparse(place.value) != "None":
            return True
        if not isinstance(place, (*NAMED, ast.Lambda)):
            places += ast.iter_child_nodes(place)
    return False


def untyped() -> Iterator[str]:
    """Of the package's public functions: the module, for each parameter or result without type."""
    for file in sources():
        if not file.startswith("cond_distill/") or not is_public(Path(file).stem):
            continue
        for name, node in functions(file, nested=False):
            a = node.args
            parameters = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
            for p in parameters if is_public(name) else ():
                if p and not p.annotation and p.arg not in ("self", "cls"):
                    yield f"{file}: {name}({p.arg})"
            if is_public(name) and not node.returns and gives_something(node):
                yield f"{file}: {name}"


def code_lines(text: str) -> list[str]:
    """What a passage consists of: no blank lines, imports or closing brackets."""
    stripped = (line.strip() for line in text.splitlines())
    return [s for s in stripped if len(s) > 3 and not s.startswith(("import ", "from ", "#"))]


def repeated_passages() -> Iterator[str]:
    """The two places of lines of code that stand twice; of longer passages, once."""
    places = defaultdict(list)
    for file, text in sources().items():
        lines = code_lines(text)
        for n in range(len(lines) - PASSAGE + 1):
            places[tuple(lines[n : n + PASSAGE])].append((file, n))
    repeated = [occurrences[:2] for occurrences in places.values() if len(occurrences) > 1]
    starts = {place for occurrences in repeated for place in occurrences}
    for occurrences in repeated:
        if not any((file, n - 1) in starts for file, n in occurrences):
            yield " and ".join(file for file, n in occurrences)


def wrapped_imports() -> Iterator[str]:
    """Imports in brackets that fit one line: nbdev makes only those of one line relative."""
    for file, text in sources().items():
        for node in ast.walk(ast.parse(text)) if file.startswith("cond_distill/") else ():
            if isinstance(node, ast.ImportFrom) and node.end_lineno > node.lineno:
                if len(ast.unparse(node)) + node.col_offset <= LONGEST_LINE:
                    yield f"{file}: {node.module}"


RULES = {
    "wrapped imports": wrapped_imports,
    "long lines": long_lines,
    "long functions": long_functions,
    "long modules": long_modules,
    "assigned lambdas": assigned_lambdas,
    "semicolons": semicolons,
    "parameters or results without a type": untyped,
    "passages that stand twice": repeated_passages,
}


@pytest.mark.parametrize("rule", RULES)
def test_form(rule):
    violations = Counter(RULES[rule]())
    assert not violations, f"{rule}: {dict(violations)}"
