"""SSI inversion: real images as Gaussian noise that a diffusion sampler turns back into them.

>>> from ssi_core import VE, demo_denoiser, gaussianity, invert, karras_sigmas, reconstruct
>>> denoise = demo_denoiser()
>>> inv = invert(denoise, x0, karras_sigmas(20))
>>> x = reconstruct(denoise, inv.noise, inv.sigmas)
>>> gaussianity(inv.noise, x0).verdict
"""

from .blend import BLENDS, blend, slerp
from .demo import demo_denoiser
from .denoiser import EDM, X0, Clipped, Denoiser, Eps, Guided, V, Velocity
from .errors import Cancelled, DenoiserError, InputError
from .gaussianity import Gaussianity, gaussianity
from .goal import GOALS, Goal
from .image import load_image, save_image
from .injection import INJECTIONS, find_injection
from .integration import Progress, Trajectory, integrate, unit_noise
from .inversion import DEFAULT_SOLVER, Inversion, invert, reconstruct
from .metrics import cosine, mse, psnr, ssim
from .models import PixelModel, load_checkpoint
from .process import OU, VE, VP, DiscreteVP, Flow, Process
from .schedule import (
    ddim_sigmas,
    exponential_sigmas,
    flow_sigmas,
    given_sigmas,
    karras_sigmas,
    truncate,
)
from .singularity import SingularityCurve, singularity_curve
from .skip import DEFAULT_SKIP, Choice, choose_skip
from .solver import SOLVERS, find_solver
from .version import __version__

__all__ = [
    "BLENDS", "DEFAULT_SKIP", "DEFAULT_SOLVER", "EDM", "GOALS", "INJECTIONS", "OU", "SOLVERS", "VE", "VP", "X0",
    "Cancelled", "Choice", "Clipped", "Denoiser", "DenoiserError", "DiscreteVP", "Eps", "Flow", "Gaussianity", "Goal",
    "Guided", "InputError", "Inversion", "PixelModel", "Process", "Progress", "SingularityCurve", "Trajectory", "V",
    "Velocity", "__version__", "blend", "choose_skip", "cosine", "ddim_sigmas", "demo_denoiser", "exponential_sigmas",
    "find_injection", "find_solver", "flow_sigmas", "gaussianity", "given_sigmas", "integrate", "invert",
    "karras_sigmas", "load_checkpoint", "load_image", "mse", "psnr", "reconstruct", "save_image", "singularity_curve",
    "slerp", "ssim", "truncate", "unit_noise",
]  # fmt: skip
