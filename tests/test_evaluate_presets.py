"""The presets: each makes its tables and plots; the paper's settings are the paper's; each experiment is right."""

import csv
import html
import math
import re
from dataclasses import replace

import pytest
import torch
from evaluations import Toy, folder, lines_of

from ssi_core import SOLVERS, InputError, cosine, invert, karras_sigmas, load_image, mse, reconstruct, slerp
from ssi_core.evaluate import PRESETS, bench, evaluate, exact, interpolations, plan_of, planar, trajectories
from ssi_core.evaluate import metrics as metrics_room
from ssi_core.evaluate.exact import TARGETS
from ssi_core.evaluate.images import DEMO
from ssi_core.evaluate.metrics import METRICS
from ssi_core.evaluate.plan import Arm
from ssi_core.evaluate.preset import Preset
from ssi_core.evaluate.report import tables, write_report
from ssi_core.evaluate.results import mean, share_error, standard_error, wins
from ssi_core.evaluate.study import STUDIES
from ssi_core.evaluate.tables import floors
from ssi_core.evaluate.trajectories import sampled
from ssi_core.metrics import _alexnet
from ssi_core.process import VE, DiscreteVP


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("pictures") / "set", count=7)


@pytest.fixture(autouse=True, scope="module")
def short_training():
    """Figure 4's small network takes seconds to train; tests of it train it themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planar, "STEPS", 20)
        exact._network.cache_clear()
        yield
    exact._network.cache_clear()


def short(name, pictures, **options):
    """A preset's plan on the toy, with few steps."""
    plan = plan_of(name, model="toy", denoise=Toy(), images=str(pictures), limit=4)
    arms = tuple(replace(a, steps=min(a.steps, 5), kappa=(1, 1000, 150) if a.kappa else None) for a in plan.arms)
    fewer = {"samples": 50, "exact": 50, "repeats": 3, "reference": 3}
    return replace(
        plan, arms=arms, options={**{k: min(v, fewer.get(k, v)) for k, v in plan.options.items() if k != "weights"},
                                  **{k: v for k, v in plan.options.items() if k == "weights"}, **options},
    )  # fmt: skip


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset_makes_its_tables_plots_and_page(name, pictures, tmp_path):
    found = evaluate(short(name, pictures), Toy(), tmp_path)
    made = write_report(found)
    preset = PRESETS[name]
    assert found.rows and not found.failed
    assert [p.stem for p in sorted((tmp_path / "plots").glob("*.png"))] == sorted(preset.plots)
    words = (tmp_path / "report.html").read_text()
    assert words.count("data:image/png;base64,") == len(preset.plots)
    assert preset.source in words
    for table in made:
        assert all(len(row) == len(table.columns) for row in table.rows)
        if {"mse", "psnr", "ssim"} & set(preset.columns):
            # No error without the figures of the noise, and no figure of the noise without its floor.
            assert {"std", "chan"} <= set(table.columns)
        if "chan" in table.columns:
            floor = next(row for row in table.rows if row[0] == "true Gaussian noise")
            assert float(floor[table.columns.index("chan")]) > 0


