"""Pages in JupyterLab, in a real browser: `make test-jupyter`.

Every cell of a page runs (*Run all*, as a reader does it) and none fails; where a page has a
slider, moving it changes the picture. `test_jupyter.py WORD …` takes the pages whose name has a
word; the course, without one.
"""

import base64
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from notebook import ROOT, notebooks, short
from playwright.sync_api import Page, sync_playwright
from test_site import find_browser

MINUTES = 15  # at most, a page
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


def test_page(browser, address: str, name: str) -> list[str]:
    """One page; what is wrong."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{address}/tree/{name}?reset")
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=120_000)
    page.wait_for_function(
        "window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
        timeout=120_000,
    )
    found = run_all(page) or (
        move_slider(page) if "interact(" in (ROOT / "nbs" / name).read_text() else []
    )
    page.close()
    return found


def main() -> None:
    words = sys.argv[1:] or ["nbs/course/"]
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
                start, found = time.perf_counter(), test_page(browser, address, name)
                failed += bool(found)
                seconds = f"({time.perf_counter() - start:.0f} s)"
                print("FAIL" if found else "ok  ", name, seconds, *found, flush=True)
        finally:
            lab.terminate()
            lab.wait()
    print(f"{len(names) - failed} passed, {failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
