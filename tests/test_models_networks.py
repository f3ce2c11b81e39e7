"""Pixel networks against reference values from the original code: random weights, float32, everything on the CPU."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ssi_core.denoiser import Clipped
from ssi_core.errors import InputError
from ssi_core.integration import Callback
from ssi_core.inversion import invert, reconstruct
from ssi_core.models import PixelModel, load_checkpoint
from ssi_core.models.edm import Block, EDMNetConfig
from ssi_core.models.family import Recognised
from ssi_core.models.layers import assign
from ssi_core.models.load import skeleton
from ssi_core.models.packed import packing_available
from ssi_core.models.recognise import FAMILIES, architecture, published
from ssi_core.process import DiscreteVP
from ssi_core.schedule import ddim_sigmas, karras_sigmas

DATA = Path(__file__).parent / "data" / "models"
ADM = ["adm_uncond256like", "adm_neworder_classcond", "adm_plain_convresample_heads4"]
CONSISTENCY = ["cm_imagenet64like", "cm_bedroom256like"]
NVLABS = ["nv_ddpmpp", "nv_ncsnpp_cond", "nv_dhariwal_cond"]
TOLERANCE = 1e-5
"""Ten times as strict as the reference data asks for; the worst seen is 1.2e-6."""


def reference(name: str) -> dict[str, Tensor]:
    return load_file(DATA / f"{name}.io.safetensors")


def arguments(name: str) -> dict:
    """The original's constructor arguments."""
    with safe_open(DATA / f"{name}.safetensors", framework="pt") as file:
        return json.loads(file.metadata()["reference"])["kwargs"]


def model(name: str, **more: object) -> PixelModel:
    return load_checkpoint(DATA / f"{name}.safetensors", **{**arguments(name), **more})


def test_guidance_of_a_checkpoint_with_classes():
    """NVlabs models know no class: guidance goes from there through the class; others always want one."""
    ours, sigma = model("nv_ncsnpp_cond"), torch.ones(2)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    without, within = ours.denoise(x, sigma), ours.conditioned([3, 5])(x, sigma)
    guided = ours.conditioned([3, 5], 2.5)
    assert guided.sigma_max == ours.sigma_max
    torch.testing.assert_close(guided(x, sigma), without + 2.5 * (within - without), atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match=r"guidance 2: .* takes a class"):
        ours.conditioned(None, 2.0)
    with pytest.raises(InputError, match=r"guidance 2: .* knows no picture without a class"):
        model("adm_neworder_classcond").conditioned(1, 2.0)


def difference(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max()) / max(1.0, float(theirs.abs().max()))


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


# Networks and preconditionings


@pytest.mark.parametrize("name", ADM)
def test_adm_network_at_whole_and_fractional_timesteps(name):
    io = reference(name)
    ours = model(name, noise_schedule="linear")
    assert difference(ours.network(io["x"], io["t"], io.get("y")), io["out"]) < TOLERANCE
    assert difference(ours.network(io["x"], io["t_frac"], io.get("y")), io["out_frac"]) < TOLERANCE


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("name", ADM)
def test_adm_denoiser_is_their_pred_xstart_in_ve_coordinates(name, schedule):
    io = reference(name)
    ours = model(name, noise_schedule=schedule)
    sigma = io[f"{schedule}.sigma"]
    x = io["x"] * (1 + sigma**2).sqrt().float()[:, None, None, None]
    for levels in (sigma, sigma.float()):
        denoised = ours.denoise(x, levels, io.get("y"))
        for ours_one, theirs_one in zip(denoised, io[f"{schedule}.pred_xstart"], strict=True):
            assert difference(ours_one, theirs_one) < TOLERANCE


@pytest.mark.skipif(not packing_available(), reason="this build of torch has no oneDNN")
@pytest.mark.parametrize("name", [*ADM, *CONSISTENCY, *NVLABS])
def test_networks_with_reordered_weights(name, monkeypatch):
    """The default on a CPU: here of every convolution, which are otherwise too small for it."""
    monkeypatch.setattr("ssi_core.models.packed.SMALLEST", 0)
    io = reference(name)
    more = {"noise_schedule": "linear"} if name in ADM else {"distillation": False} if name in CONSISTENCY else {}
    ours, labels = model(name, **more), io.get("y", io.get("class_labels"))
    x, t, wanted = io["x"], io.get("t", io.get("rescaled_t", io.get("c_noise"))), io["out" if name in ADM else "F"]
    if name not in ADM:
        x = x / (io["sigma"] ** 2 + 0.25).sqrt()[:, None, None, None]
    assert difference(ours.network(x, t, labels), wanted) < TOLERANCE
    convolutions = [m for m in ours.module.modules() if isinstance(m, nn.Conv2d | nn.Conv1d)]
    assert convolutions and all(m.packed is not None for m in convolutions)


