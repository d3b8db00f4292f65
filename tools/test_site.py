"""The built site in a real browser: `make docs` first, then `make test-site`.

Every page, light and dark, wide and narrow: no error in the console, no request to another server,
nothing that axe calls serious, no sideways scrolling, pictures with alternative texts.
"""

import functools
import http.server
import os
import re
import shutil
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import axe_playwright_python
from docs import BASE, CODE, DOCS, SITE
from playwright.sync_api import Browser, Page, sync_playwright

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
HOME_BYTES = 1_000_000
RAW = re.compile(r"\\[(\[]|skip_exec|\$\$|show_doc\(")
# what one look at a page tells
FACTS = """() => ({
    title: document.title,
    description: document.querySelector('meta[name=description]')?.content || '',
    canonical: document.querySelector('link[rel=canonical]')?.href || '',
    card: document.querySelector('meta[property="og:image"]')?.content || '',
    icon: document.querySelector('link[rel=icon]')?.href || '',
    headings: document.querySelectorAll('h1').length,
    nameless: [...document.images].filter(i => !i.alt.trim()).length,
    missing: [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src),
    wide: [...document.querySelectorAll('main pre')].filter(e => e.scrollWidth > e.clientWidth + 1)
        .map(e => e.innerText.split('\\n').sort((a, b) => b.length - a.length)[0]),
    width: document.documentElement.scrollWidth,
    badges: [...document.querySelectorAll('a.badge-link')].map(a => a.href),
    text: document.querySelector('main').innerText,
})"""
# where on the home page the commands end and the picture begins, of 900 pixels of a screen
FIRST_SCREEN = """() => ({
    commands: document.querySelector('main pre').getBoundingClientRect().bottom,
    picture: document.querySelector('main img').getBoundingClientRect().top,
})"""
COLAB = "https://colab.research.google.com/github/"
AXE_RUN = "options => axe.run(document, options).then(r => r.violations)"


class Handler(http.server.SimpleHTTPRequestHandler):
    """The site under its own folder, as the real server shows it."""

    def translate_path(self, path):
        """Files lie under BASE."""
        return super().translate_path("/" + path.removeprefix(BASE))

    def send_error(self, code, message=None, explain=None):
        """What is not there shows 404.html."""
        if code != 404:
            return super().send_error(code, message, explain)
        body = (DOCS / "404.html").read_bytes()
        self.send_response(404)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Say nothing."""


def serve() -> http.server.ThreadingHTTPServer:
    """The site at a free port of this machine."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(DOCS))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def find_browser() -> str:
    """The program of a Chromium."""
    choice = os.environ.get("CHROMIUM", "")
    paths = [choice] if choice else [p for p in map(shutil.which, BROWSERS) if p]
    if not paths:
        sys.exit(
            "test-site: no Chromium found. Debian and Ubuntu: apt install chromium; elsewhere: "
            ".venv/bin/playwright install chromium, and name the program in CHROMIUM"
        )
    return paths[0]


class Visit:
    """One page in one window, and what went wrong while it loaded."""

    def __init__(self, browser: Browser, address: str, width: int = 1280, scheme: str = "light"):
        self.problems: list[str] = []
        self.bytes = 0
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        self.page: Page = self.context.new_page()
        self.page.on("console", self.on_console)
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.page.on("request", self.on_request)
        self.page.on("response", self.on_response)
        self.page.goto(address, wait_until="networkidle")

    def on_console(self, message):
        """Errors of the console are findings; the status 404 of the test's own page is not."""
        if message.type == "error" and "404" not in message.text:
            self.problems.append(f"console: {message.text}")

    def on_request(self, request):
        """Nothing is asked from another server."""
        if not re.match(r"http://127\.0\.0\.1:|data:|blob:", request.url):
            self.problems.append(f"asks another server: {request.url}")

    def on_response(self, response):
        """Count what the page loads."""
        self.bytes += int(response.headers.get("content-length", 0))

    def axe(self, rules: list[str] | None = None) -> list[str]:
        """What axe calls serious or critical."""
        self.page.add_script_tag(path=str(AXE))
        options = {"runOnly": {"type": "rule", "values": rules}} if rules else {}
        return [
            f"axe {v['id']} ({v['impact']}, {len(v['nodes'])} places): "
            + v["nodes"][0]["html"][:160]
            for v in self.page.evaluate(AXE_RUN, options)
            if v["impact"] in ("serious", "critical")
        ]

    def close(self) -> list[str]:
        """End the visit; what was found."""
        self.context.close()
        return self.problems


def badges(links: list[str]) -> list[str]:
    """A page links its notebook, on Colab and on GitHub."""
    notebook = re.sub("^https://github.com/", COLAB, CODE)
    right = len(links) == 2 and links[0].startswith(notebook) and links[0].endswith(".ipynb")
    if right and links[1] == links[0].replace(COLAB, "https://github.com/"):
        return []
    return [f"links to Colab and GitHub are {links}"]


