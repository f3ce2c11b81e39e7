"""Pixel models as MODELs of the host: its own samplers and memory management against the engine alone."""

import pytest
import torch


def test_demo(run):
    model, vae, info = run("SSIPixelModelLoader")
    print(info)
    positive, = run("SSIClassLabel")
    latent, = run("SSIEmptyPixelLatent", model=model, batch_size=2)
    out, = run("KSampler", model=model, positive=positive, negative=positive, latent_image=latent, steps=4, cfg=1.0, seed=3)
    print(out["samples"].shape, out["samples"].std())
