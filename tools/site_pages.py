"""The last work on every page of the site, after smalldocs.

Formulas become MathML, pictures become files, nothing is asked from a foreign server, and the head
says what search engines and link previews need.
"""

import base64
import hashlib
import logging
import re
from pathlib import Path

from bs4 import BeautifulSoup
from fontTools import subset
from fontTools.ttLib import TTFont
from latex2mathml.converter import convert
from PIL import Image, ImageDraw, ImageFont

FORMULA = re.compile(r"^\\[(\[](.*)\\[)\]]$", re.S)
TAG = re.compile(r"\\tag\{(\w+)\}")
DATA = re.compile(r"data:image/(png|jpeg|gif);base64,(.*)", re.S)
INTERVAL = re.compile(r"^[\d.,]+ ± [\d.,]+$")
IMPORT = re.compile(r"@import\s+url\([^)]*\)\s*;")
FOREIGN = re.compile(r"^(https?:)?//")
CARD = (1200, 630)
LARGE = 50_000  # bytes
ICON = re.compile(r'\.bi-([a-z0-9-]+)::before\{content:"\\(f[0-9a-f]{3})"\}')
ICON_BASE = (
    '@font-face{font-family:bootstrap-icons;src:url("fonts/bootstrap-icons.woff")format("woff")}'
    ".bi::before{display:inline-block;font-family:bootstrap-icons!important;font-style:normal;"
    "font-weight:400!important;line-height:1;vertical-align:-.125em}"
)
ITALICS = ((0x1D434, 0x1D468), (0x1D6E2, 0x1D71C))  # Latin and Greek


def replace_formulas(soup: BeautifulSoup) -> set[str]:
    """LaTeX becomes MathML, which every browser draws by itself; returns the characters used."""
    used = set()
    for span in soup.select("span.math"):
        match = FORMULA.match(span.get_text())
        if not match:
            continue
        display = "block" if "display" in span["class"] else "inline"
        # latex2mathml puts the number of an equation at once behind it
        formula = TAG.sub(r"\\qquad (\1)", match[1])
        math = BeautifulSoup(convert(formula, display=display), "html.parser")
        math.math["aria-label"] = " ".join(match[1].split())
        used |= set(math.get_text())
        span.clear()
        span.append(math)
    return used


def own_links(soup: BeautifulSoup) -> None:
    """Drop what comes from other servers; the Colab badge becomes a link with words."""
    for tag in soup.find_all(["script", "link"]):
        if FOREIGN.match(tag.get("src") or "") or (
            tag.name == "link" and "stylesheet" in tag.get("rel", []) and FOREIGN.match(tag["href"])
        ):
            tag.decompose()
    for img in soup.find_all("img", src=re.compile("colab-badge")):
        link = img.parent
        img.replace_with("Open in Colab")
        link["class"] = "badge-link"
        code = soup.new_tag("a", href=github_page(link["href"]), attrs={"class": "badge-link"})
        code.string = "Notebook on GitHub"
        link.insert_after(" ", code)
    # other badges tell of the repository, which the site links anyway
    for img in soup.find_all("img", src=FOREIGN):
        (img.find_parent("a") or img).decompose()


def github_page(colab: str) -> str:
    """The address on GitHub of a notebook, from that on Colab."""
    return colab.replace("colab.research.google.com/github", "github.com")


def extract_pictures(soup: BeautifulSoup, folder: Path, up: str) -> None:
    """Pictures inside the page become files beside it, which a browser loads when they are near."""
    for img in soup.find_all("img"):
        match = DATA.match(img.get("src", ""))
        if not match:
            continue
        data = base64.b64decode(match[2])
        name = f"{hashlib.sha256(data).hexdigest()[:16]}.{match[1]}"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
        img["src"] = f"{up}{folder.name}/{name}"


def compress_pictures(soup: BeautifulSoup, page: Path) -> None:
    """Large PNG files become WebP, without loss: a quarter smaller."""
    for img in soup.select("main img"):
        file = page.parent / img.get("src", "")
        if file.suffix != ".png" or not file.is_file() or file.stat().st_size < LARGE:
            continue
        small = file.with_suffix(".webp")
        if not small.exists():
            Image.open(file).convert("RGB").save(small, lossless=True, method=4)
        img["src"] = img["src"].removesuffix(".png") + ".webp"