@pytest.mark.parametrize("name", CONSISTENCY)
def test_consistency_network_and_both_scalings(name):
    io = reference(name)
    x, sigma, labels = io["x"], io["sigma"], io.get("y")
    teacher, student = model(name, distillation=False), model(name, distillation=True)
    scaled = x / (sigma**2 + 0.25).sqrt()[:, None, None, None]
    assert difference(teacher.network(scaled, io["rescaled_t"], labels), io["F"]) < TOLERANCE
    assert difference(teacher.denoise(x, sigma, labels), io["D_edm"]) < TOLERANCE
    assert difference(student.denoise(x, sigma, labels), io["D_boundary"]) < TOLERANCE


@pytest.mark.parametrize("name", NVLABS)
def test_nvlabs_network_and_all_preconditionings(name):
    io = reference(name)
    x, sigma, labels = io["x"], io["sigma"], io.get("class_labels")
    ours = model(name)
    scaled = x / (sigma**2 + 0.25).sqrt()[:, None, None, None]
    assert difference(ours.network(scaled, io["c_noise"], labels), io["F"]) < TOLERANCE
    assert difference(ours.denoise(x, sigma, labels), io["D"]) < TOLERANCE
    assert difference(model(name, precond="vp").denoise(x, sigma, labels), io["D_vp_precond"]) < TOLERANCE
    clamped = sigma.clamp(min=0.02)
    assert difference(model(name, precond="ve").denoise(x, clamped, labels), io["D_ve_precond"]) < TOLERANCE
    if "augment_labels" in io:
        augmented = ours.denoise(x, sigma, labels, augment_labels=io["augment_labels"])
        assert difference(augmented, io["D_augment"]) < TOLERANCE
        assert difference(io["D_augment"], io["D"]) > 0.01  # the labels matter at all
    if labels is not None:
        assert difference(ours.denoise(x, sigma), io["D_no_labels"]) < TOLERANCE
        assert difference(ours.denoise(x, sigma, labels.argmax(dim=1)), io["D"]) < TOLERANCE


def test_iddpm_levels_are_used_and_rounded_to(tmp_path):
    """No reference exists; the levels are those of cos^2, and a sigma between two is asked at the nearer one."""
    from safetensors.torch import save_file

    weights = load_file(DATA / "nv_ncsnpp_cond.safetensors")
    for key in [k for k in weights if "aux_conv" in k]:
        weights[key] = torch.cat([weights[key], 3 * weights[key]])
    levels = 200
    abar = torch.sin(0.5 * math.pi * torch.arange(levels + 1) / levels / 1.008) ** 2
    weights["u"] = ((1 - abar.clamp(max=1 - 1e-7)) / abar.clamp(min=1e-4)).sqrt()
    weights["u"][-1] = 0
    save_file({k: v.float() for k, v in weights.items()}, tmp_path / "iddpm.safetensors")
    ours = load_checkpoint(tmp_path / "iddpm.safetensors")
    assert ours.info.facts["class_name"] == "iDDPMPrecond" and ours.info.facts["M"] == levels
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    level = float(weights["u"][50])
    eps = ours.network(x / math.sqrt(1 + level**2), levels - 1 - 50)[:, :3]
    assert difference(ours.denoise(x, level), x - level * eps) < TOLERANCE
    near = level * 1.0001
    eps_near = ours.network(x / math.sqrt(1 + near**2), levels - 1 - 50)[:, :3]
    assert difference(ours.denoise(x, near), x - near * eps_near) < TOLERANCE


def test_nvlabs_block_with_two_heads():
    data = load_file(DATA / "nv_unetblock_2heads.safetensors")
    config = EDMNetConfig("DhariwalUNet", 6, 3, 3, 4, (1,), 1, ())
    block = Block(32, 32, config, nn)
    block.heads = 2
    block.norm2, block.qkv, block.proj = nn.GroupNorm(8, 32), nn.Conv2d(32, 96, 1), nn.Conv2d(32, 32, 1)
    assign(block, {k.removeprefix("weight."): v for k, v in data.items() if k.startswith("weight.")})
    assert difference(block(data["x"], data["emb"]), data["out"]) < TOLERANCE


