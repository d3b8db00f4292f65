"""Pictures of the package's architecture, drawn from its code.

`layers_picture` reads what each module imports. `record_calls` runs something and notes the calls
between modules; `calls_picture` draws them. The page nbs/appendix/architecture.ipynb shows both;
`make architecture` draws it anew.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from html import escape

import torch

ROW, GAP, LETTER = 26, 8, 6.7  # height of a box, space between boxes, width of a letter, pixels
FILL = ("#eef3fb", "#fdf3e7")  # bands of layers, one lighter than the other
GENERATOR = 0x20  # flag of a function's code
STYLE = "font-family:system-ui,sans-serif;font-size:12px"


def box(x: float, y: float, text: str, width: float = 0.0, fill: str = "white") -> str:
    """A rounded box with a text."""
    width = width or text_width(text)
    return (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{ROW - 6}" rx="5" '
        f'fill="{fill}" stroke="#5b6b86"/><text x="{x + width / 2:.0f}" y="{y + 14:.0f}" '
        f'text-anchor="middle" fill="#1c2738">{escape(text)}</text>'
    )


def text_width(text: str) -> float:
    return LETTER * len(text) + 14


def drawing(width: float, height: float, parts: list[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" style="max-width:100%;background:white;{STYLE}">'
        f"{''.join(parts)}</svg>"
    )


def in_rows(names: list[str], width: float) -> list[list[str]]:
    """Names of boxes, as many in a row as there is room for."""
    rows, used = [[]], 0.0
    for name in names:
        if used + text_width(name) > width and rows[-1]:
            rows.append([])
            used = 0.0
        rows[-1].append(name)
        used += text_width(name) + GAP
    return rows


def without_shortcuts(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The imports that do not follow from others: a → c is left out where a → b → c is there."""

    def reached(module: str) -> set[str]:
        below = graph[module]
        return below.union(*map(reached, below))

    return {m: below - set().union(*map(reached, below)) for m, below in graph.items()}


def layers_picture(
    graph: dict[str, set[str]],  # module → the modules that it imports
    layer: Callable[[str], int],  # 0 is the lowest
    width: float = 860,
) -> str:
    """The modules by layers, the highest on top, and lines for what they import; an SVG."""
    direct = without_shortcuts(graph)
    bands, boxes, places, y = [], [], {}, 6.0
    for n in sorted(set(map(layer, graph)), reverse=True):
        rows = in_rows(sorted(m for m in graph if layer(m) == n), width - 50)
        height = ROW * len(rows) + 10
        bands.append(
            f'<rect x="0" y="{y:.0f}" width="{width:.0f}" height="{height}" fill="{FILL[n % 2]}"/>'
            f'<text x="8" y="{y + height / 2 + 4:.0f}" fill="#5b6b86">{n + 1}</text>'
        )
        for i, row in enumerate(rows):
            x = 36.0
            for name in row:
                boxes.append(box(x, y + 8 + ROW * i, name))
                places[name] = (x + text_width(name) / 2, y + 18 + ROW * i)
                x += text_width(name) + GAP
        y += height + 22
    lines = [
        f'<path d="M{x1:.0f} {y1:.0f} C {x1:.0f} {(y1 + y2) / 2:.0f}, {x2:.0f} '
        f'{(y1 + y2) / 2:.0f}, {x2:.0f} {y2:.0f}" fill="none" stroke="#8da2c4" opacity="0.6"/>'
        for (x1, y1), (x2, y2) in (
            (places[module], places[other]) for module in graph for other in sorted(direct[module])
        )
    ]
    return drawing(width, y, bands + lines + boxes)


@dataclass(frozen=True)
class Call:
    """A call of a public function of the package."""

    depth: int  # how many of the recorded calls it is inside of
    module: str  # without the package's name
    name: str  # with the class's
    takes: str  # shapes of the tensors that it is given
    returns: str


def shapes(value, longest: int = 90) -> str:
    """The tensors in a value, by name where they have one: "x [4, 4, 16, 16]"."""
    text = all_shapes(value)
    return text if len(text) <= longest else f"{text[:longest]} …"


def all_shapes(value) -> str:
    """The same, however long."""
    if torch.is_tensor(value):
        return str(list(value.shape)) if value.ndim else "a number"
    if isinstance(value, dict):
        return ", ".join(f"{k} {all_shapes(v)}" for k, v in value.items() if torch.is_tensor(v))
    if isinstance(value, (tuple, list)):
        return ", ".join(filter(None, map(all_shapes, value)))
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        named = {k: getattr(value, k) for k in value.__dataclass_fields__}
        return f"{type(value).__name__}: {all_shapes(named)}" if all_shapes(named) else ""
    return ""


def record_calls(fn: Callable[[], object], package: str = "cond_distill") -> list[Call]:
    """Run something; the calls from one module to another that are given or return tensors."""
    calls, running = [], []

    def enter(frame, module: str):
        within = running[-1][1] if running else ""
        arguments = {k: v for k, v in frame.f_locals.items() if k != "self"}
        takes = "; ".join(f"{k} {s}" for k, v in arguments.items() if (s := shapes(v)))
        name = getattr(frame.f_code, "co_qualname", frame.f_code.co_name)
        depth = sum(shown for *_, shown in running)
        shown = module != within and not name.startswith(("_", "<")) and "._" not in name
        running.append((frame, module, len(calls), shown))
        calls.append(Call(depth, module, name, takes, "") if shown else None)

    def watch(frame, event, value):
        module = frame.f_globals.get("__name__", "")
        if not module.startswith(f"{package}.") or frame.f_code.co_flags & GENERATOR:
            return
        if event == "call":
            enter(frame, module.removeprefix(f"{package}."))
        elif event == "return" and running and running[-1][0] is frame:
            _, _, n, shown = running.pop()
            if shown:
                calls[n] = replace(calls[n], returns=shapes(value))

    sys.setprofile(watch)
    try:
        fn()
    finally:
        sys.setprofile(None)
    return [call for call in calls if call and (call.takes or call.returns)]


def calls_picture(calls: list[Call], modules: list[str], width: float = 860) -> str:
    """A column for each module, the calls from top to bottom in their order; an SVG."""
    columns = [m for m in modules if any(c.module == m for c in calls)]
    step, top = width / len(columns), 44
    height = top + ROW * len(calls) + 6
    bands = [
        f'<rect x="{step * i:.0f}" y="0" width="{step:.0f}" height="{height:.0f}" '
        f'fill="{FILL[i % 2]}"/>'
        for i in range(len(columns))
    ]
    parts, before = bands, None
    for i, name in enumerate(columns):
        parts.append(
            f'<text x="{step * (i + 0.5):.0f}" y="{16 + 16 * (i % 2)}" text-anchor="middle" '
            f'fill="#5b6b86">{name}</text>'
        )
    for n, call in enumerate(calls):
        text = f"{n + 1} {call.name.rpartition('.')[2]}"
        x, y = step * (columns.index(call.module) + 0.5), top + ROW * n
        if before:
            parts.append(
                f'<path d="M{before[0]:.0f} {before[1]:.0f} L{x:.0f} {y:.0f}" stroke="#5b6b86"/>'
            )
        before = (x, y + ROW - 6)
        left = min(max(2, x - text_width(text) / 2), width - text_width(text) - 2)
        parts.append(box(left, y, text))
    return drawing(width, height, parts)
