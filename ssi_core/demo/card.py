"""Write the demo models' card and sample sheets from the weights files: `python -m ssi_core.demo.card`."""

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
from ..schedule import flow_sigmas, karras_sigmas
from .kinds import KINDS
from .model import DEMO_MODELS, demo_denoiser, facts_of
from .photos import PHOTOS

CARD = Path(__file__).with_name("MODEL_CARD.md")


def main() -> None:
    for name in DEMO_MODELS:
        draw_samples(name)
    write_text(CARD, card())


def sample_sheet(name: str) -> Path:
    """Where the samples of a model are shown."""
    return CARD.with_name(DEMO_MODELS[name].stem.replace("demo32", "samples") + ".png")


def draw_samples(name: str) -> None:
    denoise = demo_denoiser(name=name)
    shape = torch.empty(48, denoise.channels, denoise.image_size, denoise.image_size)
    schedule = flow_sigmas if denoise.is_flow else karras_sigmas
    levels = schedule(24, sigma_min=denoise.sigma_min, sigma_max=denoise.sigma_max)
    rows = torch.arange(48) // 12
    painter = denoise.conditioned(rows % len(denoise.classes)) if denoise.classes else denoise
    samples = reconstruct(painter, unit_noise(shape, range(48)), levels)
    save_image(contact_sheet(list(samples.split(12)), scale=2, gap=1), sample_sheet(name))


def card() -> str:
    data = facts_of(DEMO_MODELS["demo"])["training"]
    photos = "\n".join(f"| {p.name} | {p.package} | {p.licence} | {p.credit} |" for p in PHOTOS)
    models = "\n".join(section(name) for name in DEMO_MODELS)
    return f"""# Model card: the demo models

Small diffusion models of our own, so that everything here can be tried and tested without downloading anything. They
are not meant to make good pictures; they are meant to behave, near sigma = 0, like their large relatives.

## Data

The same for all of them, where nothing else is said.

- {1 - data["photos"]:.0%} landscapes drawn by `scenes.py`, {data["scenes"]} of them, from seeds 0 up; seeds
  from 1,000,000,000 are never trained on.
- {data["photos"]:.0%} crops of photographs, {data["crops"]} of them, from the training regions only: 28% of
  each photograph's width is held out, with 4% between that belongs to neither.

| photograph | ships with | licence | by |
|---|---|---|---|
{photos}

The two CC BY 2.0 photographs are those that scikit-learn distributes: danielbuechele's china.jpg
(flickr.com/photos/danielbuechele/6061409035) and vultilion's flower.jpg (flickr.com/photos/vultilion/6056698931). The
held-out crops in `heldout_photos.png` are cut from all of them and resized to 32x32.

A killed run of the training script goes on from its last checkpoint. Every batch is drawn from (seed, step), so a
broken run sees the data that an unbroken one sees; bit-for-bit equality is not claimed, since the number of threads and
the processor change the rounding.

{models}"""


def section(name: str) -> str:
    """What is to be known of one model."""
    path = DEMO_MODELS[name]
    facts = facts_of(path)
    kind, shape = KINDS[facts["kind"]], facts["network"]
    with safe_open(path, framework="pt") as file:
        tensors = file.keys()
        parameters = sum(file.get_tensor(tensor).numel() for tensor in tensors)
    training: dict[str, Any] = facts["training"]
    used = {**training, "stop_at": training["step"], "kind": facts["kind"], "width": shape["width"]}
    options = " ".join(
        f"--{key.replace('_', '-')} {' '.join(map(str, used[key])) if isinstance(used[key], list) else used[key]}"
        for key in ("kind", "width", "label_dropout", "start", "levels", "steps", "stop_at", "batch", "photos", "lr",
                    "seed", "scenes", "crops", "bf16_share", "threads")
        if used.get(key) is not None
    )  # fmt: skip
    losses: dict[str, dict[str, float]] = training["losses"]
    head = f"| sigma | {' | '.join(losses)} |\n|---|{'---|' * len(losses)}"
    bands = "\n".join(f"| {s:g} | {' | '.join(f'{of[str(s)]:.3f}' for of in losses.values())} |" for s in kind.bands)
    trained = f"{training['step']} steps of {training['batch']} images, {training['seconds'] / 60:.0f} minutes"
    return f"""## `{name}`

![Unselected samples, seeds 0 to 47]({sample_sheet(name).name})

| | |
|---|---|
| file | `{path.name}`, {path.stat().st_size / 1e6:.1f} MB, float16 safetensors |
| SHA-256 | `{hashlib.sha256(path.read_bytes()).hexdigest()}` |
| network | UNet (`network.py`), {parameters / 1e6:.1f} million parameters, {json.dumps(shape)} |
| parametrisation | {kind.about}, {kind.process.name} sigma {kind.sigma_min} to {kind.sigma_max} |
| images | RGB, {shape["image_size"]}x{shape["image_size"]}, in [-1, 1] |
| trained | {trained}, on the CPU (torch {training["torch"]}) |
| licence | Apache-2.0, like the code; the photographs' licences are above |

Its loss on 128 held-out pictures of each kind (fixed noise; about 1 is a model that knows nothing):

{head}
{bands}

To make it again:

```bash
pip install '.[train]'
python -m ssi_core.demo.train --out {path.name} {options}
```

{NOTES[name]}"""


NOTES = {
    "demo": """This file's run was killed once after step 3000 and went on: two threads before, one after, on an AMD
EPYC virtual machine with two cores that it shared with other work, so its minutes say little about speed.

**Why it was stopped early.** The same run went on to its end. Both models were measured on the same 32 held-out scenes:

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
""",
    "demo-flow": """sigma is the flow's time t, the loss |v - (n - x0)|^2. At t = 1, where nothing can be known of the
picture, the variance of the pictures is the least there can be (.09 for scenes and .31 for crops, each about their own
mean). The samples are of 24 even levels.

The run was meant to go on to `--steps`, with the learning rate's cosine over all of them; it was ended early for want
of time, on one thread of two cores that several others shared, so its minutes say nothing about speed. What it is
measured for: [docs/beyond.md](../../docs/beyond.md#flow-models).
""",
    "demo-classes": """Its pictures are drawn scenes alone, in the classes of `scenes.CLASSES` in turn: 0 summer,
which is what `demo` knows, 1 autumn, 2 winter, 3 night; in the samples a row is a class. It began with the weights of
`demo`, and was told the class of most pictures and none of the others; photographs it was not shown again. Most of what
noise of sigma 5 and more hides is told by the class alone, and there it is learned: hence `--levels`. With the levels
of `demo` it had hardly taken notice of the classes after 500 steps (loss .757 and .767 at sigma 80, told and not told).

It was trained on one thread of two cores that several others shared, about ten minutes of one core's time. What it is
measured for: [docs/beyond.md](../../docs/beyond.md#editing).
""",
}
"""Model -> what its file does not tell."""


if __name__ == "__main__":
    main()
