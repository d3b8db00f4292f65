"""Pages in JupyterLab, in a real browser: `make test-jupyter`.

Every cell of a page runs (*Run all*, as a reader does it) and none fails; where a page has a
slider, moving it changes the picture; where it has a canvas, outlines are drawn with the mouse, and
the picture must follow, within a second in the median. `test_jupyter.py WORD …` takes the pages
whose name has a word; the course and the page of the canvas, without one.
"""

import base64
import hashlib
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from notebook import ROOT, notebooks, short
from playwright.sync_api import Page, TimeoutError, sync_playwright
from test_site import find_browser

MINUTES = 15  # at most, a page
SECONDS = 1.0  # at most, from the end of an outline to its picture, the median of some
RUN_ALL = "() => window.jupyterapp.commands.execute('runmenu:run-all')"
# how many cells have run, and what went wrong
STATE = """() => {
    const panel = window.jupyterapp.shell.currentWidget;
    const cells = [...panel.content.model.cells].filter(c => c.type === 'code');
    const failed = cells.flatMap(c => c.toJSON().outputs).filter(o => o.output_type === 'error');
    return {
        all: cells.filter(c => c.sharedModel.source.trim()).length,
        run: cells.filter(c => c.executionCount).length,
        busy: panel.sessionContext.session?.kernel?.status !== 'idle',
        failed: failed.map(o => o.ename + ': ' + o.evalue),
    };
}"""

# note when the pointer goes up and when the picture changes, in milliseconds
WATCH_PAD = """pad => {
    window.padUp = window.padNew = 0;
    pad.querySelector('canvas').addEventListener('pointerup', () => {
        [window.padUp, window.padNew] = [performance.now(), 0];
    });
    new MutationObserver(() => { window.padNew ||= performance.now(); })
        .observe(pad.querySelector('img'), {attributeFilter: ['src']});
}"""


def free_port() -> int:
    """A port of this machine that nothing listens to."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start_lab(folder: Path) -> tuple[subprocess.Popen, str]:
    """JupyterLab on a copy of the pages, and its address."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"),
        *(f"--port={port}", "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True"),
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    env = dict(os.environ, PYTHONPATH=str(ROOT), JUPYTER_CONFIG_DIR=str(folder / ".jupyter"))
    lab = subprocess.Popen(
        command, cwd=folder / "nbs", env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}/lab"
    for _ in range(240):
        try:
            urllib.request.urlopen(address, timeout=5)
            return lab, address
        except OSError:
            time.sleep(0.5)
    lab.terminate()
    raise SystemExit("test-jupyter: JupyterLab did not start within two minutes")


def run_all(page: Page) -> list[str]:
    """Run all cells and wait; the errors."""
    page.evaluate(RUN_ALL)
    end, state = time.time() + 60 * MINUTES, {}
    while time.time() < end:
        time.sleep(1)
        state = page.evaluate(STATE)
        if state["failed"] or (state["run"] >= state["all"] and not state["busy"]):
            return state["failed"]
    return [f"{state['run']} of {state['all']} cells have run after {MINUTES} minutes"]


def picture(page: Page) -> str:
    """A name for the picture of the first widget."""
    image = page.locator(".jp-OutputArea-output .widget-output img, .jupyter-widgets img").first
    source = image.get_attribute("src", timeout=60_000) or ""
    return hashlib.sha256(base64.b64decode(source.partition(",")[2])).hexdigest()


def move_slider(page: Page) -> list[str]:
    """Move the first slider of the page; what is wrong if the picture stays."""
    handle = page.locator(".widget-slider .noUi-handle").first
    if handle.count() == 0:
        return []
    handle.scroll_into_view_if_needed()
    before = picture(page)
    handle.focus()
    for _ in range(5):
        page.keyboard.press("PageUp")
    for _ in range(60):
        time.sleep(0.5)
        if picture(page) != before:
            return []
    return ["the slider moves and the picture stays"]


def draw_outlines(page: Page, number: int = 7) -> list[str]:
    """Draw outlines on the canvas of the page; what is wrong if no picture follows, or too late."""
    pad = page.locator(".sketch-pad").first
    pad.locator("canvas").scroll_into_view_if_needed()
    pad.evaluate(WATCH_PAD)
    waits = []
    for k in range(number):
        box, left = pad.locator("canvas").bounding_box(), 0.05 + 0.1 * k
        corners = [(left, 0.8), (left, 0.3), (left + 0.2, 0.3), (left + 0.2, 0.8)]
        places = [(box["x"] + u * box["width"], box["y"] + v * box["height"]) for u, v in corners]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place, steps=8)
        page.mouse.up()
        try:
            page.wait_for_function("window.padNew > 0", timeout=60_000)
        except TimeoutError:
            return ["an outline is drawn on the canvas and the picture stays"]
        waits.append(page.evaluate("(window.padNew - window.padUp) / 1000"))
    middle = statistics.median(waits)
    print(
        f"     canvas: {middle:.2f} s from outline to picture, the median of {number}", flush=True
    )
    return [f"{middle:.2f} s are too long"] if middle > SECONDS else []


def test_page(browser, address: str, name: str) -> list[str]:
    """One page; what is wrong."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{address}/tree/{name}?reset")
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=120_000)
    page.wait_for_function(
        "window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
        timeout=120_000,
    )
    source = (ROOT / "nbs" / name).read_text(encoding="utf-8")
    problems = run_all(page)
    if not problems and "interact(" in source:
        problems = move_slider(page)
    if not problems and "Sketch(" in source:
        problems = draw_outlines(page)
    page.close()
    return problems


def main() -> None:
    words = sys.argv[1:] or ["nbs/course/", "nbs/library/sketch"]
    names = [
        re.sub("^nbs/", "", short(p)) for p in notebooks() if any(w in short(p) for w in words)
    ]
    failed = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as tmp, sync_playwright() as play:
        shutil.copytree(ROOT / "nbs", Path(tmp, "nbs"))
        lab, address = start_lab(Path(tmp))
        try:
            browser = play.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
            for name in names:
                start, problems = time.perf_counter(), test_page(browser, address, name)
                failed += bool(problems)
                seconds = f"({time.perf_counter() - start:.0f} s)"
                print("FAIL" if problems else "ok  ", name, seconds, *problems, flush=True)
        finally:
            lab.terminate()
            lab.wait()
    print(f"{len(names) - failed} passed, {failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
