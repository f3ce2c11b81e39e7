"""Handwritten digits: CEM against DDPM on pictures, with a Frechet distance that needs no download.

The digits are those inside scikit-learn (1,797 of 8x8 pixels; the `train` extra), or MNIST's files, where the user has
them. Features are those of a small classifier trained here on the same digits.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..manifold import MLP, Conditional, Eps, on_times, reverse_sde, times
from ..metrics import frechet
from ..process import OU
from ..report.figures import new_figure
from ..report.tables import Table
from .experiment import Finding, Lab, Outcome, experiment
from .seeds import mean_and_spread, said, trained

STEPS, BATCH, WIDTH = 2000, 256, 256
SAMPLES = 1500
"""At most, where so many digits are held out: the distance falls with the size of the samples, so all have one."""
FEATURES = 32
IMAGES = ("train-images-idx3-ubyte", "train-images.idx3-ubyte")
LABELS = ("train-labels-idx1-ubyte", "train-labels.idx1-ubyte")


@dataclass(frozen=True, eq=False)
class Digits:
    """Pictures [N, d] in [-1, 1] with their labels [N]."""

    name: str
    pictures: Tensor
    labels: Tensor
    side: int


def sklearn_digits() -> Digits:
    """The digits inside scikit-learn.

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError("digits: scikit-learn is missing; pip install 'ssi-inversion[train]' adds it") from None
    found = load_digits()
    return Digits("scikit-learn's digits", torch.tensor(found.data).float() / 8 - 1, torch.tensor(found.target), 8)


def mnist_digits(folder: Path) -> Digits:
    """MNIST from its own two training files, packed or not.

    Raises:
        InputError: a file is missing, or is not what its header says.
    """
    pictures = _idx(folder, IMAGES, 3)
    labels = _idx(folder, LABELS, 1)
    if len(pictures) != len(labels):
        raise InputError(f"MNIST in {folder}: {len(pictures)} pictures, but {len(labels)} labels")
    if pictures.shape[1] != pictures.shape[2] or int(labels.max()) > 9:
        raise InputError(f"MNIST in {folder}: square pictures with labels 0 to 9 are wanted; the files are damaged")
    return Digits("MNIST", pictures.flatten(1).float() / 127.5 - 1, labels.long(), pictures.shape[1])


