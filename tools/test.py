"""All tests.

The exported package, the notebooks' hygiene, the README, links, import time, the tests under
tests/, and every notebook run from a clean kernel.

`test.py --fast` runs no notebook; `test.py --only scenes readme` runs the tests whose name contains
one of the words. What is long runs two at a time: the notebooks, and pytest beside them.
"""

import argparse
import hashlib
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from urllib.parse import unquote

import nbformat
import readme as readme_tool
from notebook import ROOT, flags, notebooks, plain, problems, short, skips_all

LINK = re.compile(r"""(?:\]\(|(?:src|href)=["'])([^)\s"']+)""")
MACHINE = re.compile(r"(?<![\w.:/~-])/(?:home|root|tmp|work|Users|workspace)(?![\w-])[^\s\"'`)]*")
FENCE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.M | re.S)


def call(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def tool(name):
    return os.path.join(os.path.dirname(sys.executable), name)


def tracked():
    """All files of the project that git does not ignore."""
    names = call("git", "ls-files", "-co", "--exclude-standard", "-z")
    assert names.returncode == 0, f"git is needed to list the project's files: {names.stderr}"
    return [p for p in map(ROOT.joinpath, filter(None, names.stdout.split("\0"))) if p.is_file()]


def digests():
    return {
        short(p): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(ROOT.glob("cond_distill/**/*.py")) + [ROOT / "pyproject.toml"]
    }


def test_export():
    """The package is what the notebooks export."""
    before = digests()
    run = call(tool("nbdev_export"))
    assert run.returncode == 0, run.stderr
    changed = sorted(k for k, v in digests().items() if before.get(k) != v)
    assert not changed, (
        f"not what the notebooks export (now it is; commit it): {', '.join(changed)}"
    )
    modules = list(ROOT.glob("cond_distill/**/[!_]*.py"))
    sources = {
        p: re.search(r"File to edit: (?:\.\./)+(\S+\.ipynb)", p.read_text()) for p in modules
    }
    alone = [
        short(p) for p, header in sources.items() if not header or not (ROOT / header[1]).exists()
    ]
    assert not alone, (
        f"{', '.join(alone)}: no notebook exports these modules; delete them or name the notebook"
    )


def test_clean():
    """Notebooks hold sources and real outputs and nothing else."""
    dirty = [f"{short(p)}: {text}" for p in notebooks() for text in problems(p)]
    assert not dirty, "\n".join(dirty)


def test_readme():
    """README.md is what nbs/index.ipynb says."""
    text = readme_tool.readme(nbformat.read(readme_tool.SOURCE, 4))
    assert readme_tool.TARGET.read_text(encoding="utf-8") == text, (
        "README.md differs from nbs/index.ipynb; run: make readme"
    )


def prose(path):
    """The markdown of a page or a notebook, without its code."""
    if path.suffix == ".md":
        text = path.read_text(encoding="utf-8")
    else:
        text = "\n\n".join(
            c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown"
        )
    return FENCE.sub("", text)


def dead_links(path):
    """Relative links of a page that lead to no file."""
    links = [m for m in LINK.findall(prose(path)) if not re.match(r"[a-z]+:|#|//", m)]
    return [link for link in links if not (path.parent / unquote(link.split("#")[0])).exists()]


def test_links():
    """Relative links lead to files; a link to our repository's own files leads to one too."""
    pages = notebooks() + [p for p in tracked() if p.suffix == ".md"]
    dead = [f"{short(p)}: {link}" for p in pages for link in dead_links(p)]
    badge = re.compile(r"github/[\w-]+/cond_distill/blob/main/([^)\s\"]+)")
    dead += [
        f"{short(p)}: Colab badge of {m}"
        for p in pages
        for m in badge.findall(prose(p))
        if not (ROOT / m).exists()
    ]
    assert not dead, "these lead nowhere:\n" + "\n".join(dead)


def test_sidebar():
    """The documentation's sidebar names every page."""
    sidebar = (ROOT / "nbs/_quarto.yml").read_text(encoding="utf-8")
    alone = [
        short(p)
        for p in notebooks()
        if p.name not in sidebar and f"{p.parent.name}/*.ipynb" not in sidebar
    ]
    assert not alone, f"nbs/_quarto.yml does not name {', '.join(alone)}"


def seconds(*command):
    """The fastest of three runs."""

    def once():
        start = time.perf_counter()
        run = call(*command)
        assert run.returncode == 0, f"{' '.join(command)}\n{run.stderr}"
        return time.perf_counter() - start

    return min(once() for _ in range(3))


def test_import():
    """`import cond_distill` and `cond-distill --help` are fast: they load no heavy library."""
    heavy = "{'torch', 'diffusers', 'transformers', 'matplotlib', 'numpy'} & set(sys.modules)"
    for text in ("cond_distill", "cond_distill.cli"):
        run = call(sys.executable, "-c", f"import sys, {text}; print(*({heavy}))")
        assert run.returncode == 0 and not run.stdout.strip(), (
            f"import {text} loads {run.stdout or run.stderr}"
        )
    bare = seconds(sys.executable, "-c", "pass")
    took = (
        seconds(sys.executable, "-c", "import cond_distill") - bare,
        seconds(tool("cond-distill"), "--help"),
    )
    assert took[0] < 0.5 and took[1] < 1, (
        f"import {took[0]:.2f} s (at most 0.5), --help {took[1]:.2f} s (at most 1)"
    )


def test_names():
    """Every public name of the package exists."""
    run = call(
        sys.executable, "-c", "import cond_distill as c\nfor name in c.__all__: getattr(c, name)"
    )
    assert run.returncode == 0, run.stderr.strip()[-600:]


def texts():
    """Every text file of the project with its name."""
    for path in tracked():
        try:
            yield path, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            pass


def test_paths():
    """No file names a folder of somebody's machine."""
    hits = [f"{short(path)}: {m[0]}" for path, text in texts() for m in MACHINE.finditer(text)]
    assert not hits, "paths of one machine:\n" + "\n".join(hits[:20])


def test_format():
    """Notebooks and scripts are formatted, and the linter has nothing to say about them."""
    for verb in (["format", "--check"], ["check"]):
        run = call(tool("ruff"), *verb, ".")
        assert run.returncode == 0, f"ruff {' '.join(verb)}:\n{(run.stdout + run.stderr)[-4000:]}"


def test_types():
    """The type checker has nothing new to say about the package."""
    run = call(sys.executable, "-m", "pytest", "-q", "tests/test_types.py")
    assert run.returncode == 0, run.stdout[-4000:]


def test_pytest():
    """The tests under tests/."""
    run = call(sys.executable, "-m", "pytest", "--durations=5")
    print(*run.stdout.strip().splitlines()[-7:], sep="\n", flush=True)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-1000:]


