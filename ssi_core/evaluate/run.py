"""Carrying a plan out: survey, compute what is missing, append row by row, merge."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from ..artifact import write_text
from ..errors import DenoiserError, InputError
from ..guard import process_of
from ..integration import Progress
from ..version import __version__
from .bench import Rows, whole_float32
from .exact import TARGETS
from .images import Picture, load_survey, save_survey, survey
from .plan import FILE, Plan
from .results import Results
from .shards import Refused, Shard
from .store import KEY, PARTS, Appender, Row, gather, merge, on_disk, only_run
from .study import STUDIES, Bench, Unit, failed_rows

SURVEY = "images.csv"
RUN = "run.json"
"""What does not belong into a table that is to be the same everywhere: times, versions."""
RUNS = ("seconds", "units", "evaluations", "processes", "system")
SAME = ("torch", "threads", "machine", "ssi")
"""What must be the same, beside the plan, for a table to be the same bits."""
ALONE = Shard()
OF_MODELS = ("model", "samples", "memory")
"""Targets that are no distribution in the plane (`plan.Arm.target`)."""
Task = Callable[[str, int, int], None]
"""Progress: (what is being done, steps done, steps in all)."""


def columns_of(plan: Plan) -> list[str]:
    return ["plan", "arm", "set", "index", "image", "repeat", *STUDIES[plan.study].columns(plan), "failed"]


def check_fit(plan: Plan, denoise: Any) -> tuple[str, ...]:
    """Whether a model can take a plan.

    Returns:
        What of the plan is left out for it, in words.

    Raises:
        InputError: a target is unknown; or the model is a flow model, takes no RGB pictures, does not say their size,
            or has not the plan's levels.
    """
    for arm in plan.arms:
        if arm.target not in (*TARGETS, *OF_MODELS):
            raise InputError(
                f"arm {arm.name!r}: target {arm.target!r} is unknown; known are {', '.join((*OF_MODELS, *TARGETS))}"
            )
    if all(arm.target in TARGETS for arm in plan.arms):
        return ()
    if getattr(denoise, "is_flow", False):
        raise InputError(f"model {plan.model}: is a flow model; the paper's presets are for EDM and DDPM models")
    if denoise.image_size is None:
        raise InputError(f"model {plan.model}: does not tell its image size; say it with --set image_size=256")
    if denoise.channels != 3:
        raise InputError(f"model {plan.model}: takes {denoise.channels} channels; pictures have 3")
    notes = []
    for arm in plan.arms:
        if arm.target in TARGETS:
            continue
        if 0 < arm.skip < denoise.sigma_min:
            raise InputError(
                f"preset {plan.preset}: adds noise up to {arm.skip:g}, under the model's smallest level "
                f"{denoise.sigma_min:g}; it is for another kind of model"
            )
        note = arm.sigmas(denoise.sigma_min, denoise.sigma_max, process_of(denoise))[1]
        notes += [note] if note else []
    return tuple(dict.fromkeys(notes))


def evaluate(plan: Plan, denoise: Any, folder: Path, *, task: Task | None = None, shard: Shard = ALONE) -> Results:
    """Carry a plan out, or on: what is in `folder` already is not computed again.

    Args:
        plan: what to do.
        denoise: the plan's model (`ssi_core.denoiser`), with `image_size`, `channels`, `sigma_min`, `sigma_max`.
        folder: for plan.json, images.csv, results.csv and pictures/; made if it is missing. With several processes,
            one that all of them see.
        task: progress.
        shard: which process this is.

    Returns:
        All rows; in processes other than the first, only those that were there when the first had merged.

    Raises:
        InputError: the model does not fit, the folder holds another plan's results or another run is writing there,
            the disk is full, a picture changed, or a process died. What was computed is kept.
        Cancelled: as `invert`.
    """
    notes = check_fit(plan, denoise)
    with on_disk(folder), only_run(folder) if shard.leads else nullcontext():
        pictures = _prepare(plan, denoise, folder, task, shard)
        units, columns = _units(plan, pictures), columns_of(plan)
        if shard.leads:  # what a killed run left behind goes to where it belongs, before anyone adds to it
            done = gather(folder, columns, plan.digest)
            if (folder / PARTS).is_dir():
                merge(folder, columns, _ordered(units, done))
            shard.tell("")
        else:
            shard.told()
            done = gather(folder, columns, plan.digest)

        began = time.monotonic()
        missing = [unit for unit in units if any(k not in done for k in unit.keys)]
        own = missing[shard.rank :: shard.count]
        runs = _begun(folder, plan, notes, shard) if shard.leads and missing else []
        bench = Bench(denoise, plan, folder)
        if own:
            part = Appender(folder / PARTS / f"{shard.rank}.csv", columns)
            try:
                with whole_float32():
                    for number, unit in enumerate(own):
                        bench.progress = _bar(task, unit, number, len(own))
                        _carry_out(bench, unit, part, done)
            finally:
                part.close()
        if runs:
            runs[-1] |= {
                "seconds": round(time.monotonic() - began, 1), "units": len(own), "evaluations": bench.nfe,
            }  # fmt: skip
            _write_runs(folder, plan, notes, runs)
        trouble = shard.wait()
        if not shard.leads:
            if trouble:
                raise InputError(f"{trouble}; its rows are missing: run the same command again")
            return Results(plan, folder, [], pictures, notes)
        found = gather(folder, columns, plan.digest)
        rows = _ordered(units, found)
        wanted = sum(len(unit.keys) for unit in units)
        if trouble or len(rows) < wanted:
            raise InputError(
                f"{trouble or 'a process did not do its share'}; {len(rows)} of {wanted} rows are there and safe: run "
                f"the same command again"
            )
        merge(folder, columns, rows)
        return Results(plan, folder, rows, pictures, notes, mixed(read_runs(folder)[1]))


def load_results(folder: Path) -> Results:
    """The results of a finished evaluation, to make tables of again.

    Raises:
        InputError: nothing is there, or it is not finished.
    """
    plan = Plan.load(folder)
    pictures = load_survey(folder / SURVEY)
    found = gather(folder, columns_of(plan), plan.digest)
    units = _units(plan, pictures)
    rows = _ordered(units, found)
    if len(rows) < sum(len(unit.keys) for unit in units):
        raise InputError(f"results {folder}: are not complete; run `ssi evaluate` with the same options again")
    notes, runs = read_runs(folder)
    return Results(plan, folder, rows, pictures, tuple(notes), mixed(runs))


def _prepare(plan: Plan, denoise: Any, folder: Path, task: Task | None, shard: Shard) -> list[Picture]:
    """Plan and survey on disk, made by the leader, read by all; nothing is begun before all know the same plan."""
    if not shard.leads:
        shard.told()
        shard.agree(_unlike(plan, folder))
        return load_survey(folder / SURVEY)
    try:
        if (folder / FILE).exists():
            plan.same(Plan.load(folder), folder)
        elif any(folder.glob("*.csv")) or any(folder.glob(f"{PARTS}/*.csv")):
            raise InputError(f"output {folder}: holds results without their plan; use another folder for --out")
        if (folder / SURVEY).exists():
            pictures = load_survey(folder / SURVEY)
        elif STUDIES[plan.study].needs_pictures:
            looked = (lambda n: task("looking through the pictures", n, 0)) if task else None
            pictures = survey(
                plan.images, plan.limit, plan.seed, int(denoise.image_size), looked, plan.options.get("reference", 0),
                folder.resolve(), plan.reference,
            )  # fmt: skip
        else:
            pictures = []
        _units(plan, pictures)  # too few pictures, found before anything is written
        plan.save(folder)
        save_survey(folder / SURVEY, pictures)
    except InputError as error:
        shard.tell(str(error))
        raise Refused(str(error)) from error
    shard.tell("")
    shard.agree("")
    return pictures


def _unlike(plan: Plan, folder: Path) -> str:
    """Why this process cannot do its share of the plan that the leader wrote; "" where it can."""
    try:
        plan.same(Plan.load(folder), folder)
        return ""
    except InputError as error:
        return f"{platform.node()}: its plan is another than that of process 0: {error}"


def _units(plan: Plan, pictures: Sequence[Picture]) -> list[Unit]:
    study, inverted = STUDIES[plan.study], [p for p in pictures if p.inverted]
    if study.needs_pictures and not inverted:
        raise InputError(f"{SURVEY}: lists no picture to invert; delete the folder and begin again")
    return list(study.units(plan, inverted))


def _computed(bench: Bench, unit: Unit) -> Iterator[Rows]:
    """The rows of a unit, as they come; those that the model fails on say so (`bench.Unit.separable`)."""
    study = STUDIES[bench.plan.study]
    try:
        yield from study.run(bench, unit)
    except DenoiserError as error:
        if unit.separable and len(unit.keys) > 1:
            for one in unit.alone():
                yield from _computed(bench, one)
        else:
            yield from failed_rows(study, bench.plan, unit, error)


def _carry_out(bench: Bench, unit: Unit, part: Appender, done: dict[Any, Row]) -> None:
    """Compute a unit and append the rows that are missing, as they come."""
    plan, position, groups = bench.plan, 0, _computed(bench, unit)
    for group in groups:
        complete = []
        for row in group:
            arm, index, _ = unit.keys[position]
            picture = next((p for p in unit.pictures if str(p.index) == index), None)
            about = {"set": picture.set, "image": picture.name} if picture else {"set": unit.arm.target, "image": ""}
            complete.append({"failed": "", **row, "plan": plan.digest, "arm": arm, "index": int(index), **about})
            position += 1
        part.append([r for r in complete if tuple(str(r[name]) for name in KEY) not in done])


def _ordered(units: Sequence[Unit], found: dict[Any, Row]) -> list[Row]:
    """Rows in the plan's order, whoever computed them and when."""
    arms = {name: i for i, name in enumerate(dict.fromkeys(unit.arm.name for unit in units))}
    return sorted(
        (found[k] for unit in units for k in unit.keys if k in found),
        key=lambda row: (arms[row["arm"]], int(row["index"]), int(row["repeat"])),
    )