def wide(browser: Browser, address: str, name: str) -> list[str]:
    """A window of 1280 pixels, light."""
    visit = Visit(browser, address)
    facts = visit.page.evaluate(FACTS)
    problems = [
        f"no {k}" for k in ("title", "description", "canonical", "card", "icon") if not facts[k]
    ]
    if name != "404.html" and facts["canonical"] != SITE + name.replace("index.html", ""):
        problems.append(f"canonical address {facts['canonical']}")
    if name not in ("index.html", "404.html"):
        problems += badges(facts["badges"])
    if facts["headings"] != 1:
        problems.append(f"{facts['headings']} first headings")
    if facts["nameless"]:
        problems.append(f"{facts['nameless']} pictures without alternative text")
    problems += [f"picture does not load: {src}" for src in facts["missing"]]
    problems += [f"code wider than its column: {line[:120]}" for line in facts["wide"]]
    raw = RAW.search(re.sub(r"`[^`]*`", "", facts["text"]))
    if raw and name.startswith(("course", "guides")):
        problems.append(f"raw markup: {facts['text'][max(0, raw.start() - 30) : raw.end() + 30]!r}")
    return problems + visit.axe() + visit.close()


def narrow(browser: Browser, address: str, name: str) -> list[str]:
    """A phone's window of 375 pixels: nothing scrolls sideways but boxes of their own."""
    visit = Visit(browser, address, width=375)
    width = visit.page.evaluate("document.documentElement.scrollWidth")
    problems = [f"{width} pixels wide on a phone of 375"] if width > 375 else []
    return problems + visit.close()


def dark(browser: Browser, address: str, name: str) -> list[str]:
    """Contrast in dark mode."""
    visit = Visit(browser, address, scheme="dark")
    return visit.axe(["color-contrast"]) + visit.close()


def home(browser: Browser, root: str) -> list[str]:
    """The home page is light; commands and picture are on the first screen, and so is the list."""
    visit = Visit(browser, root)
    problems = [f"{visit.bytes} bytes, at most {HOME_BYTES}"] if visit.bytes > HOME_BYTES else []
    problems += [
        f"the first screen does not show the {part}"
        for part, place in visit.page.evaluate(FIRST_SCREEN).items()
        if place > 700
    ]
    box = visit.page.locator("#quarto-sidebar")
    if box.evaluate("e => e.scrollHeight > e.clientHeight + 1"):
        problems.append("the list of pages is longer than a screen")
    return problems + visit.close()


def search(browser: Browser, root: str) -> list[str]:
    """The search finds the loss by its name."""
    visit = Visit(browser, root)
    visit.page.fill("#quarto-search input", "noise consistency")
    try:
        visit.page.wait_for_selector(".search-result", timeout=5000)
    except Exception:
        visit.problems.append("the search for “noise consistency” finds nothing")
    return visit.close()


def lost(browser: Browser, root: str) -> list[str]:
    """An address that leads nowhere shows our own page, with its style."""
    visit = Visit(browser, root + "no/such/page.html")
    problems = []
    if "does not exist" not in visit.page.inner_text("h1"):
        problems.append("no page of our own for a wrong address")
    if visit.page.evaluate("getComputedStyle(document.body).fontFamily").startswith('"Times'):
        problems.append("404.html has no style under another folder")
    return problems + visit.close()


def test_pages(browser: Browser, root: str, words: list[str]) -> Counter:
    """Every page whose name contains a word; prints what is wrong."""
    counts: Counter = Counter()
    for path in sorted(DOCS.rglob("*.html")):
        name = path.relative_to(DOCS).as_posix()
        if words and not any(w in name for w in words):
            continue
        problems = [
            f"{check.__name__}: {text}"
            for check in (wide, narrow, dark)
            for text in check(browser, root + name, name)
        ]
        counts["failed" if problems else "passed"] += 1
        print(
            "FAIL" if problems else "ok  ",
            name,
            *problems,
            sep="\n     " if problems else " ",
            flush=True,
        )
    return counts


def main() -> None:
    if not (DOCS / "index.html").exists():
        sys.exit("test-site: no site in _docs; first: make docs")
    start, server = time.perf_counter(), serve()
    root = f"http://127.0.0.1:{server.server_port}{BASE}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_browser(), args=["--no-sandbox", "--disable-gpu"]
        )
        counts = test_pages(browser, root, sys.argv[1:])
        for check in (home, search, lost):
            problems = check(browser, root)
            counts["failed" if problems else "passed"] += 1
            print("FAIL" if problems else "ok  ", check.__name__, *problems, sep=" ", flush=True)
    print(f"{time.perf_counter() - start:.0f} s in all")
    print(f"{counts['passed']} passed, {counts['failed']} failed")
    sys.exit(bool(counts["failed"]))


if __name__ == "__main__":
    main()
