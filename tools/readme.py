"""README.md from nbs/index.ipynb, without Quarto.

`readme.py --check` only tells whether they agree.
"""

import posixpath
import re
import sys

import nbformat
from notebook import ROOT

SOURCE, TARGET = ROOT / "nbs/index.ipynb", ROOT / "README.md"
LINK = re.compile(r"""(\]\(|(?:src|href)=")(?![a-z]+:|#|/)([^)\s"]+)""")
CALLOUT = re.compile(r"^:{3,}\s*\{\.callout-(\w+)[^}]*\}\s*\n(.*?)\n:{3,}\s*$", re.M | re.S)
FRONT = re.compile(r"^- [\w-]+:.*\n?", re.M)


def from_root(text):
    """Links are relative to nbs/ in the notebook and to the repository in the README."""
    return LINK.sub(lambda m: m[1] + posixpath.normpath(posixpath.join("nbs", m[2])), text)


def quoted(match):
    """A Quarto callout as a block quote."""
    head, body = re.match(r"(?:#+ *(.*)\n+)?(.*)", match[2].strip(), re.S).groups()
    lines = [f"**{match[1].capitalize()}{': ' + head if head else ''}**", "", *body.splitlines()]
    return "\n".join(f"> {line}".rstrip() for line in lines)


def fenced(text, language=""):
    return f"```{language}\n{text.strip()}\n```"


def shown(output):
    """A stored output as markdown."""
    data = output.get("data", {})
    if output.output_type == "stream":
        return fenced(output.text)
    if "text/markdown" in data:
        return data["text/markdown"]
    if any(kind.startswith("image/") for kind in data):
        raise SystemExit(f"{SOURCE.name} draws a picture: save it as a file and link it")
    return fenced(data.get("text/plain", ""))


def code(cell):
    """A code cell as markdown, as its `#|` lines wish."""
    wish = " ".join(re.findall(r"^#\|\s*(.*)$", cell.source, re.M))
    if re.search(r"\bhide\b|include: false|default_exp", wish):
        return []
    source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
    parts = [] if "echo: false" in wish or not source.strip() else [fenced(source, "python")]
    return parts + ([] if "output: false" in wish else [shown(o) for o in cell.outputs])


def readme(nb):
    """The whole README."""
    parts = []
    for n, cell in enumerate(nb.cells):
        if cell.cell_type == "markdown":
            parts.append(FRONT.sub("", cell.source) if n == 0 else CALLOUT.sub(quoted, cell.source))
        if cell.cell_type == "code":
            parts += code(cell)
    body = "\n\n".join(from_root(p).strip() for p in parts if p.strip())
    return f"<!-- Made from nbs/index.ipynb by `make readme`; edit that. -->\n\n{body}\n"


def main():
    text = readme(nbformat.read(SOURCE, 4))
    if TARGET.exists() and TARGET.read_text(encoding="utf-8") == text:
        return
    if "--check" in sys.argv:
        sys.exit("README.md differs from nbs/index.ipynb; run: make readme")
    TARGET.write_text(text, encoding="utf-8")
    print("wrote README.md")


if __name__ == "__main__":
    main()
