"""The command line, called as its user calls it."""

import pytest

from ssi_core.cli import main

FEW = ["--steps", "6", "--skip", "0.1", "--device", "cpu"]


def ssi(capsys, *arguments):
    """(exit code, stdout, stderr) of a command, with the terminal's line breaks taken out."""
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return stopped.value.code or 0, " ".join(out.split()), " ".join(err.split())