def _idx(folder: Path, names: tuple[str, ...], rank: int) -> Tensor:
    """An IDX file of bytes (LeCun): two zeros, type 8, rank, then the sizes, big-endian."""
    found = next((p for name in names for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
    if found is None:
        raise InputError(
            f"MNIST in {folder}: {names[0]} (or .gz) is missing; leave --mnist out for scikit-learn's digits"
        )
    try:
        data = gzip.decompress(found.read_bytes()) if found.suffix == ".gz" else found.read_bytes()
        magic, *sizes = struct.unpack(f">{1 + rank}I", data[: 4 + 4 * rank])
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise InputError(f"{found}: cannot be read ({error})") from error
    values = torch.frombuffer(bytearray(data[4 + 4 * rank :]), dtype=torch.uint8) if len(data) > 8 else torch.empty(0)
    count = 1
    for size in sizes:
        count *= size
    if magic != 0x800 + rank or count == 0 or len(values) != count:
        raise InputError(f"{found}: is no IDX file of {rank} dimensions that is whole")
    return values.reshape(*sizes)


class Classifier(nn.Module):
    """d -> 128 -> 32 features -> 10 classes."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(dimension, 128), nn.ReLU(), nn.Linear(128, FEATURES), nn.ReLU())
        self.head = nn.Linear(FEATURES, 10)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.features(x))
        return found


def trained_classifier(x: Tensor, labels: Tensor, steps: int, lab: Lab) -> Classifier:
    torch.manual_seed(lab.seed_of("first weights of the classifier"))
    network = Classifier(x.shape[1])
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    generator = lab.generator("batches and noise of the classifier")
    for _ in range(steps):
        batch = torch.randint(len(x), (128,), generator=generator)
        noisy = x[batch] + 0.1 * torch.randn(128, x.shape[1], generator=generator)  # samples are not quite clean either
        loss = nn.functional.cross_entropy(network(noisy), labels[batch])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return network.eval()


@experiment(
    "digits", "Handwritten digits: CEM against DDPM",
    "Lu, Wang, Bal 2023, section 4.4, Figure 9 (there MNIST and a UNet)",
    "reported, no claim beyond the numbers",
)  # fmt: skip
def digits(lab: Lab) -> Outcome:
    data = sklearn_digits() if lab.mnist is None else mnist_digits(lab.mnist)
    order = torch.randperm(len(data.pictures), generator=lab.generator("split"))
    cut = len(order) * 7 // 10
    fit, held = data.pictures[order[:cut]], data.pictures[order[cut:]]
    classifier = trained_classifier(fit, data.labels[order[:cut]], lab.count(1000, 20), lab)
    with torch.no_grad():
        right = float((classifier(held).argmax(1) == data.labels[order[cut:]]).double().mean())
    spaces = {"features": classifier.features, "pixels": nn.Identity()}

    def distances(x: Tensor) -> list[float]:
        with torch.no_grad():
            return [frechet(space(x), space(held)) for space in spaces.values()]

    methods = {"CEM": Conditional(OU()), "DDPM": Eps(OU())}
    shown: list[tuple[str, Tensor]] = [("the data", held)]
    found: dict[str, list[list[float]]] = {name: [] for name in methods}
    count = min(lab.count(SAMPLES, 60), len(held))
    for name, objective in methods.items():
        for k in range(lab.repeats):
            model = trained(
                lab, k, f"{name}, repeat {k + 1}: training", fit, objective,
                lambda: MLP(fit.shape[1], WIDTH, 3, nn.SiLU), on_times(times("linear", 1000), OU()), steps=STEPS,
                batch=BATCH, decay=True,
            )  # fmt: skip
            generator = lab.generator("start and noise of sampling", k)
            start = torch.randn(count, fit.shape[1], generator=generator)
            x = reverse_sde(model, start, times("exponential", 200), OU(), generator=generator,
                            told=lab.watch(f"{name}, repeat {k + 1}: sampling"))  # fmt: skip
            found[name].append(distances(x))
            if k == 0:
                shown.append((name, x))
    picked = [torch.randperm(len(fit), generator=lab.generator("digits of the floor", k)) for k in range(lab.repeats)]
    found["training digits"] = [distances(fit[order[:count]]) for order in picked]
    rows = [[name, *(cell for k in range(len(spaces)) for cell in mean_and_spread([v[k] for v in values]))]
            for name, values in found.items()]  # fmt: skip
    table = Table(
        f"Frechet distance to {len(held):,} held-out digits ({data.name})",
        ["model", "features", "+-", "pixels", "+-"], rows,
        [f"{count:,} samples or training digits, {lab.repeats} repeats. Features: {FEATURES} of a classifier trained "
         f"here ({right:.1%} right on held-out digits). These are no FID figures and compare with none; the paper's "
         "FIDs on MNIST are 56.55 (CEM) and 63.64 (DDPM).",
         f"Network 3x{WIDTH} SiLU without convolutions, {lab.count(STEPS, 20):,} steps; exponential schedule, 200 "
         "steps."],
    )  # fmt: skip
    figure = new_figure(11, 3.9)
    for panel, (name, x) in zip(figure.subplots(1, len(shown)), shown, strict=True):
        tiles = x[:64].clamp(-1, 1).reshape(-1, data.side, data.side)
        across = torch.nn.functional.pad(tiles, (1, 1, 1, 1), value=-1)
        side = min(8, int(len(across) ** 0.5))
        sheet = torch.cat([torch.cat(list(across[i * side : (i + 1) * side]), dim=1) for i in range(side)])
        panel.imshow(sheet, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        panel.set_title(name)
        panel.set_axis_off()
    features = [f"{name} {said([v[0] for v in values])}" for name, values in found.items()]
    return Outcome(
        [Finding(f"Frechet distance in classifier features, {data.name}", "reported", ", ".join(features), None)],
        [table], {"samples": figure},
    )  # fmt: skip
