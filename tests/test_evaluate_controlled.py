"""The controlled ODEs of RF-Inversion, on flows whose denoiser is known exactly."""

import pytest
import torch
from exact import gaussian, mixture, normal, relative

from ssi_core import Flow, flow_sigmas, integrate, invert, karras_sigmas, reconstruct
from ssi_core.evaluate.controlled import controlled

SIGMAS = karras_sigmas(20, sigma_min=0.01, sigma_max=1.0)
X0, END = normal(3, 1, 2, 4, seed=1), normal(3, 1, 2, 4, seed=2)


def up(strength, sigmas=SIGMAS, **kwargs):
    return invert(mixture(flow=True), X0, sigmas, skip=0, solver=controlled(END, strength, **kwargs), process=Flow())


def down(noise, strength, sigmas=SIGMAS, **kwargs):
    return reconstruct(mixture(flow=True), noise, sigmas, solver=controlled(X0, strength, **kwargs), process=Flow())


def test_without_control_it_is_euler():
    plain = invert(mixture(flow=True), X0, SIGMAS, skip=0, solver="euler", process=Flow())
    assert torch.allclose(up(0.0).noise, plain.noise)
    assert up(0.0).nfe == plain.nfe == 19
    back = reconstruct(mixture(flow=True), plain.noise, plain.sigmas, solver="euler", process=Flow())
    assert torch.allclose(down(plain.noise, 0.0), back)


def test_full_control_is_the_straight_line_to_the_end():
    states = invert(
        mixture(flow=True), X0, SIGMAS, skip=0, solver=controlled(END, 1.0), process=Flow(), keep_states=True
    ).states  # fmt: skip
    # It begins at (1 - t) x0 without noise, as every inversion without a skip.
    start, bottom = states[0], float(SIGMAS[-2])
    for t, x in zip(SIGMAS.flip(0)[1:].tolist(), states, strict=True):
        assert torch.allclose(x, start + (t - bottom) / (1 - bottom) * (END - start))
    assert torch.allclose(down(END, 1.0), X0)


def test_half_control_forgets_the_image_as_steps_become_small():
    """What is left of the flow's own answer falls as N^-strength: by 2 for four times the steps."""
    data, gaps = gaussian(flow=True), []
    for steps in (20, 80, 320):
        sigmas = flow_sigmas(steps)
        found = invert(data, X0, sigmas, skip=0, solver=controlled(END, 0.5), process=Flow())
        gaps.append(relative(found.noise, END))
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.15)
    assert gaps[1] / gaps[2] == pytest.approx(2, rel=0.1)


def test_the_way_back_is_told_the_image():
    """Any noise becomes the image under control; without it, noise that was pulled away does not."""
    other = normal(3, 1, 2, 4, seed=9)
    free, led = relative(down(other, 0.0), X0), relative(down(other, 0.9), X0)
    assert led < 0.1 * free


def test_control_acts_on_the_first_share_of_the_steps():
    data, levels = mixture(flow=True), SIGMAS.tolist()
    led = integrate(data, END, levels[:6], controlled(X0, 0.9), Flow()).x
    free = integrate(data, led, levels[5:], "euler", Flow()).x
    assert torch.allclose(down(END, 0.9, share=0.25), free)