@pytest.mark.parametrize("name", sorted(published()))
def test_network_built_for_a_published_name_has_its_keys_and_shapes(name):
    """Names and shapes are pinned by the hash over all of them."""
    entry = published()[name]
    family = next(family for family in FAMILIES if family.name == entry.family)
    found = Recognised(family, {**family.defaults, **entry.facts}, {}, entry.architecture)
    network = skeleton(found)
    shapes = {family.prefix + key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert architecture(shapes) == entry.architecture
    assert sum(p.numel() for p in network.parameters()) == entry.parameters
    assert 4 * sum(math.prod(shape) for shape in shapes.values()) == entry.nbytes


# Precision, gradients, batches


@pytest.mark.parametrize(
    ("name", "half", "bfloat"),
    [("adm_uncond256like", 1e-3, 1e-2), ("cm_bedroom256like", 1e-3, 1e-2), ("nv_ddpmpp", 1e-3, 1e-2),
     ("nv_ncsnpp_cond", 1e-3, 1e-2), ("nv_dhariwal_cond", 1e-3, 1e-2)],
)  # fmt: skip
def test_lower_precision_stays_close(name, half, bfloat):
    more = {"noise_schedule": "linear"} if name in ADM else {"distillation": False} if name in CONSISTENCY else {}
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    labels = 3 if "cond" in name and "uncond" not in name else None
    exact = model(name, **more).denoise(x, 0.7, labels)
    for dtype, bound in ((torch.float16, half), (torch.bfloat16, bfloat)):
        lower = model(name, dtype=dtype, **more).denoise(x, 0.7, labels)
        assert lower.dtype == torch.float32
        error = float((lower - exact).std() / exact.std())
        assert 0 < error < bound


@pytest.mark.parametrize("name", ["adm_uncond256like", "nv_ncsnpp_cond", "nv_dhariwal_cond"])
def test_gradient_with_respect_to_the_image(name):
    ours = model(name, **({"noise_schedule": "linear"} if name in ADM else {}))
    generator = torch.Generator().manual_seed(2)
    x, direction = torch.randn(2, 1, 3, 8, 8, generator=generator)
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(ours.denoise(leaf, 0.5).square().sum(), leaf)
        assert torch.equal(ours.denoise(leaf, 0.5).detach(), ours.denoise(leaf.detach(), 0.5))
    step = 1e-2
    values = [float(ours.denoise(x + s * step * direction, 0.5).square().sum()) for s in (1, -1)]
    slope = (values[0] - values[1]) / (2 * step)
    assert slope == pytest.approx(float((gradient * direction).sum()), rel=0.02)


@pytest.mark.parametrize("name", ["adm_neworder_classcond", "cm_imagenet64like", "nv_dhariwal_cond"])
def test_a_sample_does_not_depend_on_its_batch(name):
    more = {"noise_schedule": "cosine"} if name in ADM else {"distillation": False} if name in CONSISTENCY else {}
    ours = model(name, **more)
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    sigma, labels = torch.tensor([0.1, 1.0, 30.0]), [1, 2, 7]
    together = ours.denoise(x, sigma, labels)
    for i in range(3):
        assert difference(ours.denoise(x[i : i + 1], sigma[i], labels[i])[0], together[i]) < TOLERANCE


# Schedules and trajectories


@pytest.mark.parametrize("betas", ["linear", "cosine"])
def test_sigmas_of_discrete_schedules(betas):
    theirs = load_file(DATA / "schedules.safetensors")[f"{betas}1000.sigma"]
    assert float((DiscreteVP(betas).sigmas / theirs - 1).abs().max()) < 1e-12


@pytest.mark.parametrize("steps", [10, 18, 40])
def test_karras_sigmas(steps):
    theirs = load_file(DATA / "schedules.safetensors")[f"karras_sigmas.{steps}"].double()
    assert float((karras_sigmas(steps) - theirs).abs().max()) < 1e-4  # theirs are computed in float32


def walked() -> tuple[list[Tensor], Callback]:
    """A list, and a callback that puts every state into it."""
    states: list[Tensor] = []
    return states, lambda now: states.append(now.x)


class Noted:
    """A denoiser that remembers what it was asked."""

    def __init__(self, denoise: PixelModel) -> None:
        self.denoise = denoise
        self.calls: list[tuple[float, Tensor]] = []

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.calls.append((float(sigma[0]), x))
        return self.denoise(x, sigma)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(
    ("trajectory", "name", "betas"),
    [
        ("adm_ddim20_linear", "adm_uncond256like", "linear"),
        ("adm_ddim20_cosine_classcond", "adm_neworder_classcond", "cosine"),
    ],
)
class TestGuidedDiffusion:
    """DDIM of 20 steps and its reverse process, on 8x8 pixels with networks of image_size 16."""

    def setup(self, trajectory, name, betas, clip):
        data = load_file(DATA / f"{trajectory}.trajectory.safetensors")
        ours = model(name, noise_schedule=betas)
        assert ours.image_size == 16 and data["x_0"].shape[-1] == 8
        conditioned = ours.conditioned(int(data["y"])) if "y" in data else ours
        sigmas = ddim_sigmas(20, ours.process)
        assert torch.equal(ours.process.sigmas[data["timestep_map"]], sigmas[:-1].flip(0))
        return data, Clipped(conditioned) if clip else conditioned, sigmas, ours.process, "clip" if clip else "noclip"

    def test_sampling(self, trajectory, name, betas, clip):
        data, denoise, sigmas, process, kind = self.setup(trajectory, name, betas, clip)
        states, progress = walked()
        reconstruct(denoise, data["x_T"].double(), sigmas, solver="euler", process=process, progress=progress)
        found = torch.stack([process.scale(s) * x for x, s in zip(states, sigmas[1:].tolist(), strict=True)])
        assert difference(found, data[f"ddim_{kind}.samples"].double()) < TOLERANCE

    def test_inversion(self, trajectory, name, betas, clip):
        """Their x_0 is taken to lie at index 0, and the last result is the predicted noise."""
        data, denoise, sigmas, process, kind = self.setup(trajectory, name, betas, clip)
        found = invert(
            denoise, data["x_0"].double(), sigmas, skip=0, solver="ddim-current", process=process, keep_states=True
        )
        theirs = data[f"reverse_{kind}.samples"].double()
        assert found.nfe == len(theirs) and found.states is not None
        rising = sigmas[:-1].flip(0).tolist()
        for state, sigma, wanted in zip(found.states[1:], rising[1:], theirs[:-1], strict=True):
            assert difference(process.scale(sigma) * state, wanted) < 1e-4
        # The linear one's last step is chaotic without clipping: a change of x_0 by 1e-5 of itself moves it by 3e-3,
        # so the 1e-6 by which two float32 evaluations of one network differ become 3e-4, in any coordinates.
        assert difference(found.noise, theirs[-1]) < (1e-3 if (betas, clip) == ("linear", False) else 1e-4)


def test_heun_of_nvlabs():
    data = load_file(DATA / "nv_edm_sampler_heun10.trajectory.safetensors")
    denoise = Noted(model("nv_ddpmpp"))
    assert difference(reconstruct(denoise, data["latents"].double(), karras_sigmas(10), solver="heun"),
                      data["final"]) < TOLERANCE  # fmt: skip
    for (sigma, x), theirs_sigma, theirs_x in zip(denoise.calls, data["net_sigma"], data["net_x"], strict=True):
        assert sigma == pytest.approx(float(theirs_sigma), rel=1e-6)
        assert difference(x.float(), theirs_x) < TOLERANCE


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_karras_samplers_of_consistency_models(solver, clip):
    """On 8x8 pixels with a network of image_size 16."""
    data = load_file(DATA / "cm_karras10.trajectory.safetensors")
    ours = model("cm_bedroom256like", distillation=False)
    kind = f"{solver}_{'clip' if clip else 'noclip'}"
    states, progress = walked()
    final = reconstruct(
        Clipped(ours) if clip else ours, data["noise"], karras_sigmas(10), solver=solver, progress=progress
    )
    # Theirs are the states that steps begin with.
    for state, theirs in zip(states, data[f"{kind}.x"][1:], strict=False):
        assert difference(state, theirs) < TOLERANCE
    assert difference(final.clamp(-1, 1), data[f"{kind}.final"]) < TOLERANCE


def test_other_sizes_than_the_trained_one_are_run_if_the_network_can():
    ours = model("nv_ddpmpp")
    assert (ours.image_size, ours.size_multiple) == (16, 2)
    images = torch.randn(1, 3, 24, 10, generator=torch.Generator().manual_seed(4))
    found = invert(ours, images, karras_sigmas(4))
    assert reconstruct(ours.conditioned(None), found.noise, found.sigmas).shape == images.shape
    denoise = Noted(ours)
    denoise.size_multiple = ours.size_multiple
    with pytest.raises(InputError, match="x0: is 24x9, the model takes multiples of 2"):
        invert(denoise, images[..., :9], karras_sigmas(4))
    assert not denoise.calls


def test_one_step_and_multistep_consistency_sampling():
    data = load_file(DATA / "cm_karras10.trajectory.safetensors")
    denoise = Clipped(model("cm_bedroom256like", distillation=True))

    def at(x: Tensor, sigma: float) -> Tensor:
        return denoise(x, torch.full((len(x),), sigma))

    x = at(data["noise"] * 80, 80.0)
    assert difference(x, data["onestep_clip.final"]) < 1e-4
    # Song et al. 2023, Algorithm 1, at the times 0, 22, 39 of 40; the first is sigma_max.
    x = data["noise"] * 80
    root = [s ** (1 / 7) for s in (80.0, 0.002)]
    levels = [(root[0] + i / 39 * (root[1] - root[0])) ** 7 for i in (0, 22, 39)]
    for sigma, following, noise in zip(levels, levels[1:], data["multistep.injected_noise"], strict=False):
        kept = min(max(following, 0.002), 80.0)
        x = at(x, sigma) + math.sqrt(max(kept**2 - 0.002**2, 0)) * noise
    assert difference(x.clamp(-1, 1), data["multistep_clip.final"]) < 1e-4
