"""A module imports from lower layers only, and nothing that another module keeps to itself."""

import ast
from pathlib import Path

import cond_distill

PACKAGE = Path(cond_distill.__file__).parent
NO_CODE = {"__init__", "__main__", "_modidx", "_moved"}

# From the lowest to the highest; a folder stands for all modules in it. Modules of one folder may
# import each other, but not in a circle.
LAYERS = (
    ("ranges", "folders", "extensions", "networks", "schedule_settings", "counter"),
    ("schedule", "config", "utils", "data.render", "data.scenes", "training.checkpoint"),
    ("options", "teacher", "loss", "low_rank", "evaluation"),
    ("adaptor", "families"),
    ("adaptors", "data"),
    ("student_file",),
    ("student", "plan"),
    ("pipeline_inputs", "model_card", "opening"),
    ("sampler",),
    ("scheduler", "figures"),
    ("pipeline_parts",),
    ("evaluation.compare", "methods", "pipeline", "tiles"),
    ("drawing",),
    ("evaluation.folders", "evaluation.report", "evaluation.samplers", "play"),
    ("sketch",),
    ("training",),
    ("trainer",),
    ("training.preflight",),
    ("experiments",),
    ("cli",),
)


def layer(module: str) -> int:
    folder = module.partition(".")[0]
    listed = next((i for i, names in enumerate(LAYERS) if module in names), None)
    return (
        next(i for i, names in enumerate(LAYERS) if folder in names) if listed is None else listed
    )


def imports(file: Path):
    """(module of this package, name) for each name that a file imports from it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        inside = file.relative_to(PACKAGE).parent.parts
        base = [*inside[: len(inside) + 1 - node.level]] if node.level else []
        if node.level or (node.module or "").split(".")[0] == "cond_distill":
            path = (node.module or "").split(".")[0 if node.level else 1 :]
            for alias in node.names:
                yield ".".join([*base, *path]).strip("."), alias.name


def graph() -> dict:
    files = {
        ".".join(f.relative_to(PACKAGE).with_suffix("").parts): f for f in PACKAGE.rglob("*.py")
    }
    files = {name: f for name, f in files.items() if name.rpartition(".")[2] not in NO_CODE}
    edges = {name: set() for name in files}
    for name, file in files.items():
        for module, name_of in imports(file):
            edges[name] |= {m for m in (module, f"{module}.{name_of}".strip(".")) if m in files}
    return edges


def test_layers():
    for module, below in graph().items():
        for other in below:
            near = "." in module and module.rpartition(".")[0] == other.rpartition(".")[0]
            assert layer(other) < layer(module) or near, f"{module} imports {other}"


def test_no_cycles():
    left = graph()
    while ready := [name for name, below in left.items() if not below & left.keys()]:
        for name in ready:
            del left[name]
    assert not left, f"these import each other: {left}"


def test_nothing_private():
    for file in PACKAGE.rglob("*.py"):
        names = [
            f"{m}.{n}"
            for m, n in imports(file)
            if n.startswith("_") and not n.startswith("__") and n not in NO_CODE
        ]
        assert not names, f"{file.name} imports {', '.join(names)}"