def run_cells(path, folder):
    """Every cell of a page in an IPython of its own; what it writes goes to `folder`/output."""
    from IPython.core.interactiveshell import InteractiveShell

    out = os.open(os.path.join(folder, "output"), os.O_WRONLY | os.O_CREAT)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ["TMPDIR"], tempfile.tempdir, sys.argv = folder, None, ["page"]
    os.chdir(path.parent)
    sys.path.insert(0, "")
    shell = InteractiveShell.instance(colors="nocolor")
    # pictures are drawn, as in a notebook, though nobody looks at them
    shell.display_formatter.active_types = list(shell.display_formatter.formatters)
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code" and not flags(cell) & {"eval", "notest", "slow", "cuda"}:
            if not shell.run_cell(cell.source, store_history=True).success:
                sys.exit(f"in cell {cell.id}")


def run_notebook(path, timeout=1800):
    """One notebook in a process of its own; nothing is written back.

    The process is forked from one that has imported the heavy libraries: that takes longer than
    most pages do. (`make test-wheel` and `make test-jupyter` run the pages in Jupyter's kernels.)
    """
    if skips_all(nbformat.read(path, 4)):
        return
    # checkpoints of all pages together are gigabytes
    with tempfile.TemporaryDirectory(prefix="nb", ignore_cleanup_errors=True) as folder:
        page = FORKS.Process(target=run_cells, args=(path, folder))
        page.start()
        page.join(timeout)
        page.kill()
        page.join()
        if page.exitcode:
            text = Path(folder, "output").read_text(encoding="utf-8", errors="replace")
            raise AssertionError(plain(f"{text}\n(exit code {page.exitcode})"))


