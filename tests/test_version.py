"""The command tells its version, without loading a heavy library."""

import cond_distill
from cond_distill.cli import main


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out.strip() == cond_distill.__version__
