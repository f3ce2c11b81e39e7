"""Verdicts and metrics in the host."""

import comfy.latent_formats
import numpy as np
import pytest
import torch
from conftest import run
from models import S, gaussian_model
from PIL import Image
from test_inversion import invert, model_of, picture


def white(shape=(1, 4, 32, 32), seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def noise_with(unit):
    noise, *_ = invert(model_of("eps"), picture(batch=1), steps=5)
    return noise.with_unit(unit)


def test_white_noise_passes_and_structure_is_named():
    picture_, report, verdict = run("SSIGaussianityInspector", noise=noise_with(white()))
    assert verdict is True and report.startswith("Gaussian: 1 of 1 pass")
    assert picture_.ndim == 4 and picture_.shape[-1] == 3 and picture_.min() >= 0 and picture_.max() <= 1
    smooth = torch.nn.functional.avg_pool2d(white(), 3, 1, 1) * 3
    other, report, verdict = run("SSIGaussianityInspector", noise=noise_with(torch.cat([white(), smooth])))
    assert verdict is False and report.startswith("not Gaussian: 1 of 2 pass") and "image 2:" in report.splitlines()[1]
    assert len(other) == 2 and not torch.equal(other[0], other[1])


@pytest.mark.parametrize("latent_format", ["SD15", "SDXL", "Flux"])
def test_a_latent_is_judged_in_the_model_s_own_scale(latent_format):
    family = "flux" if latent_format == "Flux" else "eps"
    model = gaussian_model(family, latent_format=getattr(comfy.latent_formats, latent_format))
    channels = model.get_model_object("latent_format").latent_channels
    x0 = S * white((1, channels, 32, 32), 3) + 0.0
    latent = {"samples": model.model.process_latent_out(x0)}
    noise, end, *_ = invert(model, latent, steps=40, positive=[[torch.zeros(1, 4, 8), {}]])
    _, from_noise, verdict = run("SSIGaussianityInspector", noise=noise, source=latent)
    _, from_latent, same = run("SSIGaussianityInspector", noise=end, model=model, source=latent)
    assert verdict is same is True
    assert from_noise.splitlines()[0] == from_latent.splitlines()[0]
    assert "edges" in from_noise
    with pytest.raises(ValueError, match="model: is needed"):
        run("SSIGaussianityInspector", noise=end)


def test_random_noise_needs_a_size():
    (random,) = run("RandomNoise", noise_seed=3)
    with pytest.raises(ValueError, match="size"):
        run("SSIGaussianityInspector", noise=random)
    _, report, verdict = run("SSIGaussianityInspector", noise=random, source={"samples": torch.zeros(1, 4, 32, 32)})
    assert verdict and "edges" not in report


def test_a_source_of_another_size_is_refused():
    with pytest.raises(ValueError, match="source"):
        run("SSIGaussianityInspector", noise=noise_with(white()), source={"samples": torch.zeros(1, 4, 8, 8)})


def test_pictures_of_video_and_audio_latents():
    for shape in ((1, 16, 3, 8, 8), (1, 8, 64)):
        found, _, _ = run("SSIGaussianityInspector", noise=noise_with(white(shape)))
        assert found.shape[0] == 1 and found.std() > 0


def test_metrics():
    image = torch.rand(2, 32, 48, 3, generator=torch.Generator().manual_seed(1))
    changed = image.clone()
    changed[1] = (changed[1] + 0.1).clamp(0, 1)
    noise = noise_with(white())
    difference, report, mse, psnr, ssim = run(
        "SSIReconstructionMetrics", original=image, reconstruction=changed, noise=noise, gain=5.0
    )
    error = ((changed - image) * 2).square().mean()
    assert mse == pytest.approx(float(error), rel=1e-5) and 0 < ssim < 1 and psnr > 20
    assert difference[0].max() == 0 and difference[1].max() == pytest.approx(0.5, abs=1e-5)
    assert "image 2: MSE" in report and "LPIPS" in report and "standard deviation" in report
    one, *_ = run("SSIReconstructionMetrics", original=image[:1], reconstruction=changed)
    assert len(one) == 2
    with pytest.raises(ValueError, match="resize"):
        run("SSIReconstructionMetrics", original=image[:, :16], reconstruction=changed)
    with pytest.raises(ValueError, match="3 originals"):
        run("SSIReconstructionMetrics", original=image[:1].expand(3, -1, -1, -1), reconstruction=changed)


def test_half_precision_images_are_taken():
    image = torch.rand(1, 32, 32, 3).half()
    _, _, mse, _, ssim = run("SSIReconstructionMetrics", original=image, reconstruction=image)
    assert mse == 0 and ssim == pytest.approx(1)


def test_the_picture_is_written_for_the_editor():
    import folder_paths

    import nodes

    answer = nodes.NODE_CLASS_MAPPINGS["SSIGaussianityInspector"].execute(noise=noise_with(white()))
    shown = answer.ui.as_dict()["images"][0]
    with Image.open(f"{folder_paths.get_temp_directory()}/{shown['filename']}") as opened:
        assert np.asarray(opened).std() > 0
