"""Bad input gets an error that names the culprit. Schedules, blends, files and pictures: in their own tests."""

import math

import pytest
import torch
from exact import gaussian, normal

from ssi_core import (
    SOLVERS,
    VE,
    DenoiserError,
    DiscreteVP,
    Flow,
    InputError,
    Inversion,
    gaussianity,
    invert,
    karras_sigmas,
    reconstruct,
)
from ssi_core.artifact import load_tensors, save_tensors


class Model:
    """A denoiser that knows what it takes."""

    channels, image_size, sigma_min, sigma_max = 3, 8, 0.01, 80.0

    def __call__(self, x, sigma):
        return 0.1 * x


IMAGE = normal(2, 3, 8, 8)


def spoilt(value, where=(1, 0, 2, 2)):
    image = IMAGE.clone()
    image[where] = value
    return image


IMAGES = [
    (spoilt(math.nan), r"sample\(s\) \[1\] hold NaN or Inf"),
    (spoilt(math.inf, (0, 0, 0, 0)), r"sample\(s\) \[0\] hold NaN or Inf"),
    (spoilt(-math.inf), r"hold NaN or Inf"),
    (IMAGE[0, 0], r"rank 3 or more is wanted, found shape \(8, 8\)"),
    (IMAGE[0], r"channels|rank|8x8|is 8"),
    (IMAGE[:, :2], "has 2 channels, the model takes 3"),
    (IMAGE[..., :7], "is 8x7, the model takes 8x8"),
    (IMAGE[:0], "is empty"),
    ((100 * IMAGE).int(), "dtype torch.int32"),
    ((100 * IMAGE).byte(), "dtype torch.uint8"),
    (IMAGE.half(), "dtype torch.float16"),
    (IMAGE.tolist(), "found list"),
    (None, "found NoneType"),
]


@pytest.mark.parametrize(("image", "says"), IMAGES, ids=[says for _, says in IMAGES])
def test_unusable_image_or_latent(image, says):
    with pytest.raises(InputError, match=rf"x0: .*({says})"):
        invert(Model(), image, karras_sigmas(4))
    with pytest.raises(InputError, match=rf"noise: .*({says})"):
        reconstruct(Model(), image, karras_sigmas(4))


OPTIONS = [
    ({"skip": -0.1}, "skip -0.1"),
    ({"skip": math.nan}, "skip nan"),
    ({"skip": math.inf}, "skip inf"),
    ({"skip": 80.0}, "skip 80: must lie below the schedule's largest sigma, 80"),
    ({"skip": 100}, "skip 100"),
    ({"skip": 0.005}, "skip 0.005: lies under the model's smallest sigma, 0.01"),
    ({"sigmas": [1, 2, 0]}, "sigmas: .*rises"),
    ({"sigmas": [2, 1, 1]}, "sigmas: .*repeats"),
    ({"sigmas": [2, -1]}, "sigmas: .*negative"),
    ({"sigmas": [2, math.nan]}, "sigmas: .*NaN"),
    ({"sigmas": []}, "sigmas: are empty"),
    ({"sigmas": [200.0, 1.0]}, "sigmas: begin at 200, above the largest.*80"),
    ({"sigmas": [1.5, 1.0], "process": Flow()}, "sigmas: begin at 1.5, above the largest.*1"),
    ({"solver": "rk45"}, f"solver 'rk45': unknown; known are {', '.join(SOLVERS)}"),
    ({"grid": "stretch"}, "grid 'stretch'"),
    ({"seed": [1, 2, 3]}, "seed: 3 seeds for 2 images"),
    ({"seed": []}, "seed: 0 seeds for 2 images"),
    ({"seed": -1}, "seed: must lie between"),
    ({"seed": 1.5}, "seed 1.5: must be a whole number"),
    ({"seed": "a"}, "seed 'a': must be a whole number"),
    ({"seed": [0, 2**63]}, "seed: must lie between"),
]


