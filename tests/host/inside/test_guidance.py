"""What users put into a model or a prompt beside a LoRA: ControlNet, guidance of other kinds, gradual masks."""

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_management
import comfy.ops
import pytest
import torch
from conftest import run
from tiny import UNET, sample, tiny_latent, tiny_model, tiny_prompt

import nodes

KINDS = ["sd15", "flux"]


@pytest.fixture(scope="module", params=KINDS)
def made(request):
    return request.param, tiny_model(request.param)


@pytest.fixture(scope="module")
def sd15():
    return tiny_model("sd15")


def core(name, **inputs):
    """A node of core, of whichever kind it is in this version."""
    node = nodes.NODE_CLASS_MAPPINGS[name]
    return run(name, **inputs) if hasattr(node, "define_schema") else getattr(node(), node.FUNCTION)(**inputs)


def error(found, wanted):
    return float((found - wanted).std() / wanted.std())


def empty(latent):
    return {"samples": torch.zeros_like(latent["samples"])}


def tiny_controlnet(seed=0, strength=0.15):
    """The host's own ControlNet of SD1.5's kind, small; random, its last layers (zero before any training) included."""
    settings = {k: v for k, v in UNET.items() if k not in ("out_channels", "transformer_depth_output")}
    settings |= {"context_dim": 32, "num_heads": 4, "hint_channels": 3, "operations": comfy.ops.manual_cast}
    network = comfy.cldm.cldm.ControlNet(**settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                last = name.startswith(("zero_convs", "middle_block_out"))
                parameter.copy_(values * (strength if last else 0.7) / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.05 * values + (1 if name.endswith("weight") else 0))
    device = comfy.model_management.get_torch_device()
    return comfy.controlnet.ControlNet(network.eval(), load_device=device, extra_conds=[])


def controlled(prompt, *, control=None, start=0.0, end=1.0, strength=1.0, seed=3):
    hint = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(seed))
    both = core("ControlNetApplyAdvanced", positive=prompt, negative=prompt, control_net=control or tiny_controlnet(),
                image=hint, strength=strength, start_percent=start, end_percent=end)  # fmt: skip
    return both[0]


@pytest.mark.parametrize(("cfg", "end"), [(1.0, 1.0), (2.0, 1.0), (1.0, 0.5)], ids=["cfg 1", "cfg 2", "half the way"])
def test_a_controlnet_acts_on_the_inversion_and_the_way_back_undoes_it(sd15, cfg, end):
    latent, negative = tiny_latent("sd15", batch=2), tiny_prompt("sd15", 2)
    plain, with_control = tiny_prompt("sd15", 1), controlled(tiny_prompt("sd15", 1), end=end)
    job = {
        "model": sd15,
        "latent": latent,
        "negative": negative,
        "cfg": cfg,
        "steps": 8,
        "skip": 0.0,
        "solver": "exact",
    }
    noise, _, sigmas, _, _ = run("SSIInverseSampler", positive=with_control, **job)
    without, *_ = run("SSIInverseSampler", positive=plain, **job)
    assert (noise.unit - without.unit).abs().max() > 1e-3, "the ControlNet has no effect"
    again = error(sample(sd15, noise, sigmas, empty(latent), with_control, negative, cfg), latent["samples"])
    lost = error(sample(sd15, noise, sigmas, empty(latent), plain, negative, cfg), latent["samples"])
    other = controlled(plain, seed=4, end=end)
    astray = error(sample(sd15, noise, sigmas, empty(latent), other, negative, cfg), latent["samples"])
    print(f"error with the ControlNet {again:.2e}, without {lost:.2e}, with another picture {astray:.2e}")
    assert again < 1e-3 and lost > 10 * again and astray > 10 * again


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.5), (0.5, 1.0)])
def test_a_controlnet_keeps_its_part_of_the_schedule(sd15, start, end):
    """Its percents are levels of noise, whichever way they are passed through."""
    control, seen = tiny_controlnet(), []
    prompt = controlled(tiny_prompt("sd15", 1), control=control, start=start, end=end)
    used = prompt[0][1]["control"]
    network, forward = used.control_model, used.control_model.forward
    network.forward = lambda *args, **kwargs: seen.append(float(kwargs["timesteps"][0])) or forward(*args, **kwargs)
    try:
        latent = tiny_latent("sd15")
        noise, _, sigmas, _, _ = run("SSIInverseSampler", model=sd15, latent=latent, positive=prompt, steps=12,
                                     solver="euler")  # fmt: skip
        up, seen[:] = list(seen), []
        sample(sd15, noise, sigmas, empty(latent), prompt)
        down = list(seen)
    finally:
        network.forward = forward
    middle = float(sd15.get_model_object("model_sampling").percent_to_sigma(0.5))
    middle = float(sd15.get_model_object("model_sampling").timestep(torch.tensor(middle)))
    assert up == sorted(up) and down == sorted(down, reverse=True)
    for times in (up, down):
        assert 2 <= len(times) <= 9
        assert all(t >= middle - 1 if end == 0.5 else t <= middle + 1 for t in times), (times, middle)


PATCHES = {
    "RescaleCFG": {"multiplier": 0.7},
    "PerturbedAttentionGuidance": {"scale": 0.5},
    "SelfAttentionGuidance": {"scale": 0.5, "blur_sigma": 2.0},
    "TCFG": {},
    "APG": {"eta": 1.0, "norm_threshold": 5.0, "momentum": 0.0},
    "CFGZeroStar": {},
    "CFGNorm": {"strength": 1.0},
    "FreeU": {},
}
ONLY_UNET = ("PerturbedAttentionGuidance", "SelfAttentionGuidance", "FreeU")


