"""Notebooks for authors.

`notebook.py run [files]` stores real outputs, `notebook.py clean [files]` strips what git need not
know, and `notebook.py shrink [files]` stores pictures in fewer bytes, to the pixel as they are.

Without files, all notebooks under nbs/ are meant.
"""

import ast
import base64
import copy
import hashlib
import io
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
KERNEL = {"display_name": "python3", "language": "python", "name": "python3"}
WIDGET = "application/vnd.jupyter.widget-view+json"
# the first code cell of every page, for readers on Google Colab; torch and numpy are there already
INSTALL = """#| hide
# Google Colab lacks the package: this installs it there. Anywhere else this cell does nothing.
if "google.colab" in str(get_ipython()):
    get_ipython().run_line_magic("pip", "install -q cond_distill[notebooks]")"""
INSTALL_ID = "install-on-colab"
MAX_KB = 300  # of outputs, a notebook
# source that JupyterLab and Colab show folded, as the site does (or does not show at all)
FOLDED = re.compile(r"^#\|\s*(hide|code-fold:\s*true|echo:\s*false)\s*$", re.M)
FOLD = {"cellView": "form", "jupyter": {"source_hidden": True}}
FLAGS = re.compile(r"^#\|\s*(?:eval:\s*false|(notest|slow|cuda))\s*$", re.M)
ADDRESS = re.compile(r"(<.*?)( at 0x[0-9a-fA-F]+)(>)")
ANSI = re.compile(r"\x1b\[[0-9;]*m")

# Without compiled files every kernel compiles PyTorch and diffusers anew: ten seconds a page.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def notebooks(names=()):
    """The named notebooks, or all of nbs/, in order."""
    if names:
        return [Path(n).resolve() for n in names]
    paths = [
        p
        for p in ROOT.glob("nbs/**/*.ipynb")
        if not any(part[0] in "._" for part in p.relative_to(ROOT).parts)
    ]
    return sorted(paths, key=lambda p: (len(p.parts), p))


def short(path):
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def skips_all(nb):
    """Does the front matter say `skip_exec: true`?"""
    return any(
        re.search(r"^-?\s*skip_exec:\s*true\s*$", c.source, re.M)
        for c in nb.cells[:2]
        if c.cell_type != "code"
    )


def flags(cell):
    """Why a cell may not run: 'eval' (never), 'notest', 'slow' or 'cuda'."""
    return (
        {m[1] or "eval" for m in FLAGS.finditer(cell.source)} if cell.cell_type == "code" else set()
    )


# ---- clean
def clean_output(out):
    """The output without numbers, addresses and metadata; None if nothing is worth keeping."""
    if out.output_type == "stream" and out.name == "stderr":
        return None
    if WIDGET in out.get("data", {}):
        return None
    if "execution_count" in out:
        out["execution_count"] = None
    if "metadata" in out:
        out["metadata"] = {}
    out.pop("transient", None)
    if "text" in out:
        out["text"] = ADDRESS.sub(r"\1\3", out["text"])
    for kind, value in out.get("data", {}).items():
        if kind.startswith("text/"):
            out["data"][kind] = ADDRESS.sub(r"\1\3", value)
        if kind.startswith("image/") and "svg" not in kind:
            out["data"][kind] = value.rstrip()
    return out


def joined(outputs):
    """Neighbouring pieces of printed text become one."""
    res = []
    for out in outputs:
        if res and out.output_type == res[-1].output_type == "stream":
            res[-1]["text"] += out["text"]
        else:
            res.append(out)
    return res


def with_install(cells):
    """The cells, with the one that installs the package on Colab before all other code."""
    rest = [c for c in cells if c.get("id") != INSTALL_ID and c.source.strip() != INSTALL]
    first = next((n for n, c in enumerate(rest) if c.cell_type == "code"), None)
    if first is None:
        return rest
    cell = nbformat.v4.new_code_cell(INSTALL, id=INSTALL_ID)
    return rest[:first] + [cell] + rest[first:]


def clean(nb):
    """The notebook as it belongs into git (a copy).

    Source, ids, real outputs, and nothing of the session that made them.
    """
    nb, ids = copy.deepcopy(nb), set()
    nb["nbformat"], nb["nbformat_minor"] = 4, 5
    nb["metadata"] = nbformat.from_dict({"kernelspec": KERNEL})
    nb["cells"] = with_install(nb.cells)
    for n, cell in enumerate(nb.cells):
        folded = cell.cell_type == "code" and FOLDED.search(cell.source)
        cell["metadata"] = nbformat.from_dict(FOLD if folded else {})
        if not cell.get("id") or cell["id"] in ids:
            cell["id"] = hashlib.sha1(f"{n}{cell.source}".encode()).hexdigest()[:8]
        ids.add(cell["id"])
        if cell.cell_type == "code":
            cell["execution_count"] = None
            cell["outputs"] = joined([o for o in map(clean_output, cell.outputs) if o])
    return nb