@pytest.mark.parametrize(("options", "says"), OPTIONS, ids=[str(options) for options, _ in OPTIONS])
def test_unusable_option(options, says):
    sigmas = options.get("sigmas", karras_sigmas(4))
    rest = {name: value for name, value in options.items() if name != "sigmas"}
    with pytest.raises(InputError, match=says):
        invert(Model(), IMAGE, sigmas, **rest)


def test_skip_under_a_discrete_models_smallest_sigma_is_told():
    process = DiscreteVP("scaled-linear")
    with pytest.raises(InputError, match=r"skip 0.02: lies under the model's smallest sigma, 0.0291672"):
        invert(gaussian(), normal(1, 1, 2, 4), karras_sigmas(5, sigma_max=14), skip=0.02, process=process)
    levels = karras_sigmas(5, sigma_min=process.sigma_min, sigma_max=process.sigma_max)
    assert invert(gaussian(), normal(1, 1, 2, 4), levels, skip=process.sigma_min, process=process).skip > 0


def test_bad_sigmas_or_solver_of_a_reconstruction():
    for sigmas, says in (([1, 2, 0], "rises"), ([200.0, 1.0], "begin at 200"), ([0.0], "no positive level")):
        with pytest.raises(InputError, match=f"sigmas: .*{says}"):
            reconstruct(Model(), IMAGE, sigmas)
    with pytest.raises(InputError, match=r"solver 'x'.*euler"):
        reconstruct(Model(), IMAGE, karras_sigmas(3, sigma_min=0.01), solver="x")


def test_a_schedule_under_the_models_smallest_sigma_is_told_also_without_a_skip():
    with pytest.raises(InputError, match=r"go down to 0.002, under the model's smallest sigma, 0.01"):
        reconstruct(Model(), IMAGE, karras_sigmas(3))
    with pytest.raises(InputError, match=r"go down to 0.002, under the model's smallest sigma, 0.01"):
        invert(Model(), IMAGE, karras_sigmas(3), skip=0)


def test_nothing_is_evaluated_before_the_input_is_checked():
    def never(x, sigma):
        raise AssertionError("evaluated")

    for options in ({"skip": -1}, {"solver": "x"}, {"seed": []}):
        with pytest.raises(InputError):
            invert(never, IMAGE, karras_sigmas(4), **options)


def broken(kind, at):
    """A denoiser that fails at its evaluation number `at`, counted from 1."""
    count = 0

    def denoise(x, sigma):
        nonlocal count
        count += 1
        good = 0.1 * x
        if count != at:
            return good
        spoilt = good.clone()
        spoilt[1, 0] = math.nan
        return {
            "shape": good[:, :1],
            "batch": good[:1],
            "dtype": good.half(),
            "float32": good.float(),
            "nan": spoilt,
            "inf": good / 0,
            "tuple": (good,),
            "none": None,
        }[kind]

    return denoise


FAULTS = [
    ("shape", r"shape \(2, 1, 8, 8\) for input of shape \(2, 3, 8, 8\)"),
    ("batch", r"shape \(1, 3, 8, 8\)"),
    ("dtype", "torch.float16 for torch.float64"),
    ("float32", "torch.float32 for torch.float64"),
    ("nan", r"NaN or Inf for sample\(s\) \[1\]"),
    ("inf", r"NaN or Inf for sample\(s\) \[0, 1\]"),
    ("tuple", "returned tuple"),
    ("none", "returned NoneType"),
]


@pytest.mark.parametrize(("kind", "says"), FAULTS, ids=[kind for kind, _ in FAULTS])
@pytest.mark.parametrize("run", ["invert", "reconstruct"])
def test_faulty_denoiser_is_told_with_step_and_sigma(run, kind, says):
    sigmas = [8.0, 4.0, 2.0, 1.0, 0.0]
    where = {"invert": "at step 3 of 4, sigma 2", "reconstruct": "at step 3 of 4, sigma 2"}[run]
    with pytest.raises(DenoiserError, match=f"{says}.*{where}"):
        if run == "invert":
            invert(broken(kind, 3), IMAGE, sigmas, skip=0.5, solver="euler")
        else:
            reconstruct(broken(kind, 3), IMAGE, sigmas, solver="euler")


