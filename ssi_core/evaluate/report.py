"""The report: tables, plots and everything that decided them, in files and in one HTML page that opens offline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ..artifact import write_text
from ..errors import InputError
from ..report.page import inlined, legible, render
from ..report.tables import Table, as_csv, markdown
from ..version import __version__
from .preset import Preset
from .presets import find_preset
from .results import Results
from .run import read_runs
from .store import reason
from .study import STUDIES
from .tables import legend

PAGE = "report.html"


def tables(results: Results, preset: Preset) -> list[Table]:
    """The summary, as the kind of experiment lays it out."""
    return STUDIES[preset.study].tables(results, preset)


def write_report(results: Results) -> list[Table]:
    """Write summary.md, summary.csv, plots/*.png and *.svg, and report.html, which holds all of it.

    Interrupted or failed at any point, each of these files is the old one or the new one, and the results themselves
    are untouched: the same command writes the report again without computing anything.

    Raises:
        InputError: a file cannot be written.
    """
    from ..report.figures import save_plot  # matplotlib takes a second to import
    from .plots import PLOTS

    preset, folder = find_preset(results.plan.preset), results.folder
    captions = {name: (PLOTS[name].__doc__ or "").split("\n")[0] for name in preset.plots}
    try:
        made = tables(results, preset)
        plots = folder / "plots"
        plots.mkdir(exist_ok=True)
        for name in preset.plots:
            figure = PLOTS[name](results, preset)
            for suffix in (".png", ".svg"):
                save_plot(figure, plots / f"{name}{suffix}")
        write_text(folder / "summary.md", legible("\n".join(markdown(table) for table in made)))
        write_text(folder / "summary.csv", legible(as_csv(made)))
        write_text(folder / PAGE, page(results, made, [plots / f"{name}.png" for name in preset.plots], captions))
    except OSError as error:
        raise InputError(
            f"report in {folder}: cannot be written ({reason(error)}); the results are safe: mend it and run the same "
            f"command again"
        ) from error
    return made


def page(results: Results, made: list[Table], plots: list[Path], captions: Mapping[str, str]) -> str:
    """The report as one HTML document without any outside reference.

    Args:
        results, made: what it is about, and its tables.
        plots: PNG files, in order.
        captions: what each shows, by the file's stem.
    """
    preset = find_preset(results.plan.preset)
    columns = list(dict.fromkeys(column for table in made for column in (*table.columns, *preset.columns)))
    return render(
        "ssi_core.evaluate", "report.html.jinja",
        preset=preset, plan=results.plan, tables=made, plots=inlined(plots, captions), version=__version__,
        used=[p for p in results.pictures if p.inverted], reference=[p for p in results.pictures if p.compared],
        skipped=[p for p in results.pictures if p.skipped],
        failed=results.failed, notes=results.notes, legend=legend(dict(STUDIES[preset.study].about), columns),
        facts=json.dumps(results.plan.facts(), indent=1),
        runs=read_runs(results.folder)[1], mixed=results.mixed,
    )  # fmt: skip