def size_pictures(soup: BeautifulSoup, page: Path) -> None:
    """Say how large each picture is, so that the text does not jump; load it when it is near."""
    for n, img in enumerate(soup.select("main img")):
        file = page.parent / img.get("src", "")
        if file.is_file() and file.suffix != ".svg":
            img["width"], img["height"] = map(str, Image.open(file).size)
        if n:
            img["loading"] = "lazy"


def describe_pictures(soup: BeautifulSoup) -> list[str]:
    """Pictures without a text of their own get the heading above them; returns these headings."""
    titles = []
    for img in soup.select("main img"):
        if img.get("alt"):
            continue
        heading = img.find_previous(["h1", "h2", "h3", "h4"])
        title = heading.get_text(" ", strip=True).rstrip("#").strip() if heading else ""
        img["alt"] = f"Output of the code, under the heading “{title}”"
        titles.append(title)
    return titles


def meta(soup: BeautifulSoup, key: str, name: str, content: str) -> None:
    """Set `<meta key=name content=…>`, unless the page has one."""
    if not soup.find("meta", attrs={key: name}):
        soup.head.append(soup.new_tag("meta", attrs={key: name, "content": content}))


def complete_head(soup: BeautifulSoup, page: str, site: str, up: str) -> None:
    """Canonical address and what link previews show."""
    address = site + ("" if page == "index.html" else page)
    soup.head.append(soup.new_tag("link", rel="canonical", href=address))
    meta(soup, "property", "og:url", address)
    meta(soup, "property", "og:type", "website")
    meta(soup, "property", "og:image", f"{site}images/card.png")
    meta(soup, "property", "og:image:alt", "Pictures drawn in four steps, under their depth maps")
    meta(soup, "name", "twitter:image", f"{site}images/card.png")
    soup.find("meta", attrs={"name": "twitter:card"})["content"] = "summary_large_image"
    soup.head.append(soup.new_tag("script", src=f"{up}site.js", defer=""))


def mend_markup(soup: BeautifulSoup) -> None:
    """Roles and names that smalldocs leaves to the theme."""
    for tag in soup.select("[data-bs-toggle=collapse][role=navigation]"):
        tag["role"], tag["tabindex"] = "button", "0"
    for tag in soup.select("i[role=img]"):
        del tag["role"]
        tag["aria-hidden"] = "true"
    for tag in soup.select("a.quarto-color-scheme-toggle"):
        tag["aria-label"], tag["role"] = "Toggle dark mode", "button"
    for tag in soup.select("nav#quarto-sidebar"):
        tag["aria-label"] = "Pages"
    for tag in soup.select("nav#TOC"):
        tag["aria-label"] = "On this page"
    for tag in soup.select("th"):
        if not tag.get_text(strip=True):
            tag.name = "td"
    for tag in soup.select("td"):
        if INTERVAL.match(tag.get_text(strip=True)):
            tag["class"] = "number"
    body = soup.body
    skip = soup.new_tag("a", href="#quarto-document-content", attrs={"class": "skip-link"})
    skip.string = "Skip to the text"
    body.insert(0, skip)


def from_root(soup: BeautifulSoup, base: str) -> None:
    """Links that hold wherever the page is shown: a server shows 404.html under any address."""
    for tag in soup.find_all(True):
        for key in ("href", "src"):
            if tag.get(key) and not re.match(r"[a-z]+:|/|#", tag[key]):
                tag[key] = base + tag[key]
    soup.find("meta", attrs={"name": "smalldocs:offset"})["content"] = base


def write_font(source: Path, target: Path, characters: set[str]) -> None:
    """The part of a font that the site's formulas need."""
    options = subset.Options(flavor="woff", layout_features=["*"], notdef_outline=True)
    part = subset.Subsetter(options)
    font = TTFont(source)
    # letters between dollars are drawn in italics, which have places of their own in Unicode
    italics = {chr(c) for span in ITALICS for c in range(*span)} | {"ℎ"}
    part.populate(text="".join(characters | italics | set("()[]{}|‖√⟨⟩⌊⌋")))
    part.subset(font)
    font.flavor = "woff"
    font.save(target)