def test_the_rows_of_table_1_are_the_papers_settings():
    levels = DiscreteVP("linear")
    for which, steps, skip, solver, smallest in (
        ("bedroom-ddim", 500, 0.1405, "ddim-current", 0.01483), ("imagenet-ddim", 500, 0.0228, "ddim-current", 0.01483),
        ("bedroom-edm", 200, 0.1, "euler", 0.002),
    ):  # fmt: skip
        base, ours, own = PRESETS[f"table1-{which}"].arms
        assert (base.steps, base.skip, base.solver) == (steps, 0, solver)
        assert (ours.steps, ours.solver, ours.way_back) == (steps, "euler", "full")
        assert ours.skip == pytest.approx(skip, abs=5e-5)
        assert own == replace(ours, name="SSI, own levels", way_back="own")
        for arm in (base, ours):
            found = arm.sigmas(0.002, 1000.0, levels)[0]
            found = found[found > 0]
            assert len(found) == steps
            assert float(found[-1]) == pytest.approx(smallest, rel=1e-3)
            assert float(found[0]) == pytest.approx(80 if which == "bedroom-edm" else 157.4, rel=1e-3)
        assert PRESETS[f"table1-{which}"].limit == 300
    # The paper counts from 1, so that its own are these: said in the report of each.
    assert [round(float(levels.sigmas[i]), 4) for i in (38, 2, 0)] == [0.1373, 0.0190, 0.0100]
    for which, digits in (("bedroom", ".1373"), ("imagenet", ".0190")):
        assert any(digits in words and ".0100" in words for words in PRESETS[f"table1-{which}-ddim"].deviations)
    assert len(PRESETS["table2"].arms) == 12
    assert {(a.steps, a.skip) for a in PRESETS["table2"].arms} == {
        (n, s) for n in (40, 100, 200) for s in (0, 0.01, 0.1, 0.2)
    }
    paper = PRESETS["table2"].paper
    assert set(paper) == {a.name for a in PRESETS["table2"].arms}
    # What to look for is what the paper's figures say, with the one that says otherwise.
    worse = [a.name for a in PRESETS["table2"].arms if a.skip and paper[a.name]["mse"] >= paper[a.against]["mse"]]
    assert worse == ["N=100 skip 0.01"] and "N=100 with skip .01" in PRESETS["table2"].shows
    assert all(paper[a.name]["ssim"] > paper[a.against]["ssim"] for a in PRESETS["table2"].arms if a.skip)
    assert all(paper[a.name]["lpips"] < paper[a.against]["lpips"] for a in PRESETS["table2"].arms if a.skip)


def test_the_papers_presets_sample_over_the_whole_schedule(pictures, tmp_path):
    for name in ("table1-bedroom-edm", "table2", "fig5", "fig6", "fig11", "fig12"):
        assert {a.way_back for a in PRESETS[name].arms if a.name != "SSI, own levels" and a.skip} == {"full"}
    found = evaluate(short("table1-bedroom-edm", pictures), Toy(), tmp_path)
    rows = {arm: next(r for r in found.of(arm) if r["index"] == "1") for arm in ("SSI", "SSI, own levels")}
    x0 = load_image(pictures / rows["SSI"]["image"], Toy.image_size)
    up = invert(Toy(), x0, karras_sigmas(5), skip=0.1, solver="euler", seed=1)
    for arm, levels in (("SSI", karras_sigmas(5)), ("SSI, own levels", up.sigmas)):
        back = reconstruct(Toy(), up.noise, levels, solver="euler")
        assert float(rows[arm]["mse"]) == pytest.approx(float(mse(back, x0)), rel=1e-5)
        assert int(rows[arm]["nfe"]) == up.nfe + len(levels) - 1
    assert rows["SSI"]["mse"] != rows["SSI, own levels"]["mse"]
    (table,) = tables(found, PRESETS["table1-bedroom-edm"])
    at = table.columns.index("solver")
    ways = [row[at : at + 2] for row in lines_of(table)[:3]]
    assert ways == [
        ["euler", "whole"],
        ["euler", "whole"],
        ["euler", "own"],
    ]


def test_reports_say_where_they_are_not_the_papers(pictures, tmp_path):
    for preset in PRESETS.values():
        if preset.source and STUDIES[preset.study].needs_pictures:
            assert any("whole schedule" in words for words in preset.deviations)
    write_report(evaluate(short("table1-imagenet-ddim", pictures), Toy(), tmp_path))
    words = html.unescape((tmp_path / "report.html").read_text())
    assert "where that is not the paper's" in words
    assert all(said in words for said in PRESETS["table1-imagenet-ddim"].deviations)


