"""Experiments carried out and written down: figures, tables and one page that opens offline.

A folder an experiment: `outcome.json` (what it found and what it was run with), `tables.md`, `tables.csv`, `*.png`.
`outcome.json` is written last, so that it says that the folder is whole; `all` passes over what is whole already.
Beside them lie the page, and all findings as one table: `findings.md`, and `findings.csv`, of which docs/theory.csv is
one.
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
FINDINGS = "findings"
FULL = 1.0
"""The scale from which requirements are judged; a smaller run is only to be tried out."""
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
        **_asked(lab), **_made_with(), "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(time.process_time() - spent, 1),
    }  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / OUTCOME).unlink(missing_ok=True)  # not whole while it is being replaced
        for title, figure in found.figures.items():
            save_plot(figure, folder / f"{title}.png")
        judged = _judged(found.findings, lab.scale)
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
    """Run experiments that `out` does not hold yet, as this version would make them, each in a folder of its own.

    Raises:
        InputError: as `run_experiment`, and where `out` holds results of another seed or scale.
    """
    refuse_others(out, lab)
    done = []
    for name in names or list(EXPERIMENTS):
        folder = out / name
        there = _whole(folder, lab)
        done.append(there if there is not None else run_experiment(name, folder, lab))
        write_page(out, whole(out, lab))  # after each one: a long run that is stopped leaves a page of what it has
    return done


def refuse_others(out: Path, lab: Lab) -> None:
    """Refuse a folder with results of another seed, scale or data, which one page must not mix, or of something else.

    Raises:
        InputError: says which experiment, and what differs, or which file would be written over.
    """
    ours = False
    for name in EXPERIMENTS:
        try:
            there = read_outcome(out / name).facts
        except InputError:
            continue
        ours = True
        for what, asked in _asked(lab).items():
            if there.get(what) != asked:
                raise InputError(
                    f"output {out}: holds {name} with {what} {there.get(what)!r}, and {asked!r} is asked for; give "
                    f"another folder, or delete that one"
                )
    foreign = [f for f in (PAGE, f"{FINDINGS}.md", f"{FINDINGS}.csv", "plan.json") if (out / f).exists()]
    if foreign and not ours:
        raise InputError(f"output {out}: holds a {foreign[0]} that is not of `ssi theory`; give another folder")


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
    sections = [
        (
            written, _judged(written.findings, written.facts["scale"]), inlined(written.figures),
            [f.what for f in written.findings if verdict(f, written.facts["scale"]) == MISSED],
        )
        for written in experiments
    ]  # fmt: skip
    text = render("ssi_core.theory", "theory.html.jinja", sections=sections, version=__version__)
    try:
        write_text(out / PAGE, text)
        findings = summary(experiments)
        write_text(out / f"{FINDINGS}.md", markdown(findings))
        write_text(out / f"{FINDINGS}.csv", as_csv([findings]))
    except OSError as error:
        raise InputError(f"output {out}: cannot be written ({error.strerror})") from error
    return out / PAGE


MET, MISSED, REPORTED, SMALL = "met", "MISSED", "reported", "too small to judge"


def verdict(finding: Finding, scale: float) -> str:
    """What a finding at that scale says of its requirement, which is one of a run at full scale."""
    if finding.met is None:
        return REPORTED
    if scale < FULL:
        return SMALL
    return MET if finding.met else MISSED


def summary(experiments: Sequence[Written]) -> Table:
    """All findings in one table, with the processor time of each experiment."""
    rows = [
        [
            f"{one.experiment.name}: {f.what}", f.required, f.measured, verdict(f, one.facts["scale"]),
            f"{one.facts['cpu_seconds']:.0f}" if k == 0 else "",
        ]
        for one in experiments
        for k, f in enumerate(one.findings)
    ]  # fmt: skip
    return Table("Findings", ["experiment", "required", "measured", "verdict", "s"], rows)


def _judged(findings: Sequence[Finding], scale: float) -> Table:
    rows = [[f.what, f.required, f.measured, verdict(f, scale)] for f in findings]
    return Table("Required and measured", ["what", "required", "measured", "verdict"], rows)


def _asked(lab: Lab) -> dict[str, Any]:
    """What the user chose: results of different choices never share a folder."""
    return {"seed": lab.seed, "scale": lab.scale, "mnist": "" if lab.mnist is None else str(lab.mnist.resolve())}


def _made_with() -> dict[str, Any]:
    """What else the last digits depend on: results made with something else are made again."""
    return {"version": __version__, "torch": torch.__version__, "threads": torch.get_num_threads()}


def _whole(folder: Path, lab: Lab) -> Written | None:
    """What lies in a folder, if it is whole and was run with the same settings."""
    try:
        found = read_outcome(folder)
    except InputError:
        return None
    same = all(found.facts.get(name) == value for name, value in {**_asked(lab), **_made_with()}.items())
    return found if same and all(path.is_file() for path in found.figures) else None
