"""MODELs whose probability-flow ODE is known in closed form: the data are Gaussian, whatever the parametrisation.

Data ~ N(m, s^2) independently in every element, where m is the mean of the conditioning tensor (so that cfg, areas
and prompts have a visible, exact effect: the cfg-mixed denoiser belongs to mean m_neg + cfg (m_pos - m_neg)).
"""

from typing import ClassVar

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models_base
import torch
from comfy.model_base import ModelType

S = 0.6
FAMILIES = {
    "eps": ModelType.EPS,
    "v": ModelType.V_PREDICTION,
    "edm": ModelType.EDM,
    "flow": ModelType.FLOW,
    "flux": ModelType.FLUX,
}
RARE = {
    name: getattr(ModelType, kind)
    for name, kind in {
        "cascade": "STABLE_CASCADE",
        "cosmos": "FLOW_COSMOS",
        "v ddpm": "V_PREDICTION_DDPM",
        "v edm": "V_PREDICTION_EDM",
        "v continuous": "V_PREDICTION_CONTINUOUS",
        "image": "IMG_TO_IMG_FLOW",
    }.items()
    if hasattr(ModelType, kind)
}
"""Core's other samplings, where this core has them; see `_rare` for their network."""


def is_flow(family):
    """Also of a family with a shift behind its name."""
    return family.partition(" ")[0] in ("flow", "flux")


class Gaussian(torch.nn.Module):
    """The exact network of a Gaussian; sigma comes from transformer_options, unrounded."""

    def __init__(self, family, dtype=torch.float32, device=None, operations=None, **kwargs):
        super().__init__()
        self.family, self.dtype = family, dtype
        self.unused = torch.nn.Parameter(torch.zeros(1, dtype=dtype, device=device))
        self.calls = []
        self.model_sampling = None

    def forward(self, x, timesteps, context=None, control=None, transformer_options=None, **kwargs):
        sigma = transformer_options["sigmas"].to(x)
        sigma = sigma.repeat(len(x) // len(sigma)).view(-1, *[1] * (x.ndim - 1))  # core stacks prompts into one batch
        self.calls.append((float(sigma.flatten()[0]), len(x)))
        m = context.flatten(1).mean(1).view(-1, *[1] * (x.ndim - 1)) if context is not None else 0.0
        if is_flow(self.family):
            D = m + (1 - sigma) * S**2 / ((1 - sigma) ** 2 * S**2 + sigma**2) * (x - (1 - sigma) * m)
            return (x - D) / sigma
        if self.family in RARE:
            return self._rare(x, sigma, m)
        sd = self.model_sampling.sigma_data
        state = x * (sigma**2 + sd**2).sqrt()
        D = (S**2 * state + sigma**2 * m) / (S**2 + sigma**2)
        if self.family == "eps":
            return (state - D) / sigma
        sign = -1 if self.family == "v" else 1
        return sign * (D - state * sd**2 / (sigma**2 + sd**2)) * (sigma**2 + sd**2).sqrt() / (sigma * sd)

    def _rare(self, x, sigma, m):
        """Solves calculate_denoised(sigma, answer, state) = D for the answer, in which it is linear."""
        sampling, level = self.model_sampling, sigma.flatten()
        gain = sampling.calculate_input(level, torch.ones_like(x))
        state = x / gain
        D = (S**2 * state + sigma**2 * m) / (S**2 + sigma**2)
        constant = sampling.calculate_denoised(level, torch.zeros_like(x), state)
        slope = sampling.calculate_denoised(level, torch.ones_like(x), state) - constant
        return (D - constant) / slope


def exact(x, a, b, family, m=0.0):
    """The ODE's solution at sigma b of the state x at sigma a."""
    if is_flow(family):
        spread = [((1 - sigma) ** 2 * S**2 + sigma**2) ** 0.5 for sigma in (a, b)]
        return (1 - b) * m + (x - (1 - a) * m) * spread[1] / spread[0]
    return m + (x - m) * ((S**2 + b**2) / (S**2 + a**2)) ** 0.5


def denoised(x, sigma, family, m=0.0):
    """The model's D of the state x: what a last step down to 0 gives."""
    signal = 1 - sigma if is_flow(family) else 1.0
    return m + S**2 * signal * (x - signal * m) / (signal**2 * S**2 + sigma**2)


def apart(found, wanted):
    """How far a batch is from another, in the worst of its images, as a share of that image's own variation.

    A constant is 1 away from any image, another image of the same kind about 1.4.
    """
    assert found.shape == wanted.shape
    found, wanted = found.flatten(1).double(), wanted.flatten(1).double()
    return float(((found - wanted).norm(dim=1) / (wanted - wanted.mean(1, True)).norm(dim=1)).max())


def gaussian_model(family="eps", latent_format=None, **settings):
    """A ModelPatcher around `Gaussian`."""
    defaults = {"edm": {"sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0}, "flow": {"shift": 3.0}}

    class Config(comfy.supported_models_base.BASE):
        unet_config: ClassVar = {}
        unet_extra_config: ClassVar = {}
        sampling_settings: ClassVar = {**defaults.get(family, {}), **settings}

    Config.latent_format = latent_format or comfy.latent_formats.SD15
    config = Config({"family": family})
    config.set_inference_dtype(torch.float32, None)
    device = comfy.model_management.get_torch_device()
    model = comfy.model_base.BaseModel(config, model_type=(FAMILIES | RARE)[family], device=device, unet_model=Gaussian)
    model.diffusion_model.model_sampling = model.model_sampling
    offload = comfy.model_management.unet_offload_device()
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload)


def conditioning(mean=0.0, batch=1, tokens=4):
    return [[torch.full((batch, tokens, 8), float(mean)), {}]]
