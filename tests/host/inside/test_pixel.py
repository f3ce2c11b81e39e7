"""Pixel models as MODELs of the host: its own samplers and memory management, against the engine alone."""

import asyncio
import importlib
import json
from pathlib import Path

import comfy.memory_management
import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import execution
import folder_paths
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import nodes

DATA = Path(__file__).resolve().parents[2] / "data" / "models"
EMBEDDED = "demo32 (embedded)"
EXACT = 1e-5
CASES = {
    "adm-linear": ("adm_uncond256like.safetensors", {"noise_schedule": "linear"}),
    "adm-cosine-classes": ("adm_neworder_classcond.safetensors", {"noise_schedule": "cosine"}),
    "adm-4000-levels": (
        "adm_plain_convresample_heads4.safetensors",
        {"noise_schedule": "linear", "diffusion_steps": 4000},
    ),
    "adm-x0": ("adm_uncond256like.safetensors", {"noise_schedule": "linear", "predict_xstart": True}),
    "cm-teacher": ("cm_bedroom256like.safetensors", {"distillation": False}),
    "cm-student": ("cm_bedroom256like.safetensors", {"distillation": True}),
    "cm-classes": ("cm_imagenet64like.safetensors", {"distillation": False}),
    "edm-ddpmpp": ("nv_ddpmpp.safetensors", {"class_name": "EDMPrecond"}),
    "edm-ncsnpp-pickle": ("nv_ncsnpp_cond.pkl", {}),
    "edm-adm-classes": ("nv_dhariwal_cond.safetensors", {"class_name": "EDMPrecond"}),
    "vp": ("nv_ddpmpp.safetensors", {"class_name": "VPPrecond"}),
    "ve": ("nv_ncsnpp_cond.safetensors", {"class_name": "VEPrecond"}),
    "iddpm": ("iddpm.safetensors", {}),
}
NULL = {"edm-ncsnpp-pickle", "edm-adm-classes", "ve"}
"""With classes, and able to do without."""


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode(False), torch.no_grad():
        yield


@pytest.fixture(scope="session", autouse=True)
def the_pack_s_engine(pack):
    """`ssi_core` is on no path here: the pack knows where its own is."""
    importlib.import_module(f"{pack.__name__}.ssi_core")


@pytest.fixture(scope="session")
def folder(pack):
    """models/pixel_diffusion with every family in it; the pack itself must not have made it."""
    path = Path(folder_paths.get_folder_paths("pixel_diffusion")[0])
    assert not path.exists()
    path.mkdir(parents=True)
    for file in {file for file, _ in CASES.values()} - {"iddpm.safetensors"}:
        (path / file).symlink_to(DATA / file)
    weights = load_file(DATA / "nv_dhariwal_cond.safetensors")
    for end in ("weight", "bias"):
        weights[f"model.out_conv.{end}"] = torch.cat([weights[f"model.out_conv.{end}"]] * 2)
    abar = torch.cos(torch.linspace(0, 1, 101, dtype=torch.float64) * torch.pi / 2) ** 2
    weights["u"] = ((1 - abar.clamp(max=1 - 1e-7)) / abar.clamp(min=1e-4)).sqrt().flip(0).float()
    weights["u"][-1] = 0
    save_file({k: v.contiguous() for k, v in weights.items()}, path / "iddpm.safetensors")
    return path


def settings(case):
    file, more = CASES[case]
    told = {}
    if file in ("iddpm.safetensors", "nv_ncsnpp_cond.pkl"):
        return more
    with safe_open(DATA / file, framework="pt") as opened:
        told = json.loads(opened.metadata()["reference"])["kwargs"]
    return {**told, **more}


def words(settings):
    """As they are written into the node."""
    return ", ".join(
        f"{k}={','.join(map(str, v)) if isinstance(v, list) else v}" for k, v in settings.items() if v is not None
    )


@pytest.fixture
def load(run, folder):
    def load(case, **inputs):
        file, _ = CASES[case]
        # Lists are given to the engine's own recognition by the tensors; the node needs only what they do not tell.
        few = {k: v for k, v in settings(case).items() if k in TOLD}
        return run("SSIPixelModelLoader", checkpoint=file, arguments=words(few), **inputs)[0]

    return load


TOLD = {
    "num_heads", "num_head_channels", "use_new_attention_order", "noise_schedule", "diffusion_steps", "predict_xstart",
    "distillation", "class_name",
}  # fmt: skip


