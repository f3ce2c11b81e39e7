"""Real networks of the host, small and random: what the closed-form models cannot show."""

import comfy.hooks
import pytest
import torch
from conftest import run
from models import apart
from tiny import sample, tiny_latent, tiny_model, tiny_prompt

KINDS = ["sd15", "sdxl", "flux"]


@pytest.fixture(scope="module", params=KINDS)
def made(request):
    return request.param, tiny_model(request.param)


@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_round_trip(made, cfg):
    kind, model = made
    latent, positive, negative = tiny_latent(kind, batch=2), tiny_prompt(kind, 1), tiny_prompt(kind, 2)
    noise, end, sigmas, _, _ = run(
        "SSIInverseSampler",
        model=model,
        latent=latent,
        positive=positive,
        negative=negative,
        cfg=cfg,
        steps=8,
        skip=0.0,
        solver="exact",
    )
    again = sample(model, noise, sigmas, {"samples": torch.zeros_like(latent["samples"])}, positive, negative, cfg)
    # A random network is far from a denoiser, but `exact` inverts the very steps that core's euler takes.
    error = (again - latent["samples"]).std() / latent["samples"].std()
    assert error < 1e-3, (kind, cfg, float(error))
    other = sample(model, noise, sigmas, {"samples": torch.zeros_like(latent["samples"])}, tiny_prompt(kind, 3))
    assert (other - again).abs().max() > 10 * (again - latent["samples"]).abs().max(), "the prompt has no effect"
    assert end["samples"].isfinite().all()


def test_batch_of_prompts_and_single_runs_agree(made):
    kind, model = made
    latent = tiny_latent(kind, batch=2)
    both = tiny_prompt(kind, 1, batch=2)
    noise, *_ = run("SSIInverseSampler", model=model, latent=latent, positive=both, steps=8, seed=5)
    for i in range(2):
        facts = {k: v[i : i + 1] if isinstance(v, torch.Tensor) else v for k, v in both[0][1].items()}
        one, *_ = run(
            "SSIInverseSampler", model=model, latent={"samples": latent["samples"][i : i + 1]}, steps=8, seed=5 + i,
            positive=[[both[0][0][i : i + 1], facts]],
        )  # fmt: skip
        assert (one.unit - noise.unit[i : i + 1]).abs().max() < 1e-4


def test_models_that_read_prompts_ask_for_one(made):
    kind, model = made
    with pytest.raises(ValueError, match="positive: this model reads a prompt"):
        run("SSIInverseSampler", model=model, latent=tiny_latent(kind), steps=4)


def test_a_patch_and_a_cfg_function_act_on_the_inversion(made):
    kind, model = made
    latent, prompt = tiny_latent(kind), tiny_prompt(kind)
    plain, *_ = run("SSIInverseSampler", model=model, latent=latent, positive=prompt, steps=4)
    name = next(n for n, p in model.model.named_parameters() if p.ndim == 2)
    patched = model.clone()
    patched.add_patches({name: (torch.ones_like(model.model.get_parameter(name)),)}, 0.5)
    changed, *_ = run("SSIInverseSampler", model=patched, latent=latent, positive=prompt, steps=4)
    again, *_ = run("SSIInverseSampler", model=model, latent=latent, positive=prompt, steps=4)
    assert not torch.equal(changed.unit, plain.unit) and torch.equal(again.unit, plain.unit)
    seen = []
    watched = model.clone()
    watched.set_model_sampler_cfg_function(lambda args: seen.append(1) or args["cond"])
    run("SSIInverseSampler", model=watched, latent=latent, positive=prompt, negative=prompt, cfg=2.0, steps=4)
    assert seen


def test_weights_hooked_to_a_prompt_act_on_the_inversion_and_the_way_back_undoes_them(made):
    """What Create Hook LoRA and Set CLIP Hooks make: weights that hold for one prompt alone."""
    kind, model = made
    latent, prompt = tiny_latent(kind), tiny_prompt(kind)
    hook, group = comfy.hooks.WeightHook(), comfy.hooks.HookGroup()
    generator = torch.Generator().manual_seed(7)
    weights = {n: p for n, p in model.model.named_parameters() if p.ndim == 2 and "attn" in n}
    changes = {n: 0.3 * p.std() * torch.randn(p.shape, generator=generator) for n, p in weights.items()}
    hook.weights, hook.need_weight_init = {n: ("diff", (change,)) for n, change in changes.items()}, False
    group.add(hook)
    hooked = [[prompt[0][0], prompt[0][1] | {"hooks": group}]]
    job = {"model": model, "latent": latent, "steps": 8, "skip": 0.0, "solver": "exact"}
    noise, _, sigmas, report, _ = run("SSIInverseSampler", positive=hooked, **job)
    plain, *_ = run("SSIInverseSampler", positive=prompt, **job)
    empty = {"samples": torch.zeros_like(latent["samples"])}
    again = apart(sample(model, noise, sigmas, empty, hooked), latent["samples"])
    lost = apart(sample(model, noise, sigmas, empty, prompt), latent["samples"])
    print(f"{kind}: error with the hook {again:.1e}, without {lost:.1e}")
    assert again < 1e-4 and lost > 30 * again
    assert apart(noise.unit, plain.unit) > 30 * again, "the hook has no effect on the way up"
    assert "keyframes" not in report
    after, *_ = run("SSIInverseSampler", positive=prompt, **job)
    assert torch.equal(after.unit, plain.unit), "the hooked weights stayed"


def test_area_and_mask_of_a_prompt_act(made):
    kind, model = made
    latent = tiny_latent(kind)
    half = [[tiny_prompt(kind, 1)[0][0], tiny_prompt(kind, 1)[0][1] | {"area": (8, 4, 0, 4), "strength": 1.0}]]
    whole, *_ = run("SSIInverseSampler", model=model, latent=latent, positive=tiny_prompt(kind), steps=6)
    both, *_ = run("SSIInverseSampler", model=model, latent=latent, positive=tiny_prompt(kind) + half, steps=6)
    moved = (both.unit - whole.unit).abs().mean((0, 1, 2))
    assert moved[4:].mean() > 2 * moved[:4].mean(), moved