def test_every_solver_is_in_nfe_or_its_absence_explained():
    shown = {arm.solver for arm in PRESETS["nfe"].arms}
    left_out = {
        "ddim-current", "ddim-target", "euler-vp", "ab2", "fixed-point", "exact",
    }  # fmt: skip
    assert shown | left_out == set(SOLVERS) and not shown & left_out
    words = next(words for words in PRESETS["nfe"].deviations if words.startswith("Left out: "))
    assert left_out <= set(re.findall(r"[\w-]+", words))


def test_ddim_has_both_methods_with_the_same_solver():
    pairs = {(arm.solver, bool(arm.skip)) for arm in PRESETS["ddim"].arms}
    assert {("ddim-current", False), ("ddim-current", True), ("euler", False), ("euler", True)} <= pairs


def test_figures_7_to_10_are_answered():
    for name in ("fig7", "fig8", "fig9", "fig10", "fig7-10"):
        with pytest.raises(
            InputError, match=r"Figures 7 to 10 .*plots/sheet.png of the presets table1-bedroom-ddim, table1"
        ):
            plan_of(name, model="toy", denoise=Toy(), images=DEMO)


def test_samples_are_measured_before_the_last_step(tmp_path, pictures):
    """The last step puts them on the manifold by itself; before it they are as far as data with that noise."""
    found = evaluate(replace(short("fig13", pictures), arms=PRESETS["fig13"].arms, options={"samples": 4000}), Toy(),
                     tmp_path)  # fmt: skip
    (table,) = tables(found, PRESETS["fig13"])
    at = table.columns.index("distance")
    for ours, data in ((table.rows[0], table.rows[2]), (table.rows[1], table.rows[3])):
        assert float(ours[at]) == pytest.approx(float(data[at]), rel=0.05)
    assert [row[at] for row in table.rows[2:]] == ["2.51e-03", "1.60e-03"]
    # 4,000 draws: the extremes of eight nearly independent normals lie 1.42 of their deviations from their mean.
    apart = 1.4236 * math.sqrt(1 / 8 * 7 / 8 / 4000) * math.sqrt(8 / 7)
    shares = [float(table.rows[2][table.columns.index(name)]) for name in ("rarest", "commonest")]
    assert shares == pytest.approx([1 / 8 - apart, 1 / 8 + apart], abs=0.0011)  # printed to .001
    assert any("4,000 exact draws" in note for note in table.notes)


def test_another_seed_shares_no_samples():
    """Of `seed + i`, two seeds share all samples but one."""
    streams = [
        sampled(Arm("a", 3, target="eight-points"), seed, chunk, 5)[0][0] for seed in range(3) for chunk in range(3)
    ]
    assert all(not torch.isclose(a, b).any() for i, a in enumerate(streams) for b in streams[:i])


@pytest.mark.parametrize("preset", ["fig14", "fig11"])
def test_another_seed_asks_a_model_about_other_noise(preset, pictures, tmp_path, monkeypatch):
    drawn = {0: set(), 1: set()}
    for room in (interpolations, trajectories):
        draw = room.unit_noise
        monkeypatch.setattr(
            room, "unit_noise", lambda like, seeds, draw=draw: (drawn[at].update(seeds), draw(like, seeds))[1]
        )
    for at in drawn:
        given = short(preset, pictures)
        kept = tuple(arm for arm in given.arms if arm.target in ("model", "samples"))
        evaluate(replace(given, arms=kept, seed=at), Toy(), tmp_path / str(at))
    assert len(drawn[0]) == len(drawn[1]) >= 2
    assert not drawn[0] & drawn[1]


def test_many_seeds_of_one_picture(pictures, tmp_path):
    found = evaluate(short("fig5", pictures), Toy(), tmp_path)
    own = [r for r in found.rows if r["index"] == "1"]
    x0 = load_image(pictures / own[0]["image"], Toy.image_size)
    noises = [
        invert(Toy(), x0, karras_sigmas(5), skip=0.1, solver="euler", seed=1 + 1_000_003 * k).noise for k in range(3)
    ]
    apart = [[float(cosine(a, b)) for b in noises] for a in noises]
    for k, row in enumerate(own):
        assert [float(row[f"cosine_{j}"]) for j in range(3)] == pytest.approx(apart[k], abs=1e-6)
        assert float(row["cosine"]) == pytest.approx((sum(apart[k]) - apart[k][k]) / 2, abs=1e-6)


