"""Experiments carried out and written down: figures, tables and one page that opens offline.

A folder an experiment: `outcome.json` (what it found and what it was run with), `tables.md`, `tables.csv`, `*.png`.
`outcome.json` is written last, so that it says that the folder is whole; `all` passes over what is whole already.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..artifact import write_text
from ..errors import InputError
from ..report.figures import save_plot
from ..report.page import inlined, render
from ..report.tables import Table, as_csv, markdown
from ..version import __version__
from .catalogue import EXPERIMENTS
from .experiment import Experiment, Finding, Lab, find_experiment

OUTCOME = "outcome.json"
PAGE = "report.html"
LARGEST_SCALE = 1000.0


@dataclass(frozen=True)
class Written:
    """An experiment as it lies in its folder."""

    experiment: Experiment
    folder: Path
    findings: list[Finding]
    tables: list[Table]
    figures: list[Path]
    notes: list[str]
    facts: dict[str, Any]


def run_experiment(name: str, folder: Path, lab: Lab) -> Written:
    """Run one experiment and write what it gives.

    Args:
        name: of the experiment.
        folder: made if it is missing; files of an earlier run are replaced one by one, each old or new, never half.
        lab: seed, scale and progress.

    Returns:
        What was written.

    Raises:
        InputError: unknown name, a scale that makes no sense, or a folder that cannot be written.
    """
    chosen = find_experiment(name)
    if not 0 < lab.scale <= LARGEST_SCALE or not math.isfinite(lab.scale):
        raise InputError(f"scale {lab.scale:g}: must be positive and at most {LARGEST_SCALE:g}; 1 is the requirement's")
    if lab.seed < 0:
        raise InputError(f"seed {lab.seed}: must be 0 or more")
    began, spent = time.monotonic(), time.process_time()
    found = chosen.run(lab)
    facts = {
        **_asked(lab), "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(time.process_time() - spent, 1), "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / OUTCOME).unlink(missing_ok=True)  # not whole while it is being replaced
        for title, figure in found.figures.items():
            save_plot(figure, folder / f"{title}.png")
        judged = _judged(found.findings)
        write_text(folder / "tables.md", "\n".join(map(markdown, [judged, *found.tables])))
        write_text(folder / "tables.csv", as_csv([judged, *found.tables]))
        document = {
            "name": name, "findings": [asdict(finding) for finding in found.findings],
            "tables": [asdict(table) for table in found.tables], "figures": list(found.figures), "notes": found.notes,
            "facts": facts,
        }  # fmt: skip
        write_text(folder / OUTCOME, json.dumps(document, indent=1))
    except OSError as error:
        raise InputError(f"output {folder}: cannot be written ({error.strerror})") from error
    return read_outcome(folder)


def run_all(out: Path, lab: Lab, names: Sequence[str] = ()) -> list[Written]:
    """Run experiments that `out` does not hold yet (with this version, seed and scale), each in a folder of its own.

    Raises:
        InputError: as `run_experiment`.
    """
    done = []
    for name in names or list(EXPERIMENTS):
        folder = out / name
        there = _whole(folder, lab)
        done.append(there if there is not None else run_experiment(name, folder, lab))
        write_page(out, whole(out, lab))  # after each one: a long run that is stopped leaves a page of what it has
    return done


def whole(out: Path, lab: Lab) -> list[Written]:
    """Everything that `out` holds with these settings, in the order of the catalogue."""
    found = [_whole(out / name, lab) for name in EXPERIMENTS]
    return [written for written in found if written is not None]


def read_outcome(folder: Path) -> Written:
    """What `run_experiment` wrote.

    Raises:
        InputError: nothing whole is there.
    """
    try:
        document = json.loads((folder / OUTCOME).read_text(encoding="utf-8"))
        return Written(
            EXPERIMENTS[document["name"]], folder, [Finding(**finding) for finding in document["findings"]],
            [Table(**table) for table in document["tables"]],
            [folder / f"{title}.png" for title in document["figures"]], list(document["notes"]),
             dict(document["facts"]),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"results {folder}: no whole outcome there ({error})") from error


def write_page(out: Path, experiments: Sequence[Written]) -> Path:
    """One HTML page with everything in it.

    Raises:
        InputError: it cannot be written.
    """
    sections = [(written, _judged(written.findings), inlined(written.figures)) for written in experiments]
    text = render("ssi_core.theory", "theory.html.jinja", sections=sections, version=__version__)
    try:
        write_text(out / PAGE, text)
    except OSError as error:
        raise InputError(f"output {out}: cannot be written ({error.strerror})") from error
    return out / PAGE


def verdict(finding: Finding) -> str:
    return "reported" if finding.met is None else "met" if finding.met else "MISSED"


def _judged(findings: Sequence[Finding]) -> Table:
    rows = [[f.what, f.required, f.measured, verdict(f)] for f in findings]
    return Table("Required and measured", ["what", "required", "measured", "verdict"], rows)


def _asked(lab: Lab) -> dict[str, Any]:
    return {"seed": lab.seed, "scale": lab.scale, "mnist": str(lab.mnist or ""), "version": __version__}


def _whole(folder: Path, lab: Lab) -> Written | None:
    """What lies in a folder, if it is whole and was run with the same settings."""
    try:
        found = read_outcome(folder)
    except InputError:
        return None
    same = all(found.facts.get(name) == value for name, value in _asked(lab).items())
    return found if same and all(path.is_file() for path in found.figures) else None
