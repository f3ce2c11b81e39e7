"""Which noise goes with which picture of a batch, whatever core's batch nodes did to it."""

import pytest
import torch
from conftest import run
from models import conditioning
from test_inversion import back, invert, model_of, picture

import nodes


def loud(seed, batch=1):
    """Pictures that differ: their latents have a standard deviation near 1 in the model's space."""
    return picture(batch=batch, seed=seed, mean=0.0, scale=5.0)


def errors(out, wanted):
    """[B], relative to the picture's own size."""
    apart = (out["samples"] - wanted["samples"]).flatten(1)
    return apart.norm(dim=1) / wanted["samples"].flatten(1).norm(dim=1)


@pytest.mark.parametrize("family", ["eps", "flow"])
@pytest.mark.parametrize("join", ["LatentBatch", "LatentBatchSeedBehavior", "RepeatLatentBatch", "as it is"])
def test_every_picture_comes_back_in_its_own_place(family, join):
    model = model_of(family)
    if join == "LatentBatch":
        (latent,) = run("LatentBatch", samples1=loud(1), samples2=loud(2))
    elif join == "LatentBatchSeedBehavior":
        (latent,) = run("LatentBatchSeedBehavior", samples=loud(1, 3), seed_behavior="fixed")
    elif join == "RepeatLatentBatch":
        (latent,) = run("RepeatLatentBatch", samples=loud(1, 2), amount=2)
    else:
        latent = loud(1, 3)
    noise, end, sigmas, _, _ = invert(model, latent, skip=0.05)
    for given in (latent, end, noise.empty_latent()):
        if family == "flow" and given is end:
            continue  # a flow model's end state is sampled from as NOISE only
        assert float(errors(back(model, noise, sigmas, given), latent).max()) < 0.1
    assert float(torch.corrcoef(noise.unit.flatten(1)).fill_diagonal_(0).abs().max()) < 0.9 or join.startswith("Repeat")
    swapped = {"samples": latent["samples"].roll(1, 0)}
    assert float(errors(swapped, latent).max()) > 0.5 or join == "RepeatLatentBatch"


def test_pictures_of_one_index_get_seeds_of_their_own():
    (latent,) = run("LatentBatch", samples1=loud(1), samples2=loud(1))
    assert latent["batch_index"] == [0, 0]
    noise, *_ = invert(model_of("eps"), latent, skip=0.1)
    assert not torch.allclose(noise.unit[0], noise.unit[1])
    one, *_ = invert(model_of("eps"), loud(1), skip=0.1, seed=1)
    torch.testing.assert_close(noise.unit[1:], one.unit, atol=1e-5, rtol=0)


def pieces(latent, count):
    return [run("LatentFromBatch", samples=latent, batch_index=i, length=1)[0] for i in range(count)]


def test_blends_are_sampled_piece_by_piece():
    """What an SDXL morph on a small card needs."""
    model = model_of("eps")
    found = [invert(model, loud(seed), steps=10, seed=seed) for seed in (1, 2)]
    noise, empty, _ = run("SSINoiseBlend", noises={f"noise{i}": n for i, (n, *_) in enumerate(found)}, frames=4)
    sigmas = found[0][2]
    whole = back(model, noise, sigmas, empty)["samples"]
    for i, piece in enumerate(pieces(empty, 4)):
        torch.testing.assert_close(back(model, noise, sigmas, piece)["samples"], whole[i : i + 1], atol=1e-4, rtol=1e-4)


def test_converted_and_loaded_noise_is_sampled_piece_by_piece():
    model, latent = model_of("eps"), loud(3, 3)
    noise, end, sigmas, _, _ = invert(model, latent, steps=10)
    converted, empty = run("SSINoiseFromLatent", model=model, latent=end)
    run("SSINoiseSave", noise=noise, filename_prefix="pieces/of/noise", sigmas=sigmas)
    listed = nodes.NODE_CLASS_MAPPINGS["SSINoiseLoad"].INPUT_TYPES()["required"]["file"][1]["options"]
    (file,) = [name for name in listed if "pieces/of/noise" in name]
    loaded, _, loaded_empty, _ = run("SSINoiseLoad", file=file)
    whole = back(model, noise, sigmas, noise.empty_latent())["samples"]
    for some, its in ((converted, empty), (loaded, loaded_empty)):
        for i, piece in enumerate(pieces(its, 3)):
            out = back(model, some, sigmas, piece)["samples"]
            torch.testing.assert_close(out, whole[i : i + 1], atol=1e-4, rtol=1e-4)
    # A piece of a batch, converted by itself, still knows which it is.
    (second,) = run("LatentFromBatch", samples=end, batch_index=1, length=1)
    alone, _ = run("SSINoiseFromLatent", model=model, latent=second)
    assert alone.indices == (1,)


def test_a_part_of_an_end_state_with_a_mask_is_not_taken_for_the_picture():
    model, latent = model_of("eps"), loud(3, 2) | {"noise_mask": torch.ones(1, 8, 8)}
    noise, end, sigmas, _, _ = invert(model, latent, steps=6)
    (part,) = run("LatentFromBatch", samples=end, batch_index=1, length=1)
    with pytest.raises(ValueError, match="is the end state of the inversion, with a mask"):
        back(model, noise, sigmas, part)


def test_prompts_of_a_batch_go_with_their_pictures():
    model, latent = model_of("eps"), loud(4, 2)
    noise, _, sigmas, _, _ = invert(model, latent, positive=conditioning(0.3), skip=0.05)
    assert float(errors(back(model, noise, sigmas, latent), latent).max()) < 0.1