def _bar(task: Task | None, unit: Unit, number: int, of: int) -> Callable[[Progress], None]:
    def moved(now: Progress) -> None:
        if task is not None:
            task(f"{unit.arm.name}, {len(unit.pictures)} picture(s)", number, of)

    return moved


def _begun(folder: Path, plan: Plan, notes: Sequence[str], shard: Shard) -> list[dict[str, Any]]:
    """Note down under what this run computes, before it does: it may be killed."""
    runs = [*read_runs(folder)[1], {
        "seconds": None, "units": None, "evaluations": None, "processes": shard.count, "torch": torch.__version__,
        "threads": torch.get_num_threads(), "ssi": __version__, "machine": platform.machine(),
        "system": platform.system(),
    }]  # fmt: skip
    _write_runs(folder, plan, notes, runs)
    return runs


def _write_runs(folder: Path, plan: Plan, notes: Sequence[str], runs: list[dict[str, Any]]) -> None:
    write_text(folder / RUN, json.dumps({"plan": plan.digest, "notes": list(notes), "runs": runs}, indent=1) + "\n")


def read_runs(folder: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """What did not fit the model, and every run so far, of `run.json`; nothing where there is none.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / RUN
    if not path.exists():
        return [], []
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        runs = [{name: run[name] for name in (*RUNS, *SAME)} for run in facts["runs"]]
        return [str(note) for note in facts["notes"]], runs
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: is damaged ({error!r}); it holds but times and versions: delete it and run the same command again"
        ) from error


def mixed(runs: Sequence[dict[str, Any]]) -> str:
    """In words, what differs between runs that may make them round otherwise; "" where nothing does."""
    ways = list(dict.fromkeys(tuple(str(run[name]) for name in SAME) for run in runs))
    said = ", then under ".join(", ".join(f"{name} {v}" for name, v in zip(SAME, way, strict=True)) for way in ways)
    return f"rows were computed under {said}: not the same bits as from one of them" if len(ways) > 1 else ""