def trim_icons(docs: Path) -> None:
    """Keep the few icons that the site shows, of two thousand."""
    folder = docs / "site_libs" / "bootstrap-icons"
    style = folder / "bootstrap-icons.min.css"
    shown = "".join(
        p.read_text(encoding="utf-8")
        for p in docs.rglob("*")
        if p.suffix in (".html", ".js", ".css") and p != style
    )
    used = set(re.findall(r"bi-([a-z0-9-]+)", shown))
    rules = ICON.findall(style.read_text(encoding="utf-8"))
    codes = {code for name, code in rules if name in used}
    codes |= set(re.findall(r'content: *"\\(f[0-9a-f]{3})"', shown))
    head = style.read_text(encoding="utf-8").split("@font-face")[0]
    rules_used = "".join(f'.bi-{n}::before{{content:"\\{c}"}}' for n, c in rules if n in used)
    style.write_text(head + ICON_BASE + rules_used, encoding="utf-8")
    options = subset.Options(flavor="woff", layout_features=["*"])
    part, font = subset.Subsetter(options), TTFont(folder / "fonts" / "bootstrap-icons.woff")
    part.populate(unicodes=[int(code, 16) for code in codes])
    part.subset(font)
    font.flavor = "woff"
    font.save(folder / "fonts" / "bootstrap-icons.woff")
    (folder / "fonts" / "bootstrap-icons.woff2").unlink()


def write_card(picture: Path, target: Path, title: str, line: str) -> None:
    """The picture that link previews show: the name, one sentence, and what the adaptor draws."""
    from matplotlib import font_manager

    card = Image.new("RGB", CARD, "white")
    shown = Image.open(picture).convert("RGB")
    # its lower part: the rows of the distilled adaptor
    shown = shown.crop((0, int(0.6 * shown.height), shown.width, shown.height))
    shown.thumbnail((CARD[0] - 120, CARD[1] - 250))
    card.paste(shown, ((CARD[0] - shown.width) // 2, 220))
    draw = ImageDraw.Draw(card)
    for text, y, size, weight in [(title, 40, 72, "bold"), (line, 140, 30, "normal")]:
        file = font_manager.findfont(font_manager.FontProperties(weight=weight))
        draw.text((60, y), text, "black", ImageFont.truetype(file, size))
    card.save(target, optimize=True)


def drop_font_imports(folder: Path) -> None:
    """Themes ask a foreign server for their fonts; the site takes those of the reader's system."""
    for path in folder.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        path.write_text(IMPORT.sub("", text), encoding="utf-8")


def finish_page(path: Path, docs: Path, site: str, base: str) -> tuple[set[str], list[str]]:
    """One page; returns the characters of its formulas and the headings of nameless pictures."""
    soup = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    name = path.relative_to(docs).as_posix()
    up = "../" * (len(Path(name).parts) - 1)
    used = replace_formulas(soup)
    own_links(soup)
    extract_pictures(soup, docs / "figures", up)
    compress_pictures(soup, path)
    size_pictures(soup, path)
    nameless = describe_pictures(soup)
    complete_head(soup, name, site, up)
    mend_markup(soup)
    if name == "404.html":
        from_root(soup, base)
    path.write_text(str(soup), encoding="utf-8")
    return used, [f"{name}: {title}" for title in nameless]


def finish(docs: Path, site: str, base: str) -> list[str]:
    """All pages, fonts and the card; returns where a picture has no alternative text of its own."""
    import ziamath

    logging.getLogger("fontTools").setLevel(logging.ERROR)
    characters, nameless = set(), []
    for path in sorted(docs.rglob("*.html")):
        used, without_name = finish_page(path, docs, site, base)
        characters |= used
        nameless += without_name
    font = Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf"
    write_font(font, docs / "math.woff", characters)
    drop_font_imports(docs / "site_libs")
    trim_icons(docs)
    write_card(
        docs / "images" / "demo.png",
        docs / "images" / "card.png",
        "cond_distill",
        "From a diffusion model to a conditional one that draws in four steps",
    )
    return nameless
