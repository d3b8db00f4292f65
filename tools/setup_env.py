"""Make .venv ready: `setup_env.py` for the demo, `setup_env.py dev` for tests and docs too.

Needs nothing but Python.

The second run does nothing: a stamp in .venv remembers what was installed. TORCH=cpu or TORCH=cuda
picks the build of torch; without it, a machine on which `nvidia-smi` works gets the one with CUDA
and every other machine the one without.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, "cond_distill.json")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# the other one, constraints-oldest.txt, has the lowest versions that are allowed
CONSTRAINTS = os.environ.get("CONSTRAINTS") or "constraints.txt"
SUPPORTED = ["3.10", "3.11", "3.12", "3.13"]


def stop(text):
    sys.exit("setup: " + text)


def say(text):
    print("setup: " + text, flush=True)


def check_python():
    """Stop unless this is a Python that the pinned versions exist for."""
    version = "%d.%d" % sys.version_info[:2]
    if version in SUPPORTED:
        return
    names = [name for name in ("python" + v for v in reversed(SUPPORTED)) if shutil.which(name)]
    hint = (
        "make test PYTHON=" + names[0]
        if names
        else "install one of them, then: make test PYTHON=python3.12"
    )
    stop(
        "this is Python %s; the package is tested on %s. Try: %s"
        % (version, ", ".join(SUPPORTED), hint)
    )


def digest():
    """What the installed packages follow from.

    The files that name them, and the version of Python.
    """
    sha = hashlib.sha256(("%d.%d" % sys.version_info[:2]).encode())
    for name in (CONSTRAINTS, "settings.ini", "setup.py", "pyproject.toml"):
        with open(os.path.join(ROOT, name), "rb") as file:
            sha.update(file.read())
    return sha.hexdigest()


def read_stamp():
    """What .venv holds; {} if it is not there, is not finished, or has moved."""
    try:
        with open(STAMP) as file:
            stamp = json.load(file)
    except (OSError, ValueError):
        return {}
    return stamp if stamp.get("root") == ROOT and os.path.exists(PYTHON) else {}


def has_gpu():
    try:
        return (
            subprocess.run(
                ["nvidia-smi"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=20
            ).returncode
            == 0
        )
    except (OSError, subprocess.SubprocessError):
        return False


def wanted_torch(stamp):
    """'cpu' or 'cuda': what is asked for, else what is there, else what the machine can use."""
    choice = os.environ.get("TORCH", "")
    if choice not in ("", "cpu", "cuda"):
        stop("TORCH=%s is unknown; use TORCH=cpu or TORCH=cuda" % choice)
    return choice or stamp.get("torch") or ("cuda" if has_gpu() else "cpu")


def make_venv():
    """A new .venv, unless there is one of the same Python."""
    same = 'import sys; print("%d.%d" % sys.version_info[:2], sys.prefix)'
    if os.path.exists(PYTHON):
        run = subprocess.run([PYTHON, "-c", same], stdout=subprocess.PIPE, universal_newlines=True)
        if run.returncode == 0 and run.stdout.split() == ["%d.%d" % sys.version_info[:2], VENV]:
            return
    say("making .venv with Python %d.%d" % sys.version_info[:2])
    if subprocess.run([sys.executable, "-m", "venv", "--clear", VENV]).returncode:
        stop("python -m venv failed; on Debian and Ubuntu: apt install python3-venv")


def pip(*args, **kw):
    return subprocess.run(
        [PYTHON, "-m", "pip", "--disable-pip-version-check"] + list(args), cwd=ROOT, **kw
    )


def install(*args):
    if pip("install", "-qq", "--no-compile", "-c", CONSTRAINTS, *args).returncode:
        stop("pip could not install " + " ".join(args))


def pinned_torch():
    with open(os.path.join(ROOT, CONSTRAINTS)) as file:
        return re.search(r"^torch==(\S+)", file.read(), re.M).group(1)


def reachable(url, seconds=4):
    """Does `url` answer within `seconds`, name look-up included?"""
    answer = []

    def ask():
        try:
            answer.append(urllib.request.urlopen(url, timeout=seconds).status == 200)
        except Exception:
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answer == [True]


def torch_args(build, version):
    """What to tell pip so that it takes this build of torch; never gigabytes of CUDA unasked."""
    # elsewhere the ordinary build is the small one
    if build == "cuda" or not sys.platform.startswith("linux"):
        return ["torch==" + version]
    if reachable(CPU_INDEX + "/torch/"):
        return ["--index-url", CPU_INDEX, "torch==%s+cpu" % version]
    listed = pip(
        "index",
        "versions",
        "torch",
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        universal_newlines=True,
    ).stdout
    if re.search(r"\b%s\+cpu\b" % re.escape(version), listed):
        return ["torch==%s+cpu" % version]
    stop(
        "no CPU build of torch %s for this Python: %s does not answer, and pip's own index has "
        "only builds with CUDA (several GB).\n"
        "       Make that address reachable, or point PIP_FIND_LINKS to a folder with the wheel, "
        "or ask for CUDA with TORCH=cuda." % (version, CPU_INDEX)
    )


def install_torch(build):
    """The pinned torch in the wanted build; its own requirements come with the package's."""
    version = pinned_torch()
    code = "from importlib.metadata import version; print(version('torch'))"
    installed = subprocess.run(
        [PYTHON, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        universal_newlines=True,
    ).stdout.strip()
    local = "+cpu" if build == "cpu" and sys.platform.startswith("linux") else ""
    if installed == version + local:
        return
    say("installing torch %s (%s)" % (version, build))
    if installed:
        pip("uninstall", "-qq", "--yes", "torch")
    install("--no-deps", *torch_args(build, version))


def main():
    check_python()
    if not os.path.exists(os.path.join(ROOT, CONSTRAINTS)):
        stop("no file %s; CONSTRAINTS names a file beside the Makefile" % CONSTRAINTS)
    stamp, extras = read_stamp(), sys.argv[1:]
    build, extras = wanted_torch(stamp), sorted(set(extras) | set(stamp.get("extras", [])))
    new = {"digest": digest(), "torch": build, "extras": extras, "root": ROOT}
    if new == stamp:
        return
    make_venv()
    if os.path.exists(STAMP):
        os.remove(STAMP)
    install("setuptools")
    install_torch(build)
    say("installing the package and what it needs (a few minutes the first time)")
    install("--no-build-isolation", "-e", ".[%s]" % ",".join(extras) if extras else ".")
    with open(STAMP, "w") as file:
        json.dump(new, file)
    say("done")


if __name__ == "__main__":
    main()
