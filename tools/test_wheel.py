"""The wheel alone, as a stranger gets it: `make test-wheel`.

Builds wheel and sdist, checks them, installs the wheel into an environment of its own, and then, in
empty folders: `cond-distill sample` for every shipped adaptor, and every notebook, all its cells.
`test_wheel.py WORD …` runs only what has a name with one of the words; `--again` takes the
environment as it is.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import setup_env
from notebook import ROOT, notebooks, short

DIST, ENV = ROOT / "dist", ROOT / "build" / "wheel_env"
MAX_MB = 80
IN_SDIST = ("nbs/index.ipynb", "tools/docs.py", "tests/tiny.py", "configs/fsdp.yaml", "Makefile")
IN_WHEEL = ("cond_distill/py.typed", "cond_distill/project/results/table.md")
RELATIVE = re.compile(r"""(?:\]\(|(?:src|href)=["'])(?![a-z]+:|#)([^)\s"']+)""")
# inputs for the command line, from the package's own world
MAKE_INPUTS = """
import numpy as np
from PIL import Image
from cond_distill.data.scenes import Scenes

scene = Scenes("held_out", size=64)[0]
def save(name, x):
    pixels = (x.clamp(0, 1).permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    Image.fromarray(pixels.squeeze()).save(name)
save("image.png", scene["image"])
save("depth.png", scene["depth"])
Image.open("image.png").resize((16, 16)).save("small.png")
mask = np.zeros((64, 64), np.uint8)
mask[16:40, 16:40] = 255
Image.fromarray(mask).save("mask.png")
"""
ASK = {
    "depth": ["--image", "depth.png"],
    "superres": ["--image", "small.png"],
    "inpaint": ["--image", "image.png", "--mask", "mask.png"],
    "edit": ["--image", "image.png", "--caption", "make the cube red"],
    "photos": ["--image", "small.png"],
}


def call(command: list, folder: Path = ROOT, minutes: int = 20) -> str:
    """Run a command with nothing of the repository on the path; its output."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    run = subprocess.run(
        [str(c) for c in command],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=60 * minutes,
    )
    if run.returncode:
        raise RuntimeError((run.stdout + run.stderr)[-3000:])
    return run.stdout + run.stderr


def build() -> Path:
    """Wheel and sdist, complete, small enough and accepted by the package index; the wheel."""
    shutil.rmtree(DIST, ignore_errors=True)
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)
    printed = call([sys.executable, "-m", "build", "--outdir", DIST])
    warnings = re.findall(r".*(?:Deprecat|absent from).*", printed)
    assert not warnings, "the build warns:\n" + "\n".join(warnings)
    call([sys.executable, "-m", "twine", "check", "--strict", *DIST.iterdir()])
    wheel, sdist = next(DIST.glob("*.whl")), next(DIST.glob("*.tar.gz"))
    for file in (wheel, sdist):
        size = file.stat().st_size / 1e6
        assert size <= MAX_MB, f"{file.name} has {size:.0f} MB, at most {MAX_MB}"
        print(f"     {file.name}: {size:.0f} MB")
    names = {n.partition("/")[2] for n in tarfile.open(sdist).getnames()}
    lost = set(IN_SDIST) - names | set(IN_WHEEL) - set(zipfile.ZipFile(wheel).namelist())
    assert not lost, f"missing in the sdist or the wheel: {', '.join(sorted(lost))}"
    relative = RELATIVE.findall(description(wheel))
    assert not relative, f"links that the package index cannot follow: {', '.join(relative)}"
    return wheel


def description(wheel: Path) -> str:
    """What the package index shows."""
    with zipfile.ZipFile(wheel) as files:
        name = next(n for n in files.namelist() if n.endswith(".dist-info/METADATA"))
        return files.read(name).decode()


def install(wheel: Path) -> None:
    """The wheel in a new environment, with the tested versions and torch's build for CPUs."""
    shutil.rmtree(ENV, ignore_errors=True)
    call([sys.executable, "-m", "venv", ENV])
    pip = [ENV / "bin" / "pip", "install", "-q", "--no-compile", "-c", ROOT / "constraints.txt"]
    call([*pip, *setup_env.torch_args("cpu", setup_env.pinned_torch())])
    call([*pip, f"{wheel}[notebooks]", "nbclient", "ipykernel"])


def make_inputs(folder: Path) -> None:
    """A picture, its depth map, a small copy and a mask."""
    call([ENV / "bin" / "python", "-c", MAKE_INPUTS], folder)


def test_sample(adaptor: str) -> None:
    """`cond-distill sample` with a shipped adaptor, in an empty folder."""
    with tempfile.TemporaryDirectory() as tmp:
        make_inputs(Path(tmp))
        ask = ASK[adaptor.split("_")[0]]
        command = ENV / "bin" / "cond-distill"
        call([command, "sample", "--adaptor", adaptor, *ask, "--out", "out.png"], Path(tmp))
        assert Path(tmp, "out.png").stat().st_size > 1000, "no picture was written"


def test_notebook(path: Path) -> None:
    """Every cell of a notebook, in an empty folder."""
    with tempfile.TemporaryDirectory() as tmp:
        shutil.copy(path, tmp)
        call([ENV / "bin" / "jupyter-execute", "--timeout=1800", path.name], Path(tmp), minutes=40)


def needs_repository(path: Path) -> bool:
    """Does a page say at its head that the package alone is not enough for it?"""
    return "**needs the repository**" in path.read_text(encoding="utf-8")


def outcome(name: str, test, *args) -> bool:
    """Run one test, print its line; whether it passed."""
    start = time.perf_counter()
    try:
        test(*args)
    except Exception as error:
        print(f"FAIL {name}\n     " + str(error).strip().replace("\n", "\n     "), flush=True)
        return False
    print(f"ok   {name} ({time.perf_counter() - start:.0f} s)", flush=True)
    return True


def main() -> None:
    words = [w for w in sys.argv[1:] if w != "--again"]
    if "--again" not in sys.argv:
        install(build())
        print("ok   built, checked and installed", flush=True)
    assets = ENV.glob("lib/*/site-packages/cond_distill/assets/*/cond_distill.json")
    tests = [(f"sample {p.parent.name}", test_sample, p.parent.name) for p in sorted(assets)]
    tests += [(short(p), test_notebook, p) for p in notebooks() if not needs_repository(p)]
    tests = [t for t in tests if not words or any(w in t[0] for w in words)]
    results = [outcome(*test) for test in tests]
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
