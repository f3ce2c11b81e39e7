"""A loaded pixel model: a denoiser in VE coordinates, and the raw network behind it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..denoiser import Denoiser, Guided
from ..errors import InputError
from ..process import Process
from .family import Family, Meaning

Labels = int | Sequence[int] | Tensor | None


@dataclass(frozen=True)
class Info:
    """What a model is, for people and for provenance."""

    name: str
    """The published file that it is, or the file's own name."""
    family: str
    container: str
    parametrisation: str
    schedule: str
    image_size: int | None
    """Height and width it was trained on, in pixels, not all that it runs on; None where the file does not say."""
    in_channels: int
    out_channels: int
    num_classes: int
    """0: unconditional."""
    parameters: int
    dtype: str
    """In which its convolutions run."""
    stored: str
    """In which the file has them."""
    architecture: str
    """Hash of all names and shapes."""
    facts: dict[str, Any]
    """Constructor arguments, by the original's names."""
    sources: dict[str, str]
    """Where each fact comes from."""
    undecided: tuple[str, ...]
    """What the file does not tell of how the network's output is read, with the choices; empty where it tells all."""
    fingerprint: str
    """SHA-256 of the beginnings of all tensors: the same for the same weights in any container."""


@dataclass
class PixelModel:
    """A pixel-space diffusion model.

    It is itself a `Denoiser` (without labels), and carries what inputs are checked against.

    Args:
        module: the raw network.
        reading: how its output is to be read; or, where the file leaves that open, what to raise when it is needed.
        info: what it is.
        compute_dtype: in which its convolutions run; inputs and outputs keep theirs.
        family: whose it is.
    """

    module: nn.Module
    reading: Meaning | Callable[[], InputError] = field(repr=False)
    info: Info
    compute_dtype: torch.dtype
    family: Family

    @property
    def meaning(self) -> Meaning:
        """How its output is to be read.

        Raises:
            InputError: the file does not tell; the message says what to choose from, and how.
        """
        if isinstance(self.reading, Meaning):
            return self.reading
        raise self.reading()

    @property
    def process(self) -> Process:
        return self.meaning.process

    @property
    def sigma_min(self) -> float:
        return self.meaning.sigma_min

    @property
    def sigma_max(self) -> float:
        return self.meaning.sigma_max

    @property
    def channels(self) -> int:
        return self.info.in_channels

    @property
    def image_size(self) -> int | None:
        return self.info.image_size

    @property
    def size_multiple(self) -> int:
        """What height and width must be multiples of: the network halves them between its levels."""
        return self.family.size_multiple(self.info.facts)

    @property
    def null_label(self) -> bool:
        """Whether it can be asked without a class where it has classes."""
        return self.family.null_label

    @property
    def mixes_classes(self) -> bool:
        """Whether it can be asked for a mixture of classes: `conditioned` with weights of several."""
        return bool(self.info.num_classes) and self.family.class_weights

    @property
    def signature(self) -> str:
        """Which model this is, for provenance: its weights and how they are used, in whatever container or words."""
        used = json.dumps(_alike(self.family.identity(self.info.facts)), sort_keys=True)
        digest = hashlib.sha256(f"{self.info.fingerprint}{used}".encode()).hexdigest()
        return f"{self.info.family}-{digest[:16]}"

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def __call__(self, x: Tensor, sigma: Tensor, labels: Labels = None) -> Tensor:
        return self.denoise(x, sigma, labels)

    def denoise(
        self,
        x: Tensor,
        sigma: Tensor | float,
        labels: Labels = None,
        *,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """D(x, sigma): the estimate of the clean image.

        Args:
            x: [B, C, H, W] = x0 + sigma n, with x0 in [-1, 1]; H and W multiples of `size_multiple`.
            sigma: noise level(s) > 0, one for all or [B].
            labels: class(es), 0 to classes - 1, one for all or [B], or one-hot [B, classes] of any dtype (for NVlabs
                models any weights of classes). None: no class, which only NVlabs models know.
            augment_labels: NVlabs models trained with augmentation: [B, augment_dim]. None is no augmentation.

        Returns:
            Of x's shape and dtype; not clamped.

        Raises:
            InputError: shapes, labels or noise levels that do not fit the model; or `info.undecided` is not empty.
        """
        return self.estimate(x, sigma, partial(self.embedded, labels), augment_labels)

    def estimate(
        self,
        x: Tensor,
        sigma: Tensor | float,
        embedded: Callable[[int, torch.device], Tensor | None],
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """`denoise` with labels as the network takes them, from a function of batch size and device."""
        meaning, batch = self.meaning, self._batch(x)
        sigma = _levels(sigma, "sigma", batch, x.device)
        if not bool((sigma > 0).all()):
            raise InputError(f"sigma {sigma.tolist()}: must be positive")
        # Half precision is for convolutions: the scalings would lose the image in it. Double precision would round
        # time arguments otherwise than in training.
        state = x.float()
        labels = embedded(batch, x.device)

        def network(inputs: Tensor, t: Tensor) -> Tensor:
            return self._run(inputs, t, labels, augment_labels)

        denoiser: Denoiser = meaning.precondition(network)
        return denoiser(state, sigma).to(x.dtype)

    def network(
        self,
        x: Tensor,
        t: Tensor | float,
        labels: Labels = None,
        *,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """The raw network on its own input and time argument.

        Args:
            x: [B, C, H, W], scaled as the network was trained (VP: x_t; EDM: c_in x).
            t: its own time argument, one for all or [B]; need not be whole.
            labels, augment_labels: as in `denoise`.

        Returns:
            [B, out_channels, H, W] in x's dtype.

        Raises:
            InputError: shapes or labels that do not fit the model.
        """
        batch = self._batch(x)
        times = _levels(t, "t", batch, x.device)
        return self._run(x, times, self.embedded(labels, batch, x.device), augment_labels)

    def conditioned(self, labels: Labels, guidance: float = 1.0) -> Conditioned | Guided:
        """A denoiser of one class (or of one per image): what solvers take.

        Args:
            labels: as in `denoise`.
            guidance: scale of classifier-free guidance against no class, where 1 is none. Any other asks the network
                twice, and needs one that knows no class.

        Raises:
            InputError: guidance of a model that always wants a class, or without one.
        """
        if guidance == 1:
            return Conditioned(self, labels)
        if labels is None or not (self.info.num_classes and self.null_label):
            why = "takes a class" if labels is None else "knows no picture without a class"
            raise InputError(f"guidance {guidance:g}: {self.info.name} {why}; leave it at 1")
        count = 1 if isinstance(labels, int) else len(labels)
        weights = self.embedded(labels, count, self.device)
        assert weights is not None
        return Guided(self, weights, torch.zeros_like(weights), guidance)

    def _run(self, x: Tensor, t: Tensor, labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        extra = () if augment_labels is None else (self._augment_labels(augment_labels, x),)
        result: Tensor = self.module(x.to(self.compute_dtype), t, labels, *extra)
        return result.to(x.dtype).contiguous()

    def _batch(self, x: Tensor) -> int:
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise InputError(f"x: of shape {tuple(x.shape)}, where [batch, {self.channels}, height, width] is wanted")
        factor = self.size_multiple
        if x.shape[2] % factor or x.shape[3] % factor or 0 in x.shape:
            raise InputError(f"x: {x.shape[3]}x{x.shape[2]} pixels; width and height must be multiples of {factor}")
        return x.shape[0]

    def _augment_labels(self, given: Tensor, x: Tensor) -> Tensor:
        """Augmentation labels as the network takes them."""
        width = self.info.facts.get("augment_dim")
        if not width:
            raise InputError(f"augment_labels: {self.info.name} was not trained with augmentation; leave them out")
        given = _tensor(given, "augment_labels", x.device).float()
        if given.ndim != 2 or given.shape[1] != width or given.shape[0] not in (1, len(x)):
            raise InputError(f"augment_labels: of shape {tuple(given.shape)}, where [{len(x)}, {width}] is wanted")
        if not bool(given.isfinite().all()):
            raise InputError("augment_labels: hold NaN or Inf")
        return given.expand(len(x), width)

    def embedded(self, labels: Labels, batch: int, device: torch.device) -> Tensor | None:
        """Labels as the network takes them.

        Raises:
            InputError: they do not fit the model or the batch.
        """
        classes = self.info.num_classes
        if labels is None:
            if classes and not self.null_label:
                raise InputError(
                    f"labels: {self.info.name} has {classes} classes and none for 'any'; give 0..{classes - 1}"
                )
            return None
        if not classes:
            raise InputError(f"labels: {self.info.name} is unconditional; leave them out")
        chosen = _tensor(labels, "labels", device)
        if chosen.ndim == 2 and chosen.shape[1] == classes > 1:
            return self._weights_of_classes(chosen, batch)
        if chosen.dtype == torch.bool or (chosen.is_floating_point() and not bool((chosen == chosen.round()).all())):
            raise InputError(
                f"labels: {chosen.dtype} of shape {tuple(chosen.shape)}; give whole numbers 0..{classes - 1}, or "
                f"one-hot [{batch}, {classes}]"
            )
        if chosen.ndim > 2 or chosen.numel() not in (1, batch):
            raise InputError(
                f"labels: of shape {tuple(chosen.shape)} for {batch} images; give one class, one for each, or one-hot "
                f"[{batch}, {classes}]"
            )
        if bool(((chosen < 0) | (chosen >= classes)).any()):
            raise InputError(f"labels {chosen.tolist()}: must lie in 0..{classes - 1}")
        chosen = chosen.long().reshape(-1).expand(batch)
        return F.one_hot(chosen, classes).float() if self.family.class_weights else chosen

    def _weights_of_classes(self, given: Tensor, batch: int) -> Tensor:
        """Labels given as [B, classes]: one-hot; NVlabs networks multiply them, so any weights will do there."""
        if given.shape[0] not in (1, batch):
            raise InputError(
                f"labels: of shape {tuple(given.shape)}, where [{batch}, {self.info.num_classes}] is wanted"
            )
        weights = given.float().expand(batch, -1)
        if not bool(weights.isfinite().all()):
            raise InputError("labels: hold NaN or Inf")
        one_hot = ((weights == 0) | (weights == 1)).all(1) & (weights.sum(1) == 1)
        if not self.family.class_weights and not bool(one_hot.all()):
            raise InputError("labels: each row of [batch, classes] must be one-hot, a single 1 among zeros")
        return weights if self.family.class_weights else weights.argmax(1)


def _alike(value: Any) -> Any:
    """80 and 80.0, lists and tuples as the same."""
    if isinstance(value, dict):
        return {key: _alike(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_alike(entry) for entry in value]
    return float(value) if type(value) is int else value


def _levels(given: object, what: str, batch: int, device: torch.device) -> Tensor:
    """Noise levels or times, [batch], float32 or float64.

    Raises:
        InputError: naming `what`: not one for all or one for each, no real numbers, NaN or Inf.
    """
    found = _tensor(given, what, device).reshape(-1)
    if found.is_complex() or found.dtype == torch.bool:
        raise InputError(f"{what}: holds {found.dtype}; real numbers are wanted")
    if found.dtype not in (torch.float32, torch.float64):
        found = found.float()
    if found.numel() not in (1, batch):
        raise InputError(f"{what}: {found.numel()} levels for {batch} images; give one, or one for each")
    if not bool(found.isfinite().all()):
        raise InputError(f"{what} {found.tolist()}: must be finite, and a sigma positive")
    return found.expand(batch)


def _tensor(given: object, what: str, device: torch.device) -> Tensor:
    """
    Raises:
        InputError: naming `what`.
    """
    try:
        found: Tensor = torch.as_tensor(given, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{what} {given!r:.100}: are no numbers ({error})") from None
    return found


@dataclass
class Conditioned:
    """A pixel model with its labels; a `Denoiser`."""

    model: PixelModel
    labels: Labels
    _embedded: dict[tuple[int, torch.device], Tensor | None] = field(default_factory=dict, init=False, repr=False)
    """Labels as the network takes them, for every size of batch: a solver asks with the same ones many times."""

    @property
    def sigma_min(self) -> float:
        return self.model.sigma_min

    @property
    def sigma_max(self) -> float:
        return self.model.sigma_max

    @property
    def channels(self) -> int:
        return self.model.channels

    @property
    def image_size(self) -> int | None:
        return self.model.image_size

    @property
    def size_multiple(self) -> int:
        return self.model.size_multiple

    @property
    def process(self) -> Process:
        return self.model.process

    @property
    def signature(self) -> str:
        return self.model.signature

    @property
    def device(self) -> torch.device:
        return self.model.device

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.model.estimate(x, sigma, self._labels)

    def _labels(self, batch: int, device: torch.device) -> Tensor | None:
        key = batch, device
        if key not in self._embedded:
            self._embedded[key] = self.model.embedded(self.labels, batch, device)
        return self._embedded[key]