def quick_tests():
    return {name[5:]: test for name, test in globals().items() if name.startswith("test_")}


FORKS = multiprocessing.get_context("forkserver")
HEAVY = [
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.pipelines.pipeline_utils",
    "IPython.core.interactiveshell",
    "matplotlib.pyplot",
    "transformers.models.clip.modeling_clip",
]
INLINE = "module://matplotlib_inline.backend_inline"
LONGER = {"pytest"}  # minutes: beside the notebooks, and not among the tests of `make lint`


def outcome(name):
    """Run one test; its line, and whether it passed."""
    start, error = time.perf_counter(), ""
    try:
        if name.endswith(".ipynb"):
            run_notebook(ROOT / name)
        else:
            quick_tests()[name]()
    except Exception as e:
        error = str(e) if isinstance(e, AssertionError) else f"{type(e).__name__}: {e}"
    line = f"{'FAIL' if error else 'ok  '} {name} ({time.perf_counter() - start:.1f} s)"
    return line + (f"\n{error}".replace("\n", "\n     ") if error else ""), not error


def outcomes(names, jobs):
    """The outcome of every test.

    The quick ones first, one by one (they measure times), then pytest and the notebooks, the
    longest first, `jobs` at a time.
    """
    long = [n for n in names if n in LONGER or n.endswith(".ipynb")]
    for name in names:
        if name not in long:
            yield outcome(name)
    long.sort(key=lambda name: -expected(name))
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    os.environ.update(COND_DISTILL_TEST="1", HF_HUB_OFFLINE="1", MPLBACKEND=INLINE)
    os.environ.setdefault("OMP_NUM_THREADS", threads)
    FORKS.set_forkserver_preload(HEAVY)
    with ThreadPoolExecutor(jobs) as pool:
        for future in as_completed([pool.submit(outcome, n) for n in long]):
            yield future.result()


def expected(name):
    """Minutes on two cores: of a notebook from its own second cell."""
    if name in LONGER:
        return 10  # begin with it
    text = "\n".join(c.source for c in nbformat.read(ROOT / name, 4).cells[:3])
    match = re.search(r"runs in\*{0,2} (?:about |under )?(\d+)", text)
    return int(match[1]) if match else 0


def main():
    args = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    args.add_argument("--fast", action="store_true", help="run no notebook")
    args.add_argument(
        "--only",
        nargs="+",
        default=[""],
        metavar="WORD",
        help="only tests whose name contains a word",
    )
    args.add_argument("--jobs", type=int, default=2, help="long tests at a time (2)")
    args = args.parse_args()
    names = (
        [n for n in quick_tests() if n not in LONGER]
        if args.fast
        else [*quick_tests(), *map(short, notebooks())]
    )
    chosen = [n for n in names if any(word in n for word in args.only)]
    if not chosen:
        sys.exit("no test has a name with " + " or ".join(args.only))
    start, passed = time.perf_counter(), 0
    for line, good in outcomes(chosen, args.jobs):
        print(line, flush=True)
        passed += good
    print(
        f"{time.perf_counter() - start:.0f} s in all\n{passed} passed, {len(chosen) - passed} "
        "failed"
    )
    sys.exit(passed < len(chosen))


if __name__ == "__main__":
    main()