def engine(pack, case):
    from torch import nn

    from ssi_core.models import load_checkpoint

    file, _ = CASES[case]
    path = Path(folder_paths.get_full_path("pixel_diffusion", file))
    return load_checkpoint(path, layers=nn, **settings(case))


def classes_of(model):
    return model.model.pixels.classes


def conditioning(run, model, label=None):
    if label is None:
        label = "1" if model.model.pixels.needs_class() else ""
    return run("SSIClassLabel", label=label, model=model)[0]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def denoised(model, x, sigma, positive, negative=None, cfg=1.0):
    """What core's samplers get from the MODEL."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, positive if negative is None else negative)
    guider.set_cfg(cfg)
    seen = []

    class Ask(comfy.samplers.Sampler):
        def sample(self, model_wrap, sigmas, extra_args, *args, **kwargs):
            seen.append(model_wrap(x, sigmas[:1].expand(len(x)), **extra_args))
            return x

    guider.sample(torch.zeros_like(x), torch.zeros_like(x), Ask(), torch.tensor([float(sigma), 0.0]), seed=0)
    return seen[0]


def sample(
    model, positive, negative=None, *, latent=None, steps=6, cfg=1.0, sampler="euler", scheduler="karras", seed=0
):
    latent = torch.zeros(1, 3, 16, 16) if latent is None else latent
    out = nodes.KSampler().sample(
        model, seed, steps, cfg, sampler, scheduler, positive, negative or positive, {"samples": latent}, 1.0
    )
    return out[0]["samples"]


def difference(ours, theirs):
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


# What the host's samplers get is what the engine computes


@pytest.mark.parametrize("case", CASES)
def test_denoised_is_the_engine_s(pack, run, load, case):
    model, alone = load(case), engine(pack, case)
    x0 = noise(2, 3, 16, 16)
    label = "0, 2" if classes_of(model) else ""
    positive = conditioning(run, model, label)
    low, high = alone.sigma_min, alone.sigma_max
    at_random = torch.exp(torch.rand(6, generator=torch.Generator().manual_seed(1)) * 9 - 5).tolist()
    worst = 0.0
    for sigma in [low, low * 1.37, *at_random, high * 0.83, high, low / 3, high * 2]:
        x = x0 * (1 + sigma**2) ** 0.5
        wanted = alone.denoise(x, torch.tensor(sigma), [0, 2] if label else None)
        worst = max(worst, difference(denoised(model, x, sigma, positive), wanted))
    print(f"{case}: {worst:.1e}")
    assert worst <= EXACT


def test_demo_denoised_is_the_engine_s(pack, run):
    from ssi_core import demo_denoiser

    model = run("SSIPixelModelLoader")[0]
    alone = demo_denoiser()
    positive = conditioning(run, model)
    for sigma in (0.002, 0.05, 0.7, 11.0, 80.0):
        x = noise(2, 3, 32, 32) * (1 + sigma**2) ** 0.5
        assert difference(denoised(model, x, sigma, positive), alone(x, torch.full((2,), sigma))) <= 1e-6


def test_the_demo_s_classes_are_the_engine_s(pack, run):
    from ssi_core import demo_denoiser

    model, _, info = run("SSIPixelModelLoader", checkpoint="demo32-classes (embedded)")
    alone, x, sigma = demo_denoiser(name="demo-classes"), noise(2, 3, 32, 32) * 5, torch.full((2,), 5.0)
    assert "classes 0 summer, 1 autumn, 2 winter, 3 night (or none)" in info
    for label, wanted in (("", alone(x, sigma)), ("2", alone.conditioned(2)(x, sigma)),
                          ("1, 3", alone.conditioned([1, 3])(x, sigma))):  # fmt: skip
        assert difference(denoised(model, x, 5.0, conditioning(run, model, label)), wanted) <= 1e-6
    with pytest.raises(ValueError, match="demo32-classes has the classes 0 to 3"):
        run("SSIClassLabel", label="4", model=model)


def test_a_level_that_a_wrapper_changes_is_followed(run, load):
    model = load("edm-ddpmpp").clone()
    positive, x = conditioning(run, model), noise(1, 3, 16, 16)
    at_two = denoised(model, x, 2.0, positive)
    wrapper = lambda executor, x, t, *args, **kwargs: executor(x, torch.full_like(t, 2.0), *args, **kwargs)  # noqa: E731
    model.add_wrapper("apply_model", wrapper)
    assert difference(denoised(model, x, 5.0, positive), at_two) <= EXACT


# Schedulers and samplers


@pytest.mark.parametrize("case", ["adm-linear", "cm-teacher", "vp", "ve", "iddpm"])
def test_every_scheduler_falls_from_top_to_bottom(load, case):
    sampling = load(case).get_model_object("model_sampling")
    low, high = float(sampling.sigma_min), float(sampling.sigma_max)
    for name in comfy.samplers.SCHEDULER_NAMES:
        sigmas = comfy.samplers.calculate_sigmas(sampling, name, 20)
        assert bool((sigmas.diff() < 0).all()) and float(sigmas[-1]) == 0, name
        assert bool(sigmas.isfinite().all()) and high * 0.2 < float(sigmas[0]) <= high * 1.0001, name
        assert float(sigmas[-2]) >= low * 0.999, name
    inside = torch.linspace(low, high, 50)
    back = sampling.sigma(sampling.timestep(inside))
    counted = not sampling.timestep(inside).is_floating_point()
    assert counted == (case in ("adm-linear", "iddpm"))
    if counted:  # to the nearest level
        gap = float(sampling.log_sigmas.diff().max())
        assert float((back.log() - inside.log()).abs().max()) <= 0.501 * gap
    else:
        assert difference(back, inside) < EXACT
    assert sampling.percent_to_sigma(0.0) > high and sampling.percent_to_sigma(1.0) == 0.0
    assert low < sampling.percent_to_sigma(0.7) < sampling.percent_to_sigma(0.3) < high


def test_adm_levels_are_guided_diffusion_s(load):
    sampling = load("adm-linear").get_model_object("model_sampling")
    abar = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    assert difference(sampling.sigmas.double(), ((1 - abar) / abar).sqrt()) < 1e-6
    assert sampling.timestep(sampling.sigmas).tolist() == list(range(1000))
    assert sampling.sigma_data == 1.0 and load("ve").get_model_object("model_sampling").sigma_data == 0.5


@pytest.mark.parametrize(
    "scheduler", ["karras", "simple", "exponential", "beta", "normal", "sgm_uniform", "kl_optimal"]
)
def test_euler_is_the_engine_s_reconstruction(pack, run, scheduler):
    from ssi_core import demo_denoiser, reconstruct

    model, latent = run("SSIPixelModelLoader")[0], torch.zeros(1, 3, 32, 32)
    out = sample(model, conditioning(run, model), latent=latent, scheduler=scheduler, seed=5)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, 6)
    start = comfy.sample.prepare_noise(latent, 5)
    at_top = abs(float(sigmas[0]) / 80 - 1) < 1e-5
    gain = (1 + float(sigmas[0]) ** 2) ** 0.5 if at_top else float(sigmas[0])
    alone = reconstruct(demo_denoiser(), start * gain / float(sigmas[0]), sigmas, solver="euler")
    print(scheduler, difference(out, alone))
    assert difference(out, alone) <= EXACT


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "uni_pc", "lms", "ddim", "euler_ancestral", "dpmpp_2m_sde"])
@pytest.mark.parametrize("case", ["adm-linear", "edm-ddpmpp"])
def test_core_s_samplers_run(run, load, case, sampler):
    model = load(case)
    out = sample(model, conditioning(run, model), sampler=sampler, scheduler="normal")
    assert bool(out.isfinite().all()) and float(out.std()) > 0


@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_sampler_custom_advanced_is_ksampler(run, load, cfg):
    model = load("edm-adm-classes")
    positive, negative = conditioning(run, model, "2"), conditioning(run, model, "")
    (sigmas,) = run("BasicScheduler", model=model, scheduler="karras", steps=5, denoise=1.0)
    (guider,) = run("CFGGuider", model=model, positive=positive, negative=negative, cfg=cfg)
    (latent,) = run("SSIEmptyPixelLatent", width=16, height=16)
    (sampler,) = run("KSamplerSelect", sampler_name="heun")
    (seed,) = run("RandomNoise", noise_seed=4)
    out = run("SamplerCustomAdvanced", noise=seed, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent)[
        0
    ]
    wanted = sample(model, positive, negative, steps=5, cfg=cfg, sampler="heun", seed=4)
    assert difference(out["samples"], wanted) <= EXACT


def test_ksampler_node_with_an_empty_latent_of_core(run):
    """Of four channels and an eighth of the size: core makes it fit, by what the latent format says."""
    model = run("SSIPixelModelLoader")[0]
    latent = nodes.EmptyLatentImage().generate(32, 32, 2)[0]
    positive = conditioning(run, model)
    out = nodes.KSampler().sample(model, 0, 2, 1.0, "euler", "simple", positive, positive, latent, 1.0)[0]
    assert out["samples"].shape[1] == 3


# Classes


@pytest.mark.parametrize("case", ["adm-cosine-classes", "cm-classes", *sorted(NULL)])
def test_cfg_and_one_class_for_each_image(pack, run, load, case):
    model, alone = load(case), engine(pack, case)
    x, sigma = noise(3, 3, 16, 16) * 2, 1.7
    several, other = conditioning(run, model, "0, 2, 1"), conditioning(run, model, "1")
    found = denoised(model, x, sigma, several, other, cfg=2.5)
    wanted, unwanted = (alone.denoise(x, torch.tensor(sigma), labels) for labels in ([0, 2, 1], 1))
    assert difference(found, unwanted + 2.5 * (wanted - unwanted)) <= EXACT
    if case in NULL:
        found = denoised(model, x, sigma, several, conditioning(run, model, ""), cfg=2.5)
        unwanted = alone.denoise(x, torch.tensor(sigma), None)
        assert difference(found, unwanted + 2.5 * (wanted - unwanted)) <= EXACT


def test_cond_and_uncond_are_one_batch(run, load):
    model = load("edm-adm-classes")
    seen = []
    network = model.model.diffusion_model.network
    handle = network.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    denoised(model, noise(2, 3, 16, 16), 1.0, conditioning(run, model, "1"), conditioning(run, model, ""), cfg=3.0)
    handle.remove()
    assert seen == [4]


def test_batch_changes_nothing(run, load):
    model = load("edm-adm-classes")
    x = noise(3, 3, 16, 16)
    together = denoised(model, x, 0.9, conditioning(run, model, "2, 0, 1"))
    for i, label in enumerate("201"):
        alone = denoised(model, x[i : i + 1], 0.9, conditioning(run, model, label))
        assert difference(together[i : i + 1], alone) <= EXACT


# Wrong input is told in a sentence


def test_wrong_conditionings(run, load):
    x = noise(2, 3, 16, 16)
    classes, plain = load("adm-cosine-classes"), load("edm-ddpmpp")
    for model, given, said in [
        (classes, [[torch.zeros(1, 1, 1), {}]], "connect SSI Class Label"),
        (classes, [[torch.zeros(1, 1, 1), {"class_label": 10**6}]], "positive: class 1000000"),
        (classes, [[torch.zeros(1, 1, 1), {"class_label": torch.tensor([0, 1, 2])}]], "3 class labels for 2 images"),
        (plain, [[torch.zeros(1, 1, 1), {"class_label": 1}]], "knows no classes"),
        (plain, [[torch.ones(1, 77, 768), {}]], "positive: holds a text prompt"),
    ]:
        with pytest.raises(ValueError, match=said):
            denoised(model, x, 1.0, given)
    # cfg 1 never asks for the negative, so that one may be without a class.
    good = conditioning(run, classes, "1")
    assert denoised(classes, x, 1.0, good, [[torch.zeros(1, 1, 1), {}]]).shape == x.shape
    with pytest.raises(ValueError, match="to negative too unless cfg is 1"):
        denoised(classes, x, 1.0, good, [[torch.zeros(1, 1, 1), {}]], cfg=2.0)
    with pytest.raises(ValueError, match="label: class 999999"):
        run("SSIClassLabel", label="999999", model=classes)
    with pytest.raises(ValueError, match=r"label: .* none for 'any'"):
        run("SSIClassLabel", label="", model=classes)
    with pytest.raises(ValueError, match=r"label: .* knows no classes"):
        run("SSIClassLabel", label="1", model=plain)


def test_wrong_latents_and_changed_sampling(run, load):
    model = run("SSIPixelModelLoader")[0]
    positive = conditioning(run, model)
    for shape, said in [
        ((1, 3, 30, 32), "32x30 pixels, where demo32 takes 32x32 only"),
        ((1, 4, 32, 32), "3 channels"),
    ]:
        with pytest.raises(ValueError, match=said):
            sample(model, positive, latent=torch.ones(shape))
    other = nodes.NODE_CLASS_MAPPINGS["ModelSamplingContinuousEDM"]().patch(model, "v_prediction", 120.0, 0.002)[0]
    with pytest.raises(ValueError, match="remove the ModelSampling node"):
        sample(other, positive, latent=torch.zeros(1, 3, 32, 32))
    (perturbed,) = run("PerturbedAttentionGuidance", model=model, scale=3.0)
    with pytest.raises(ValueError, match="changes layers that demo32 has not"):
        sample(perturbed, positive, latent=torch.zeros(1, 3, 32, 32))


def test_areas_and_masks_work(run):
    model = run("SSIPixelModelLoader")[0]
    left = nodes.ConditioningSetArea().append(conditioning(run, model), 128, 256, 0, 0, 1.0)[0]
    whole = conditioning(run, model)
    x = noise(1, 3, 32, 32)
    assert bool(denoised(model, x, 1.0, left + whole).isfinite().all())
    masked = {"samples": torch.zeros(1, 3, 32, 32), "noise_mask": torch.ones(1, 1, 32, 32).tril()}
    out = nodes.KSampler().sample(model, 0, 2, 1.0, "euler", "simple", whole, whole, masked, 1.0)[0]["samples"]
    kept = masked["noise_mask"].expand_as(out) == 0
    assert float(out[kept].abs().max()) < 1e-5


# Previews, VAE


def test_previews_and_vae(run, monkeypatch):
    import latent_preview

    model, vae, info = run("SSIPixelModelLoader")
    assert "Apache-2.0" in info and "32x32" in info and "0.002 to 80" in info
    (images,) = run("SSIDemoImages", kind="photographs", index=3, count=2)
    assert images.shape == (2, 32, 32, 3) and float(images.min()) >= 0 and float(images.max()) <= 1
    latent = nodes.VAEEncode().encode(vae, images)[0]
    assert (
        latent["samples"].shape == (2, 3, 32, 32)
        and difference(latent["samples"], images.movedim(-1, 1) * 2 - 1) < 1e-6
    )
    assert float((nodes.VAEDecode().decode(vae, latent)[0] - images).abs().max()) < 1e-6
    previewer = latent_preview.Latent2RGBPreviewer(model.model.latent_format.latent_rgb_factors)
    shown = previewer.decode_latent_to_preview(latent["samples"])
    pixels = torch.tensor(list(shown.tobytes())).reshape(32, 32, 3) / 255
    assert float((pixels - images[0]).abs().max()) <= 1.01 / 255
    seen = []
    monkeypatch.setattr(latent_preview, "default_preview_method", latent_preview.LatentPreviewMethod.Auto)
    positive = conditioning(run, model)
    comfy.sample.sample(
        model, noise(1, 3, 32, 32), 3, 1.0, "euler", "karras", positive, positive, torch.zeros(1, 3, 32, 32),
        callback=lambda step, x0, x, total: seen.append((step, x0.shape, total)),
    )  # fmt: skip
    assert seen == [(i, (1, 3, 32, 32), 3) for i in range(3)]


def test_inpainting_and_image_to_image(run):
    model, vae, _ = run("SSIPixelModelLoader")
    (images,) = run("SSIDemoImages", index=2)
    mask = torch.zeros(1, 32, 32)
    mask[:, 8:24, 8:24] = 1
    latent = nodes.VAEEncodeForInpaint().encode(vae, images, mask, grow_mask_by=0)[0]
    positive = conditioning(run, model)
    out = nodes.KSampler().sample(model, 1, 4, 1.0, "euler", "karras", positive, positive, latent, 1.0)[0]
    decoded = nodes.VAEDecode().decode(vae, out)[0]
    assert decoded.shape == images.shape
    assert float((decoded - images)[(mask == 0)[..., None].expand_as(images)].abs().max()) < 1e-5
    assert float((decoded - images).abs().max()) > 0.05
    latent = nodes.VAEEncode().encode(vae, images)[0]
    near = nodes.KSampler().sample(model, 1, 8, 1.0, "dpmpp_2m", "karras", positive, positive, latent, 0.25)[0]
    assert float((nodes.VAEDecode().decode(vae, near)[0] - images).abs().mean()) < 0.1


def test_demo_images_are_held_out_ones(pack, run):
    from ssi_core.demo.scenes import HELD_OUT, draw_scenes

    (images,) = run("SSIDemoImages", kind="drawn scenes", index=7, count=3)
    assert torch.allclose(images.movedim(-1, 1) * 2 - 1, draw_scenes(range(HELD_OUT + 7, HELD_OUT + 10)), atol=1e-6)
    with pytest.raises(ValueError, match="index: 4 photographs from 30 on, where there are 32"):
        run("SSIDemoImages", kind="photographs", index=30, count=4)


# Memory, patches, precision


@pytest.mark.parametrize("case", ["adm-linear", "edm-ncsnpp-pickle", "edm-adm-classes"])
def test_unloading_offloading_and_reloading_change_nothing(run, load, case):
    model = load(case)
    x, positive = noise(2, 3, 16, 16), conditioning(run, model)
    before = denoised(model, x, 0.8, positive)
    comfy.model_management.unload_all_models()
    assert torch.equal(denoised(model, x, 0.8, positive), before)
    model.model.to("cpu")
    fraction = model.model_size() // 3
    model.detach()
    model.load(torch.device("cpu"), lowvram_model_memory=fraction)
    offloaded = [m for m in model.model.modules() if getattr(m, "comfy_cast_weights", False)]
    assert offloaded and model.model.model_lowvram
    sigma = torch.full((2,), 0.8)
    labels = (
        {} if positive[0][1].get("class_label") is None else {"class_label": positive[0][1]["class_label"].expand(2)}
    )
    if case in NULL and not labels:
        labels = {"class_label": torch.full((2,), -1)}
    assert difference(model.model.apply_model(x, sigma, **labels), before) <= 1e-6
    model.partially_unload(torch.device("cpu"), fraction)
    assert difference(model.model.apply_model(x, sigma, **labels), before) <= 1e-6
    model.partially_load(torch.device("cpu"), extra_memory=10**10)
    assert difference(model.model.apply_model(x, sigma, **labels), before) <= 1e-6
    model.detach()
    assert torch.equal(denoised(model, x, 0.8, positive), before)


@pytest.mark.parametrize("case", CASES)
def test_layers_that_the_host_would_leave_empty(pack, run, load, monkeypatch, case):
    """As under dynamic VRAM, where some of its layers have no tensors before they are loaded."""
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
    model, alone = load(case), engine(pack, case)
    x, label = noise(1, 3, 16, 16), "1" if classes_of(model) else ""
    wanted = alone.denoise(x, torch.tensor(0.8), 1 if label else None)
    assert difference(denoised(model, x, 0.8, conditioning(run, model, label)), wanted) <= EXACT


def test_every_layer_with_weights_is_the_host_s(load):
    """One that is not would stay where it is when the host moves the model, and would ignore its casts and patches."""
    for case in CASES:
        network = load(case).model.diffusion_model
        for name, module in network.named_modules():
            if list(module.parameters(recurse=False)):
                assert hasattr(module, "comfy_cast_weights"), (case, name)


def test_state_dict_is_the_file(load):
    stored = load_file(DATA / "adm_uncond256like.safetensors")
    held = load("adm-linear").model.diffusion_model.state_dict()
    assert held.keys() == {f"network.{name}" for name in stored}
    assert all(torch.equal(held[f"network.{name}"], value) for name, value in stored.items())


@pytest.mark.parametrize("lowvram", [False, True])
@pytest.mark.parametrize("case", ["adm-linear", "edm-adm-classes"])
def test_patches_change_the_output_and_are_undone(run, load, case, lowvram):
    model = load(case)
    x, positive = noise(1, 3, 16, 16), conditioning(run, model)
    before = denoised(model, x, 0.8, positive)
    weights = model.model_state_dict("diffusion_model.")
    # A norm that is modulated by the time embedding: its weights are used in an unusual way.
    key = next(k for k in weights if k.endswith(("out_layers.0.weight", "norm1.weight")))
    patched = model.clone()
    assert patched.add_patches({key: (torch.ones_like(weights[key]),)}, 0.3) == [key]
    if lowvram:
        patched.load(torch.device("cpu"), lowvram_model_memory=1)
        assert patched.model.lowvram_patch_counter == 1
        labels = {"class_label": torch.full((1,), -1)} if case in NULL else {}
        after = patched.model.apply_model(x, torch.tensor([0.8]), **labels)
        patched.detach()
    else:
        after = denoised(patched, x, 0.8, positive)
    assert difference(after, before) > 1e-4
    whole = model.clone()
    whole.add_patches({key: (torch.ones_like(weights[key]),)}, 0.3)
    assert difference(after, denoised(whole, x, 0.8, positive)) <= EXACT
    assert torch.equal(denoised(model, x, 0.8, positive), before)


@pytest.mark.parametrize("dtype, tolerance", [("float16", 5e-3), ("bfloat16", 5e-2)])
@pytest.mark.parametrize("case", ["adm-linear", "cm-teacher", "edm-ncsnpp-pickle", "edm-adm-classes"])
def test_half_precision(run, load, monkeypatch, case, dtype, tolerance):
    full, half = load(case), load(case, dtype=dtype)
    x, positive = noise(1, 3, 16, 16), conditioning(run, full)
    wanted = denoised(full, x, 0.8, positive)
    found = denoised(half, x, 0.8, positive)
    assert found.dtype == torch.float32 and difference(found, wanted) < tolerance
    kinds = {p.dtype for p in half.model.diffusion_model.parameters()}
    assert getattr(torch, dtype) in kinds
    # As on a device that computes in it, which a CPU may not.
    monkeypatch.setattr(comfy.model_management, "unet_manual_cast", lambda *args, **kwargs: None)
    native = load(case, dtype=dtype)
    assert native.model.pixels.compute_dtype == getattr(torch, dtype)
    assert 0 < difference(denoised(native, x, 0.8, positive), wanted) < tolerance
    native.detach()
    native.load(torch.device("cpu"), lowvram_model_memory=1)
    labels = {"class_label": torch.full((1,), -1)} if case in NULL else {}
    offloaded = native.model.apply_model(x, torch.tensor([0.8]), **labels)
    assert difference(offloaded, wanted) < tolerance


def test_half_precision_of_the_embedded_model_is_refused(run):
    with pytest.raises(ValueError, match="dtype: the embedded model runs in float32"):
        run("SSIPixelModelLoader", dtype="float16")


def test_memory_estimate_is_of_the_right_order(load):
    """128 channels at 256x256 in float32 were measured to need 268 MB beside the weights: 8 maps of that width."""
    model = load("adm-linear").model
    width = model.diffusion_model.network.input_blocks[0][0].out_channels
    maps = model.memory_required([1, 3, 256, 256]) / (256 * 256 * width * 4)
    assert 8 < maps < 64


# Files, and what the file does not tell


def test_choices_and_missing_files(run, folder, pack):
    loader = nodes.NODE_CLASS_MAPPINGS["SSIPixelModelLoader"]
    choices = loader.INPUT_TYPES()["required"]["checkpoint"][1]["options"]
    assert choices[0] == EMBEDDED and "adm_uncond256like.safetensors" in choices
    assert loader.validate_inputs(checkpoint=EMBEDDED) is True
    assert loader.validate_inputs() is True  # linked inputs
    said = loader.validate_inputs(checkpoint="lsun_bedroom.pt")
    assert (
        "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/lsun_bedroom.pt" in said and str(folder) in said
    )
    assert "there is no file mine.pt. Put it into" in loader.validate_inputs(checkpoint="mine.pt")
    for text in ("num_heads", "=4", "num_heads=", "path=3", "num_heads=4, num_heads=2", "a b=3"):
        with pytest.raises(ValueError, match="arguments:"):
            run("SSIPixelModelLoader", arguments=text)
    with pytest.raises(ValueError, match="there is no file"):
        run("SSIPixelModelLoader", checkpoint="lsun_bedroom.pt")
    with pytest.raises(ValueError, match="arguments: the embedded model takes none"):
        run("SSIPixelModelLoader", arguments="num_heads=4")


def test_the_host_s_own_validation_passes_the_sentence_on(folder):
    def prompt(checkpoint, label):
        return {
            "1": {"class_type": "SSIPixelModelLoader", "inputs": {
                "checkpoint": checkpoint, "arguments": "", "dtype": "default"}},
            "2": {"class_type": "SSIClassLabel", "inputs": {"label": label, "model": ["1", 0]}},
            "3": {"class_type": "SSIEmptyPixelLatent", "inputs": {
                "width": 0, "height": 0, "batch_size": 1, "model": ["1", 0]}},
            "4": {"class_type": "KSampler", "inputs": {
                "model": ["1", 0], "seed": 0, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "karras",
                "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0], "denoise": 1.0}},
            "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 1]}},
            "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}},
        }  # fmt: skip

    valid, *_ = asyncio.run(execution.validate_prompt("a", prompt(EMBEDDED, ""), None))
    assert valid
    for wrong, node, said in [
        (prompt("lsun_cat.pt", ""), "1", "diffusion/jul-2021/lsun_cat.pt and put it into"),
        (prompt(EMBEDDED, "cat"), "2", "is no class number"),
    ]:
        valid, _, _, errors = asyncio.run(execution.validate_prompt("a", wrong, None))
        assert said in json.dumps(errors[node]), errors


def test_what_the_file_does_not_tell_is_asked_for(run, folder):
    with pytest.raises(ValueError, match="noise_schedule") as told:
        run("SSIPixelModelLoader", checkpoint="adm_uncond256like.safetensors", arguments="num_head_channels=16")
    assert "load_checkpoint" not in str(told.value) and "arguments: " in str(told.value)
    with pytest.raises(ValueError, match="no argument of a guided-diffusion model"):
        run("SSIPixelModelLoader", checkpoint="adm_uncond256like.safetensors", arguments="heads=16")


@pytest.mark.parametrize("name", ["evil.pkl", "evil.pt"])
def test_nothing_in_a_file_is_executed(run, folder, name):
    (folder / name).symlink_to(DATA.parent / "malicious" / name)
    with pytest.raises(ValueError, match=name):
        run("SSIPixelModelLoader", checkpoint=name)


def test_loading_can_be_interrupted(load):
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        load("adm-linear")
    load("adm-linear")


def test_published_files_are_found_where_users_keep_checkpoints(run, folder):
    models = Path(folder_paths.models_dir)
    kept = Path(folder_paths.get_folder_paths("checkpoints")[0])
    assert kept.is_relative_to(models) and not kept.is_relative_to(folder)
    kept.mkdir(parents=True, exist_ok=True)
    for name in ("edm-ffhq-64x64-uncond-vp.pkl", "sd15.safetensors", "lsun_cathedral.pt"):
        (kept / name).write_bytes(b"no checkpoint")
    choices = nodes.NODE_CLASS_MAPPINGS["SSIPixelModelLoader"].INPUT_TYPES()["required"]["checkpoint"][1]["options"]
    assert "edm-ffhq-64x64-uncond-vp.pkl" in choices
    assert "sd15.safetensors" not in choices and "lsun_cathedral.pt" not in choices
    with pytest.raises(ValueError, match=r"edm-ffhq-64x64-uncond-vp\.pkl"):
        run("SSIPixelModelLoader", checkpoint="edm-ffhq-64x64-uncond-vp.pkl")


def test_a_replaced_file_is_loaded_again(folder):
    loader = nodes.NODE_CLASS_MAPPINGS["SSIPixelModelLoader"]
    file = folder / "replaced.safetensors"
    assert loader.fingerprint_inputs(checkpoint="replaced.safetensors", arguments="").endswith("missing")
    file.write_bytes((DATA / "nv_ddpmpp.safetensors").read_bytes())
    first = loader.fingerprint_inputs(checkpoint="replaced.safetensors", arguments="", dtype="default")
    assert first == loader.fingerprint_inputs(checkpoint="replaced.safetensors", arguments="", dtype="default")
    file.write_bytes((DATA / "nv_ddpmpp.safetensors").read_bytes() + b" ")
    assert first != loader.fingerprint_inputs(checkpoint="replaced.safetensors", arguments="", dtype="default")


def test_the_host_can_load_a_model_anew(run, load):
    model = load("edm-adm-classes")
    make, given = model.cached_patcher_init[:2]
    again = make(*given, disable_dynamic=True)
    x, positive = noise(1, 3, 16, 16), conditioning(run, model, "1")
    assert again.model is not model.model
    assert torch.equal(denoised(again, x, 0.8, positive), denoised(model, x, 0.8, positive))


# Empty latents, schemas


def test_empty_latents(run, load):
    demo, sized = run("SSIPixelModelLoader")[0], load("edm-ddpmpp")
    assert run("SSIEmptyPixelLatent", model=demo, batch_size=3)[0]["samples"].shape == (3, 3, 32, 32)
    assert run("SSIEmptyPixelLatent", model=sized, width=32)[0]["samples"].shape[2:] == (sized.model.pixels.size, 32)
    assert run("SSIEmptyPixelLatent", width=64, height=40)[0]["samples"].shape == (1, 3, 40, 64)
    with pytest.raises(ValueError, match="width, height: 0 stands for the model's own size"):
        run("SSIEmptyPixelLatent", width=64)
    with pytest.raises(ValueError, match="36x32 pixels, where demo32 takes 32x32 only"):
        run("SSIEmptyPixelLatent", width=36, height=32, model=demo)
    with pytest.raises(ValueError, match="is no pixel model"):
        run("SSIEmptyPixelLatent", model=object())


@pytest.mark.parametrize("text", ["x", "-1", "1.5", "3 a"])
def test_labels_that_are_none(run, text):
    assert "is no class number" in nodes.NODE_CLASS_MAPPINGS["SSIClassLabel"].validate_inputs(label=text)
    with pytest.raises(ValueError, match="is no class number"):
        run("SSIClassLabel", label=text)