def test_blends_are_slerp_and_pairs_do_not_cross_sets(pictures, tmp_path):
    found = evaluate(short("fig12", pictures), Toy(), tmp_path)
    weights = found.plan.options["weights"]
    assert [(r["arm"], r["index"], r["weight"]) for r in found.rows] == [
        (arm, index, repr(w)) for arm in ("base", "SSI") for index in ("0", "2") for w in weights
    ]
    names = [p.name for p in found.pictures]
    x0 = torch.cat([load_image(pictures / name, Toy.image_size) for name in names[2:4]])
    noise = invert(Toy(), x0, karras_sigmas(5), skip=0.1, solver="euler", seed=2).noise
    wanted = slerp(noise[:1], noise[1:], weights).square().mean((1, 2, 3)).sqrt()
    norms = [float(r["norm"]) for r in found.of("SSI") if r["index"] == "2"]
    assert norms == pytest.approx(wanted.tolist(), rel=1e-5)


def test_the_curve_of_a_gaussian_on_a_line_is_exact(tmp_path, pictures):
    """x2 falls in proportion to sigma whatever the solver, and D(x) - x is known; Heun's second evaluation is not."""
    plan = replace(
        short("fig14", pictures),
        arms=(Arm("axis", 40, solver="heun", target="gaussian-axis"),),
        options={"exact": 64},
    )
    found = evaluate(plan, Toy(), tmp_path)
    distances = [float(r["distance"]) for r in found.rows]
    assert distances == pytest.approx([distances[0]] * 40, rel=1e-9)
    assert [float(r["sigma"]) for r in found.rows] == pytest.approx(karras_sigmas(40)[:-1].tolist(), rel=1e-12)
    # As sigma falls only the direction across the line is left: |x2| / (sigma sqrt 2).
    assert float(found.rows[-1]["curve"]) == pytest.approx(distances[0] / math.sqrt(2), rel=1e-3)


def test_exact_scores_bring_samples_to_their_manifold():
    for name in ("eight-points", "gaussian-axis"):
        target = TARGETS[name]
        arm = Arm(name, 60, solver="heun", target=name)
        states, nfe = sampled(arm, 3, 0, 4000)
        assert nfe == 2 * 60 - 1 and sampled(replace(arm, solver="euler"), 3, 0, 10)[1] == 60
        assert states.shape == (61, 4000, 2)
        assert float(target.distance(states[-1]).max()) < 1e-6
        assert torch.equal(sampled(arm, 3, 0, 4000)[0][-1], states[-1])
    assert float(states[-1][:, 0].std()) == pytest.approx(1, abs=0.05)  # the last is the Gaussian
    # D is E[x0 | x]: by the definition, over the points.
    x, sigma = torch.tensor([[1.5, 0.7]], dtype=torch.float64), torch.tensor([0.8], dtype=torch.float64)
    from ssi_core.evaluate.exact import POINTS

    weight = torch.exp(-(x - POINTS).square().sum(1) / (2 * 0.8**2))
    assert torch.allclose(TARGETS["eight-points"].denoise(x, sigma), (weight @ POINTS / weight.sum())[None])