def test_fault_of_the_last_evaluation_of_ddim_current_has_a_step_that_exists():
    """The evaluation that turns the end state into eps comes after step 4 of 4."""
    with pytest.raises(DenoiserError, match="sigma 8") as caught:
        invert(broken("nan", 5), IMAGE, [8.0, 4.0, 2.0, 1.0], skip=0.5, solver="ddim-current")
    assert "of 0" not in str(caught.value)
    assert "4" in str(caught.value)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_denoiser_that_only_gives_nan_fails_in_every_solver(solver):
    with pytest.raises(DenoiserError, match="NaN"):
        invert(lambda x, sigma: x * math.nan, IMAGE, karras_sigmas(5), solver=solver, process=VE())


def test_float32_network_under_a_float64_state_works_with_a_dtype():
    class Single:
        dtype = torch.float32

        def __call__(self, x, sigma):
            return (0.1 * x).float()

    assert invert(Single(), IMAGE, karras_sigmas(5)).noise.dtype == torch.float64


def test_errors_of_the_denoiser_itself_pass_unchanged():
    def fails(x, sigma):
        raise MemoryError("no more")

    with pytest.raises(MemoryError, match="no more"):
        invert(fails, IMAGE, karras_sigmas(4))


def test_image_off_the_model_gives_a_verdict_and_not_a_success():
    """An image twice outside a narrow model's range: the noise is not Gaussian, and the report says it."""
    data = gaussian(shape=(1, 16, 16))
    data.var = torch.full_like(data.var, 0.01)
    foreign = data.mean + 2 * torch.linspace(-1, 1, 256, dtype=torch.float64).reshape(1, 1, 16, 16)
    assert not gaussianity(invert(data, foreign, karras_sigmas(40)).noise).verdict
    own = data.mean + data.var.sqrt() * normal(1, 1, 16, 16, seed=3)
    assert gaussianity(invert(data, own, karras_sigmas(40)).noise).verdict


def test_a_process_class_is_told_from_a_process():
    with pytest.raises(InputError, match="an instance is wanted"):
        invert(gaussian(), IMAGE[:, :2], karras_sigmas(4), process=VE)


@pytest.mark.parametrize("sigmas", [None, ["a"], "karras"])
def test_sigmas_that_are_no_numbers(sigmas):
    with pytest.raises(InputError, match="list of numbers"):
        invert(gaussian(), IMAGE, sigmas)


@pytest.mark.parametrize("solver", ["dpmpp-2m", "ab2-log", "ab2", "heun", "euler"])
def test_a_model_that_reuses_its_buffers_gives_what_a_clean_one_gives(solver):
    x0, buffer = torch.linspace(-1, 1, 24).reshape(1, 2, 3, 4), torch.empty(1, 2, 3, 4)

    def clean(x, sigma):
        return 0.5 * x

    def dirty(x, sigma):
        x.mul_(0.5)
        return buffer.copy_(x)

    noises = [invert(model, x0, karras_sigmas(9), solver=solver).noise for model in (clean, dirty)]
    assert torch.equal(*noises)


@pytest.mark.parametrize("change", [{"provenance": None}, {"seeds": []}, {"nfe": "many"}])
def test_an_artefact_whose_parts_do_not_fit(tmp_path, change):
    path = tmp_path / "x.safetensors"
    inv = invert(gaussian(), normal(1, 1, 2, 4), karras_sigmas(4))
    inv.save(path)
    tensors, facts = load_tensors(path, "inversion")
    save_tensors(path, "inversion", tensors, facts | change)
    with pytest.raises(InputError, match=r"x\.safetensors"):
        Inversion.load(path)
    save_tensors(path, "inversion", tensors | {"sigmas": tensors["sigmas"].flip(0)}, facts)
    with pytest.raises(InputError, match="sigmas"):
        Inversion.load(path)