def patched(kind, model, name):
    if name not in nodes.NODE_CLASS_MAPPINGS:
        pytest.skip(f"this core has no {name}")
    if kind == "flux" and name in ONLY_UNET:
        pytest.skip(f"{name} is for UNets")
    return core(name, model=model, **PATCHES[name])[0]


@pytest.mark.parametrize("name", PATCHES)
def test_guidance_of_other_kinds_acts_as_in_core_s_own_sampler(made, name):
    """Euler upwards, from the same noised latent, by core's own sampler: the same end state, with every patch."""
    kind, model = made
    latent, positive, negative = tiny_latent(kind), tiny_prompt(kind, 1), tiny_prompt(kind, 2)
    changed = patched(kind, model, name)
    job = {"latent": latent, "positive": positive, "negative": negative, "cfg": 2.5, "steps": 8, "skip": 0.1,
           "solver": "euler", "seed": 3}  # fmt: skip
    _, end, sigmas, _, _ = run("SSIInverseSampler", model=changed, **job)
    _, plain, _, _, _ = run("SSIInverseSampler", model=model, **job)
    start, sigma = run("SSINoiseInject", model=model, latent=latent, skip=0.1, seed=3)
    rising = sigmas.flip(0)[1:]
    if kind == "flux":  # core's own sampler would divide by 1 - 1 at the end
        rising = rising[:-1]
        _, end, sigmas, _, _ = run("SSIInverseSampler", model=changed, sigmas=rising, **job)
        _, plain, _, _, _ = run("SSIInverseSampler", model=model, sigmas=rising, **job)
    assert float(rising[0]) == pytest.approx(sigma, rel=1e-4)
    (nothing,) = run("DisableNoise")
    wanted = sample(changed, nothing, rising, start, positive, negative, 2.5)
    apart = error(end["samples"], wanted)
    print(f"{kind}, {name}: {apart:.1e} from core's, {error(plain['samples'], wanted):.1e} without the patch")
    assert apart < 1e-4
    assert error(plain["samples"], wanted) > 30 * apart, "the patch has no effect"


@pytest.mark.parametrize("name", ["RescaleCFG", "PerturbedAttentionGuidance"])
def test_guidance_of_other_kinds_comes_back(made, name):
    kind, model = made
    latent, positive, negative = tiny_latent(kind), tiny_prompt(kind, 1), tiny_prompt(kind, 2)
    changed = patched(kind, model, name)
    noise, _, sigmas, _, _ = run("SSIInverseSampler", model=changed, latent=latent, positive=positive,
                                 negative=negative, cfg=2.0, steps=8, skip=0.0, solver="exact")  # fmt: skip
    again = error(sample(changed, noise, sigmas, empty(latent), positive, negative, 2.0), latent["samples"])
    lost = error(sample(model, noise, sigmas, empty(latent), positive, negative, 2.0), latent["samples"])
    print(f"{kind}, {name}: error {again:.2e}, without it {lost:.2e}")
    assert again < 1e-3 and lost > 4 * again


def test_grey_masks_with_differential_diffusion_are_warned_of(made, caplog):
    """What is said is so: the grey part is off by more than a plain mask's, black and white are not."""
    kind, model = made
    (gradual,) = core("DifferentialDiffusion", model=model, strength=1.0)
    latent, prompt = tiny_latent(kind), tiny_prompt(kind, 1)
    grey = torch.tensor([0.0, 0, 0, 0.4, 0.6, 1, 1, 1]).expand(1, 8, 8)
    errors = {}
    for name, used, mask in (("grey", gradual, grey), ("plain", model, grey), ("hard", gradual, (grey > 0.5).float())):
        masked = latent | {"noise_mask": mask}
        noise, _, sigmas, report, _ = run("SSIInverseSampler", model=used, latent=masked, positive=prompt, steps=40)
        assert ("Differential Diffusion" in report) == (name == "grey")
        out = sample(used, noise, sigmas, masked, prompt, sampler="dpmpp_2m")
        errors[name] = (out - latent["samples"]).abs().mean((0, 1, 2))
    assert "Differential Diffusion" in caplog.text
    assert errors["grey"].max() > 1.2 * errors["plain"].max() and errors["grey"][:3].max() < 1e-5
    assert errors["hard"][:4].max() < 1e-5


def test_differential_diffusion_acts_on_the_inversion(made):
    """A mask of degrees opens step by step; of one that has only 0 and 1 it makes nothing else, to the bit."""
    kind, model = made
    (gradual,) = core("DifferentialDiffusion", model=model, strength=1.0)
    latent, prompt = tiny_latent(kind), tiny_prompt(kind, 1)
    soft = torch.linspace(0, 1, 8).expand(1, 8, 8)
    found = {}
    for name, mask in (("soft", soft), ("hard", soft.round())):
        masked = latent | {"noise_mask": mask}
        for used in (model, gradual):
            noise, _, sigmas, _, _ = run("SSIInverseSampler", model=used, latent=masked, positive=prompt, steps=20)
            out = sample(used, noise, sigmas, masked, prompt, sampler="dpmpp_2m")
            found[name, used is gradual] = noise.unit
            kept = (out - latent["samples"]).abs()[..., mask[0, 0] == 0]
            assert kept.max() < 1e-4 * latent["samples"].abs().max(), "what a mask keeps was changed"
    assert torch.equal(found["hard", True], found["hard", False])
    assert (found["soft", True] - found["soft", False]).abs().max() > 1e-2
