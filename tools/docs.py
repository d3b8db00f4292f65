"""The documentation site in _docs, built without Quarto.

nbdev prepares the notebooks, smalldocs renders them, then every link is tried.

The same nbs/_quarto.yml serves Quarto. smalldocs does not know `output-file`, so pages lose their
number here (02_schedule -> schedule.html). site_pages.py does the last work on every page.
"""

import json
import os
import posixpath
import re
import shutil
import sys
from configparser import ConfigParser
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag

from notebook import ROOT
from site_pages import finish

PROC, DOCS = ROOT / "_proc", ROOT / "_docs"
NOTEBOOK = re.compile(r"[^\s()\[\]\"',<>`]+\.ipynb")


def settings():
    cfg = ConfigParser(delimiters=["="], interpolation=None)
    cfg.read(ROOT / "settings.ini", encoding="utf-8")
    return cfg["DEFAULT"]


BASE = settings()["doc_baseurl"] + "/"
SITE = settings()["doc_host"] + BASE
CODE = f"{settings()['git_url']}/blob/{settings()['branch']}/"


def process():
    """Let nbdev prepare the notebooks: references, links from `names`, front matter."""
    shutil.rmtree(PROC, ignore_errors=True)
    # nbdev's worker processes inherit it
    sys.path.insert(0, str(ROOT))
    from nbdev.serve import proc_nbs

    proc_nbs(n_workers=2, force=True)


def unnumbered(name):
    """02_schedule.ipynb -> schedule.ipynb, in a relative link."""
    if ":" in name:
        return name
    folder, slash, page = name.rpartition("/")
    return folder + slash + re.sub(r"^\d+[a-zA-Z0-9]*_", "", page)


def links(text, folder="nbs"):
    """Page names without numbers; files beside nbs/ on the code's site.

    A method is shown with its class, so links to it lead there.
    """
    text = NOTEBOOK.sub(lambda m: unnumbered(m[0]), text)
    text = re.sub(r"(\.html#\w+)\.[\w.]+", r"\1", text)
    # private names have no documentation
    text = re.sub(r"\[(`_\w+`)\]\([^)]*#_\w+\)", r"\1", text)

    def outside(m):
        path = posixpath.normpath(posixpath.join(folder, m[1]))
        return m[0] if path.startswith("nbs/") else f"]({CODE}{path})"

    return re.sub(r"\]\((\.\./[^)\s]*)\)", outside, text)


def linked(cell, folder):
    """The cell with links as the site needs them, in prose and in shown documentation."""
    if cell["cell_type"] == "markdown":
        cell["source"] = links("".join(cell["source"]), folder)
    if cell["cell_type"] == "raw":
        cell["source"] = re.sub(r"^output-file:.*\n", "", "".join(cell["source"]), flags=re.M)
    for data in (out.get("data", {}) for out in cell.get("outputs", [])):
        if "text/markdown" in data:
            data["text/markdown"] = links("".join(data["text/markdown"]), folder)


def title(path):
    """The title of a processed page."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return re.search(r"^title: *['\"]?(.*?)['\"]?$", "".join(cells[0]["source"]), re.M)[1]


def course():
    """The course's entries in the sidebar: in order, with their numbers."""
    lines = ["contents:"]
    for path in sorted((PROC / "course").glob("*.ipynb")):
        number = int(path.name.split("_")[0])
        entry = json.dumps(f"{number} · {title(path)}", ensure_ascii=False)
        lines.append(f"          - {{text: {entry}, href: course/{path.name}}}")
    return "\n".join(lines)


def rename():
    """Give pages the names that nbdev's links use, and make links to our own site relative."""
    config = PROC / "_quarto.yml"
    text = config.read_text(encoding="utf-8").replace("contents: course/*.ipynb", course())
    config.write_text(links(text), encoding="utf-8")
    for path in PROC.rglob("*.ipynb"):
        folder = path.relative_to(PROC).parent
        nb = json.loads(path.read_text(encoding="utf-8").replace(SITE, "../" * len(folder.parts)))
        for cell in nb["cells"]:
            linked(cell, posixpath.join("nbs", folder.as_posix()))
        path.unlink()
        path.with_name(unnumbered(path.name)).write_text(json.dumps(nb), encoding="utf-8")


def render():
    """Let smalldocs make the pages; its warnings are problems."""
    from smalldocs.site import build

    site = build(str(PROC), quiet=True)
    shutil.rmtree(DOCS, ignore_errors=True)
    shutil.move(PROC / "_docs", DOCS)
    return [f"smalldocs: {w}" for w in site.warnings]


class Page(HTMLParser):
    """The ids of a page and the addresses it points to."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[k] for k in ("id", "name") if attrs.get(k)}
        self.links += [
            attrs[k]
            for k in ("href", "src")
            if attrs.get(k) and tag in ("a", "img", "script", "link", "iframe")
        ]


def dead(link, path, pages):
    """Does this link of the page at `path` lead nowhere? Other people's sites are not asked."""
    if link.startswith(CODE):
        return not (ROOT / unquote(urldefrag(link)[0][len(CODE) :])).exists()
    if re.match(r"[a-z]+:|//", link):
        return False
    if link.startswith(BASE):
        return not (DOCS / unquote(urldefrag(link)[0][len(BASE) :])).exists()
    target, anchor = urldefrag(link)
    file = (path.parent / unquote(target.split("?")[0])).resolve() if target else path
    if file.is_dir():
        file /= "index.html"
    return not file.exists() or bool(
        anchor and file in pages and unquote(anchor) not in pages[file].ids
    )


def check():
    """Try every link of the site."""
    pages = {p.resolve(): Page(p) for p in sorted(DOCS.rglob("*.html"))}
    broken = [
        f"{p.relative_to(DOCS)}: {link}"
        for p, page in pages.items()
        for link in page.links
        if dead(link, p, pages)
    ]
    print(
        f"{len(pages)} pages, {sum(len(p.links) for p in pages.values())} links, {len(broken)} "
        f"broken: {DOCS.name}/index.html"
    )
    return [f"broken link in {text}" for text in sorted(set(broken))]


def main():
    if sys.version_info < (3, 11):
        sys.exit(
            "docs: smalldocs needs Python 3.11 or newer; remove .venv and use: make docs "
            "PYTHON=python3.12"
        )
    os.chdir(ROOT)
    process()
    rename()
    problems = render()
    nameless = finish(DOCS, SITE, BASE)
    print(*(f"picture without fig-alt: {text}" for text in nameless), sep="\n")
    problems += check()
    print(*problems, sep="\n")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