def outputs(nb):
    return [o for c in nb.cells if c.cell_type == "code" for o in c.outputs]


def shrink_picture(data):
    """A PNG picture in base64: the same pixels in fewer bytes."""
    raw = base64.b64decode(data)
    image = Image.open(io.BytesIO(raw))
    if image.mode == "RGBA" and image.getextrema()[3] == (255, 255):
        image = image.convert("RGB")
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    small = file.getvalue()
    return base64.b64encode(small).decode() if len(small) < len(raw) else data


def shrink(nb):
    """The notebook with its stored PNG pictures in fewer bytes."""
    for out in outputs(nb):
        if "image/png" in out.get("data", {}):
            out["data"]["image/png"] = shrink_picture(out["data"]["image/png"])
    return nb


def mixes(cell):
    """Does a cell that is not exported import and do other things?

    A docs build runs such a cell, without the cells before it.
    """
    if (
        cell.cell_type != "code"
        or "eval" in flags(cell)
        or re.search(r"^#\|\s*export", cell.source, re.M)
    ):
        return False
    try:
        tree = ast.parse(cell.source)
    except SyntaxError:
        # a magic; it runs in a kernel only
        return False
    imports = (ast.Import, ast.ImportFrom)
    return any(isinstance(n, imports) for n in ast.walk(tree)) and not all(
        isinstance(n, imports) for n in tree.body
    )


def problems(path):
    """What is not clean about a notebook, as sentences."""
    nb = nbformat.read(path, nbformat.NO_CONVERT)
    res = []
    if clean(nb) != nb:
        res.append(
            "holds data of a session (metadata, counts, stderr, widgets) or lacks the install "
            "cell; run: make clean-notebooks"
        )
    size = (
        sum(
            len(
                nbformat.v4.writes(
                    nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[o])])
                )
            )
            for o in outputs(nb)
        )
        // 1000
    )
    if size > MAX_KB:
        res.append(
            f"its outputs take {size} kB, at most {MAX_KB} kB are allowed; use fewer or smaller "
            "figures"
        )
    if any(o.output_type == "error" for o in outputs(nb)):
        res.append("an output is an error; run the notebook again")
    runnable = [
        c
        for c in nb.cells
        if c.cell_type == "code" and not flags(c) and re.search(r"^[^#\s]", c.source, re.M)
    ]
    res += [
        f"cell {c.id} imports and does other things; imports stand alone in their cell"
        for c in nb.cells
        if mixes(c)
    ]
    if runnable and not outputs(nb) and not skips_all(nb):
        res.append(f"has no outputs; run: tools/notebook.py run {short(path)}")
    return res


def write(nb, path):
    """Write only what changed."""
    text = nbformat.writes(nb) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    path.write_text(text, encoding="utf-8")
    return True


# ---- run
def execute(nb, folder, skip, timeout=1800):
    """Run, in `folder` and from a clean kernel, every cell that has no flag in `skip`.

    Outputs of skipped cells stay, and of temporary files nothing.
    """
    client = NotebookClient(
        nb,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        extra_arguments=["--IPKernelApp.log_level=40"],
    )
    # checkpoints of all pages together are gigabytes
    with tempfile.TemporaryDirectory(prefix="nb", ignore_cleanup_errors=True) as temporary:
        env = dict(
            os.environ,
            TMPDIR=temporary,
            PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(
                os.pathsep
            ),
        )
        with client.setup_kernel(env=env):
            for n, cell in enumerate(nb.cells):
                if cell.cell_type == "code" and not flags(cell) & skip:
                    client.execute_cell(cell, n)


def plain(error):
    return ANSI.sub("", str(error)).strip()[-4000:]


def has_cuda():
    import torch

    return torch.cuda.is_available()


def run(path):
    """Execute in place; a notebook that fails is left as it was."""
    nb, start = nbformat.read(path, 4), time.perf_counter()
    skip = {"eval"} if has_cuda() else {"eval", "cuda"}
    if not skips_all(nb):
        try:
            execute(nb, path.parent, skip)
        except CellExecutionError as error:
            print(f"FAILED {short(path)}\n{plain(error)}")
            return False
    write(shrink(clean(nb)), path)
    print(
        f"ran {short(path)} in {time.perf_counter() - start:.0f} s",
        *problems(path),
        sep="\n  ",
        flush=True,
    )
    return True


def main():
    verb, names = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if verb == "run":
        sys.exit(not all([run(p) for p in notebooks(names)]))
    if verb not in ("clean", "shrink"):
        sys.exit(__doc__)
    for path in notebooks(names):
        nb = clean(nbformat.read(path, nbformat.NO_CONVERT))
        if write(shrink(nb) if verb == "shrink" else nb, path):
            print("wrote", short(path))


if __name__ == "__main__":
    main()