def test_a_trained_network_follows_the_exact_score_until_it_turns_singular(monkeypatch):
    """Figure 4a: relative errors that grow as sigma falls."""
    monkeypatch.setattr(planar, "STEPS", 400)
    network = planar.trained_on(exact.POINTS)
    draw = torch.Generator().manual_seed(1)
    errors = []
    for level in (10.0, 0.01):
        x0 = exact.POINTS[torch.randint(8, (500,), generator=draw)]
        sigma = torch.full((500,), level, dtype=torch.float64)
        x = x0 + level * torch.randn(500, 2, generator=draw, dtype=torch.float64)
        wanted = TARGETS["eight-points"].denoise(x, sigma)
        errors.append(float((network(x, sigma) - wanted).norm() / (wanted - x).norm()))
    assert errors[0] < 0.05 < 0.2 < errors[1]
    assert torch.equal(planar.trained_on(exact.POINTS)(x, sigma), network(x, sigma))
    assert not network(x, sigma).requires_grad


def test_the_sharpest_denoiser_is_the_mean_of_what_it_remembers(monkeypatch):
    draw = torch.Generator().manual_seed(2)
    pictures = torch.rand(6, 3, 4, 4, generator=draw) * 2 - 1
    x, sigma = torch.randn(2, 3, 4, 4, generator=draw), torch.tensor([0.7, 3.0])
    weight = torch.exp(-(x[:, None] - pictures).square().sum((2, 3, 4)).double() / (2 * sigma[:, None].double() ** 2))
    wanted = torch.einsum("bn,nchw->bchw", weight / weight.sum(1, keepdim=True), pictures.double())
    monkeypatch.setattr(exact, "SCENES", 100)
    monkeypatch.setattr(exact, "draw_scenes", lambda numbers, size: pictures)
    exact.memory.cache_clear()
    memory = exact.memory(4)
    exact.memory.cache_clear()
    assert memory(x, sigma).dtype == torch.float32
    assert torch.allclose(memory(x, sigma).double(), wanted, atol=1e-6)
    assert torch.allclose(memory(x.double(), sigma.double()), wanted)
    near = pictures[[4]] + 0.01
    assert torch.allclose(memory(near, torch.tensor([0.002])), pictures[[4]])


def test_regimes_are_all_there():
    """Few steps, 16-bit arithmetic, another network than the smooth one; pictures from outside are the folder's."""
    preset = PRESETS["regimes"]
    arms = (*preset.arms, *preset.demo_arms)
    assert {a.steps for a in arms} >= {10, 20, 200}
    assert {a.precision for a in arms} == {"float32", "bfloat16"}
    assert {a.target for a in arms} == {"model", "memory"}
    demo = plan_of("regimes", model="toy", denoise=Toy(), images=DEMO)
    assert demo.arms == arms
    for arm in arms:  # compared with the base method in the very same setting
        base = next((a for a in arms if a.name == arm.against), None)
        assert arm.skip == 0 or replace(arm, name=base.name, skip=0.0, against="") == base


def test_half_precision_is_that_of_everything_the_model_does():
    toy, x, sigma = Toy(), torch.randn(2, 3, 16, 16), torch.ones(2)
    lower = bench.Lower(toy, torch.bfloat16)
    found = lower(x, sigma)
    assert found.dtype == torch.float32 and torch.equal(found, found.bfloat16().float())
    assert torch.equal(found, lower(x.bfloat16().float(), sigma))
    assert torch.allclose(found, toy(x, sigma), rtol=1e-2)
    assert lower.image_size == toy.image_size


def test_ddim_takes_the_models_own_levels():
    toy = Toy()
    toy.process = DiscreteVP("cosine")
    toy.sigma_min, toy.sigma_max = toy.process.sigma_min, toy.process.sigma_max
    base, ours, _ = plan_of("table1-bedroom-ddim", model="toy", denoise=toy, images=DEMO).arms
    assert ours.skip == float(toy.process.sigmas[39])
    levels, note = base.sigmas(toy.sigma_min, toy.sigma_max, toy.process)
    assert torch.equal(levels, toy.process.sigmas[1::2].flip(0))
    assert note == ""
    assert torch.equal(bench.Bench(toy, None, None).sigmas(base), levels)
    # A model without discrete levels is given the paper's, and that is said.
    plain = plan_of("table1-bedroom-ddim", model="toy", denoise=Toy(), images=DEMO).arms[1]
    assert plain.skip == pytest.approx(0.1405, abs=1e-4)
    assert "takes those of the paper's models" in plain.sigmas(0.002, 80.0, VE())[1]
    toy.process = DiscreteVP("linear", 100)
    with pytest.raises(InputError, match="takes DDIM levels up to 999, of a model that has 100"):
        base.sigmas(toy.sigma_min, toy.sigma_max, toy.process)
    toy.process = DiscreteVP(alphas_cumprod=tuple(torch.linspace(0.99, 0.01, 20).tolist()))
    with pytest.raises(InputError, match="adds noise up to level 39, of a model that has 20"):
        plan_of("table1-bedroom-ddim", model="toy", denoise=toy, images=DEMO)


