"""The reference parts of the documentation pages: signature, table of parameters, methods.

settings.ini names `FillDocs`: nbdev calls it for every page, after its own processors. It reads the
exported modules, so that a docs build runs no notebook.
"""

import ast
import dataclasses
import inspect
import re
from importlib import import_module
from pathlib import Path

from fastcore.docments import docments
from nbdev.doclinks import NbdevLookup
from nbdev.process import Processor

SHOW = re.compile(r"^show_doc\(([\w.]+)\)", re.M)
EXPORTED = re.compile(r"#\| default_exp (\S+?)(?:\\n)?\"")
WIDTH = 88  # columns of a signature on one line
HIDDEN = {"builtins", "object", "Module", "Generic", "Protocol"}


def type_name(annotation) -> str:
    """A type as the source writes it."""
    if annotation is inspect.Parameter.empty:
        return ""
    if isinstance(annotation, str):
        return annotation.strip("'\"")
    name = getattr(annotation, "__name__", None)
    return name if isinstance(annotation, type) and name else str(annotation).replace("typing.", "")


def value_name(value) -> str:
    """A default value as one writes it; `…` where that is longer than a line."""
    if value is dataclasses.MISSING or value is inspect.Parameter.empty:
        return ""
    text = getattr(value, "__name__", None) or repr(value)
    if re.search(r"<factory>| at 0x", text) or len(text) > 60:
        return "…"
    return text


def signature(sym):
    """The signature, or None if Python knows none (some classes of C code)."""
    try:
        return inspect.signature(sym)
    except (TypeError, ValueError):
        return None


def shown_parameters(sym) -> list[inspect.Parameter]:
    """The parameters that a caller gives."""
    sig = signature(sym)
    return [p for p in sig.parameters.values() if p.name != "self"] if sig else []


def one_parameter(p: inspect.Parameter) -> str:
    """`name: type = default`."""
    star = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
    kind, default = type_name(p.annotation), value_name(p.default)
    text = star + p.name + (f": {kind}" if kind else "")
    equals = " = " if kind else "="
    return text + (equals + default if default else "")


def with_markers(parameters: list[inspect.Parameter]) -> list[str]:
    """The parameters, with `*` before those that are given by name only."""
    res, marked = [], False
    for p in parameters:
        marked = marked or p.kind == p.VAR_POSITIONAL
        if p.kind == p.KEYWORD_ONLY and not marked:
            res.append("*")
            marked = True
        res.append(one_parameter(p))
    return res


def head(sym, name: str) -> str:
    """`def name(…) -> type` or `class Name(…)`, on one line where it fits."""
    is_class, sig = inspect.isclass(sym), signature(sym)
    start = f"{'class' if is_class else 'def'} {name}("
    end = ")"
    if not is_class and sig and type_name(sig.return_annotation):
        end += f" -> {type_name(sig.return_annotation)}"
    parts = with_markers(shown_parameters(sym))
    line = start + ", ".join(parts) + end
    if len(line) <= WIDTH or not parts:
        return line
    if is_class and dataclasses.is_dataclass(sym) and len(parts) > 8:
        return start + "…" + end
    return "\n".join([start, *(f"    {p}," for p in parts), end])


def comments(sym) -> dict:
    """What the source says of each parameter, and of the returned value as 'return'."""
    try:
        texts = docments(sym, returns=True)
    except Exception:
        # a symbol without a source, such as a class that a library makes
        return {}
    return {k: " ".join(str(v).split()) for k, v in texts.items() if v}


def cell(text: str, code: bool = False) -> str:
    """Text for a cell of a markdown table."""
    text = " ".join(text.split()).replace("|", "\\|")
    return f"`{text}`" if code and text else text


def table(sym) -> str:
    """A markdown table of the parameters or fields: name, type, default, meaning."""
    text_of, sig = comments(sym), signature(sym)
    rows = [
        (p.name, type_name(p.annotation), value_name(p.default), text_of.get(p.name, ""))
        for p in shown_parameters(sym)
    ]
    returned = type_name(sig.return_annotation) if sig else ""
    if not inspect.isclass(sym) and (text_of.get("return") or returned not in ("", "None")):
        rows.append(("**returns**", returned, "", text_of.get("return", "")))
    if not any(row[3] for row in rows):
        return ""
    first = "field" if dataclasses.is_dataclass(sym) else "parameter"
    lines = [f"| {first} | type | default | meaning |", "|---|---|---|---|"]
    for name, kind, default, meaning in rows:
        shown = name if name.startswith("*") else cell(name, True)
        lines.append(f"| {shown} | {cell(kind, True)} | {cell(default, True)} | {cell(meaning)} |")
    return "\n".join(lines)


def bases(sym) -> str:
    """The classes that a class extends."""
    names = [b.__name__ for b in sym.__bases__ if b.__name__ not in HIDDEN]
    return "Extends " + ", ".join(f"`{n}`" for n in names) + "." if names else ""


def methods(sym) -> str:
    """A markdown table of the public methods that this class defines."""
    rows = []
    for name, raw in vars(sym).items():
        member = raw.__func__ if isinstance(raw, (classmethod, staticmethod)) else raw
        member = raw.fget if isinstance(raw, property) else member
        if name.startswith("_") or not inspect.isfunction(member) or not member.__doc__:
            continue
        if member.__module__ != sym.__module__:
            continue
        names = [p.name for p in shown_parameters(member) if p.name != "cls"]
        call = name if isinstance(raw, property) else f"{name}({', '.join(names)})"
        rows.append(f"| {cell(call, True)} | {cell(inspect.getdoc(member).split(chr(10))[0])} |")
    return "\n".join(["| method | |", "|---|---|", *rows]) if rows else ""


def document(sym, name: str, level: int = 3) -> str:
    """The reference of one symbol, as markdown."""
    source = NbdevLookup().code(f"{sym.__module__}.{sym.__qualname__}")
    link = f"[source]({source}){{.api-source}}" if source else ""
    parts = [f"{'#' * level} {name} {{.api}}", link]
    parts.append(f"```python\n{head(sym, name)}\n```")
    parts.append(inspect.getdoc(sym) or "")
    if inspect.isclass(sym):
        parts += [bases(sym), table(sym), methods(sym)]
    else:
        parts.append(table(sym))
    return "\n\n".join(p for p in parts if p)


def only_imports(source: str) -> bool:
    """Does this code import, and nothing else?"""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return False
    return bool(body) and all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in body)


class FillDocs(Processor):
    """Put the reference behind every exported definition; drop exported cells that only import."""

    def begin(self):
        """The module that this page exports."""
        exported = EXPORTED.search(Path(self.nb.path_).read_text(encoding="utf-8"))
        self.module = import_module(f"cond_distill.{exported[1]}") if exported else None

    def cell(self, cell):
        """Replace `show_doc(name)` by its text."""
        if cell.cell_type != "code":
            return None
        if "exports" in getattr(cell, "directives_", {}) and only_imports(cell.source):
            cell.source = None
            return None
        shown = SHOW.search(cell.source)
        if not shown:
            return None
        sym = self.module
        for part in shown[1].split("."):
            sym = getattr(sym, part)
        text = NbdevLookup().linkify(document(sym, shown[1]))
        cell.update(cell_type="markdown", source=text)
        return None
