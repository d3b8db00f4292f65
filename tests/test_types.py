"""The package's types, checked by ty (1.8 s; basedpyright takes 24 s here, mypy 55 s).

`known_types.json` counts the places in each module that are not clean today. The counts may only
shrink; a module that is not listed has none. `python tests/test_types.py` writes smaller counts.
"""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KNOWN_FILE = Path(__file__).with_name("known_types.json")


def findings() -> list[str]:
    """One line for each place that ty does not like."""
    checker = Path(sys.executable).with_name("ty")
    command = [checker, "check", "--output-format", "concise", "--python", sys.executable]
    run = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode in (0, 1), run.stderr
    return re.findall(r"^cond_distill/\S+\.py:.*", run.stdout, re.M)


def count(lines: list[str]) -> Counter:
    """How many findings each module has."""
    return Counter(line.partition(":")[0] for line in lines)


@pytest.mark.skipif(
    bool(os.environ.get("CONSTRAINTS")),
    reason="the counts hold for the versions of constraints.txt",
)
def test_types():
    known, lines = Counter(json.loads(KNOWN_FILE.read_text())), findings()
    grown = {module for module, n in count(lines).items() if n > known[module]}
    shown = [line for line in lines if line.partition(":")[0] in grown]
    assert not grown, (
        "more findings than tests/known_types.json counts; mend the new ones (a comment "
        "`# ty: ignore[rule]` with the reason is the last way out):\n" + "\n".join(shown)
    )


if __name__ == "__main__":
    before, now = Counter(json.loads(KNOWN_FILE.read_text())), count(findings())
    KNOWN_FILE.write_text(json.dumps(dict(sorted((before & now).items())), indent=1) + "\n")