def test_wins_are_counted_picture_by_picture(pictures, tmp_path):
    found = evaluate(short("regimes", pictures), Toy(), tmp_path)
    arm = found.plan.arms[1]
    base = {r["index"]: float(r["mse"]) for r in found.of(arm.against)}
    ours = {r["index"]: float(r["mse"]) for r in found.of(arm.name)}
    assert wins(found, arm.name, arm.against, "images") == sum(ours[i] < base[i] for i in base) / len(base)
    assert math.isnan(wins(found, arm.against, "", "images"))
    logs = torch.tensor([math.log(base[i] / ours[i]) for i in base], dtype=torch.float64)
    (table,) = tables(found, PRESETS["regimes"])
    said = f"{arm.name} {float(logs.mean()):.2f} +- {float(logs.std()) / 2:.2f} (n 4)"
    assert any(said in note for note in table.notes)


def test_what_is_missing_is_said_with_how_to_get_it(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics_room.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    plan = short("table1-bedroom-edm", pictures)
    assert "lpips" not in plan.metrics
    assert plan.missing["lpips"].startswith("weights missing: download https://")
    found = evaluate(plan, Toy(), tmp_path / "out")
    (table,) = tables(found, PRESETS["table1-bedroom-edm"])
    column = table.columns.index("lpips")
    assert [row[column] for row in lines_of(table)[:2]] == ["weights missing, see below"] * 2
    assert any(note.startswith("lpips: weights missing: download") for note in table.notes)
    assert "lpips" not in next(csv.reader((tmp_path / "out" / "results.csv").open()))
    monkeypatch.setattr(metrics_room.importlib.util, "find_spec", lambda name: None)
    plan = short("table1-bedroom-edm", pictures)
    (table,) = tables(evaluate(plan, Toy(), tmp_path / "none"), PRESETS["table1-bedroom-edm"])
    assert table.rows[0][column] == "package missing, see below"
    assert any("pip install 'lpips'" in note and "weights, https://" in note for note in table.notes)
    monkeypatch.setattr(metrics_room.importlib.util, "find_spec", lambda name: object())
    # With the weights there it is measured, and that is another plan.
    weights = tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert "lpips" in short("table1-bedroom-edm", pictures).metrics
    with pytest.raises(InputError, match="another plan"):
        evaluate(short("table1-bedroom-edm", pictures), Toy(), tmp_path / "out")


def test_lpips_and_brisque_are_the_libraries_own(monkeypatch):
    """Neither is installed here: stand-ins show that what they are given and what they give goes through unchanged."""
    import sys
    import types

    images, back = torch.rand(2, 3, 16, 16) * 2 - 1, torch.rand(2, 3, 16, 16) * 2 - 1
    trip = metrics_room.Trip(images, torch.randn(2, 3, 16, 16), back, 4)
    lpips, piq = types.ModuleType("lpips"), types.ModuleType("piq")
    lpips.LPIPS = lambda net, verbose: lambda a, b: (a - b).square().flatten(1).mean(1).reshape(-1, 1, 1, 1)
    piq.brisque = lambda x, data_range: x.mean() * 100
    monkeypatch.setitem(sys.modules, "lpips", lpips)
    monkeypatch.setitem(sys.modules, "piq", piq)
    _alexnet.cache_clear()
    assert METRICS["lpips"].of(trip).tolist() == pytest.approx(mse(back, images).tolist(), rel=1e-5)
    wanted = ((back + 1) / 2).mean((1, 2, 3)) * 100
    assert METRICS["brisque"].of(trip).tolist() == pytest.approx(wanted.tolist(), rel=1e-5)
    _alexnet.cache_clear()


def test_the_floor_beside_each_figure_is_that_of_the_plans_shape():
    assert floors((3, 256, 256))["chan"] == pytest.approx(0.0031, abs=5e-5)
    assert floors((3, 32, 32))["chan"] == pytest.approx(0.0249, abs=2e-4)
    assert floors((3, 32, 32))["std"] == pytest.approx(1, abs=1e-3)


def test_a_new_preset_is_one_definition(pictures, tmp_path, monkeypatch):
    """Arms, columns, plots, words: all in one place, and everything else finds them there."""
    mine = Preset(
        "Mine", "", "nothing", (Arm("one way", 3, 0.1, "euler"),), 2, 2, plots=("noise",), columns=("mse", "std"),
        deviations=("Not the paper's.",), paper={"one way": {"mse": 0.5}}, paper_set="a set",
    )  # fmt: skip
    monkeypatch.setitem(PRESETS, "mine", mine)
    found = evaluate(plan_of("mine", model="toy", denoise=Toy(), images=str(pictures)), Toy(), tmp_path)
    (table,) = write_report(found)
    assert table.columns[4:] == ["mse", "std"]
    assert [row[0] for row in table.rows] == ["one way", "+- s.e.", "true Gaussian noise", "paper: one way"]
    assert "Not the paper&#39;s." in (tmp_path / "report.html").read_text()


def test_means_stand_with_their_standard_errors(pictures, tmp_path):
    found = evaluate(short("regimes", pictures), Toy(), tmp_path)
    (table,) = tables(found, PRESETS["regimes"])
    mse_at, share_at, nfe_at = (table.columns.index(name) for name in ("mse", "gaussian", "nfe"))
    own = torch.tensor([float(r["mse"]) for r in found.of(table.rows[0][0])], dtype=torch.float64)
    assert float(table.rows[0][mse_at]) == pytest.approx(float(own.mean()), abs=6e-6)
    assert table.rows[1][0] == "+- s.e." and table.rows[1][nfe_at] == ""
    assert float(table.rows[1][mse_at]) == pytest.approx(float(own.std()) / 2, abs=6e-6)
    assert table.rows[1][share_at] not in ("", "0%")
    # All of 4: Beta(5, 1), whose variance is 5 / (36 * 7).
    assert share_error(1.0, 4) == pytest.approx(math.sqrt(5 / 252)) == share_error(0.0, 4)
    assert math.isnan(share_error(math.nan, 4))


def test_rows_of_one_picture_are_no_independent_ones(pictures, tmp_path):
    found = evaluate(short("fig12", pictures), Toy(), tmp_path)
    own = found.of("SSI")
    each = [mean([r for r in own if r["index"] == index], "std") for index in dict.fromkeys(r["index"] for r in own)]
    assert len(each) == 2 < len(own)
    assert standard_error(own, "std") == pytest.approx(abs(each[0] - each[1]) / 2)
    assert math.isnan(standard_error([r for r in own if r["index"] == "0"], "std"))


def test_unknown_presets_and_numbers_are_refused(pictures):
    with pytest.raises(InputError, match="preset 'table3': unknown; known are table1-bedroom-ddim"):
        plan_of("table3", model="toy", denoise=Toy(), images=str(pictures))
    for wrong in ({"limit": -1}, {"seed": -1}, {"batch": 0}):
        with pytest.raises(InputError, match="must be 0 or more, batch"):
            plan_of("nfe", model="toy", denoise=Toy(), images=str(pictures), **wrong)
