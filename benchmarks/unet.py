"""Our pixel networks against the originals: equality, forward time and peak memory.

    python benchmarks/unet.py --guided-diffusion PATH --consistency-models PATH --edm PATH

Each PATH is a local checkout of an original; what is not given is left out. Both networks get the same random weights.
Times are minima over interleaved runs, so that a load which comes and goes hits both alike. Memory is the high-water
mark of allocated tensors during one forward pass, above what is held before it (weights and input); measured from
torch's own records of every allocation, so that what else the process does does not count.

Equality is required to 1e-4, before anything is timed.

On a GPU: float32, float16 and bfloat16 of ours, from the layers that `load_checkpoint` uses there, against the original
as it ships, ours compiled, and the share of the card's measured matrix-product rate. TF32 stays as torch has it, which
is printed: off for matrix products, on for convolutions, for both sides alike. flash_attn is replaced by the same
arithmetic where it is not installed; where it is, consistency_models runs on the GPU alone, which is all it can.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import math
import os
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssi_core.models.adm import UNet, UNetConfig
from ssi_core.models.edm import ARCHITECTURES, EDMNetConfig
from ssi_core.models.layers import Layers, assign
from ssi_core.models.packed import PackedLayers

Forward = Callable[[Tensor], Tensor]
MOST_DIFFERENCE = 1e-4
"""Of the largest value, in float32."""


@dataclass
class Case:
    """One network, ours and theirs, with the same weights."""

    name: str
    ours: nn.Module
    theirs: nn.Module
    size: int
    half: Callable[[nn.Module], None]
    """Puts the original into the half precision that it ships with."""

    def time(self, batch: int, device: torch.device) -> Tensor:
        return torch.full((batch,), 0.3 if "edm" in self.name else 300.0, device=device)

    def forwards(self, batch: int, device: torch.device) -> tuple[Forward, Forward]:
        t = self.time(batch, device)
        extra = (None,) if "edm" in self.name else ()
        return (lambda x: self.ours(x, t)), (lambda x: self.theirs(x, t, *extra))


class ExactFlash(nn.Module):
    """In place of flash_attn's module, which needs a GPU: the same arithmetic with torch's own attention."""

    def __init__(self, **unused: Any) -> None:
        super().__init__()

    def forward(self, qkv: Tensor, **unused: Any) -> tuple[Tensor, None]:
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)
        return (weights @ v).permute(0, 2, 1, 3), None


@contextlib.contextmanager
def importable(path: Path) -> Iterator[None]:
    sys.path.insert(0, str(path))
    try:
        yield
    finally:
        sys.path.remove(str(path))


def randomise(network: nn.Module) -> nn.Module:
    """Weights of unit gain everywhere, also where training starts from zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            if p.ndim > 1:
                p.copy_(torch.randn(p.shape, generator=generator) / math.sqrt(p[0].numel()))
            else:
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    return network.eval().requires_grad_(False)


def adm_case(
    layers: Layers, module: str, size: int, width: int, mult: tuple[int, ...], attention: tuple[int, ...]
) -> Case:
    original = importlib.import_module(f"{module}.unet")
    arguments: dict[str, Any] = {
        "in_channels": 3, "model_channels": width, "out_channels": 3, "num_res_blocks": 2,
        "attention_resolutions": attention, "channel_mult": mult, "num_head_channels": 64, "resblock_updown": True,
        "use_scale_shift_norm": module == "guided_diffusion",
    }  # fmt: skip
    theirs = randomise(original.UNetModel(image_size=size, **arguments))
    with torch.device("meta"):
        ours = UNet(UNetConfig(**arguments, joint_projection_2d=module == "cm"), layers)
    assign(ours, {name: value.clone() for name, value in theirs.state_dict().items()})

    def half(network: nn.Module) -> None:
        network.convert_to_fp16()  # type: ignore[operator]
        network.dtype = torch.float16  # type: ignore[assignment]

    return Case(f"{module} {size}x{size} {width}ch", ours, theirs, size, half)


def edm_case(layers: Layers, kind: str, size: int, width: int, mult: tuple[int, ...]) -> Case:
    original = importlib.import_module("training.networks")
    arguments: dict[str, Any] = {"img_resolution": size, "in_channels": 3, "out_channels": 3, "model_channels": width,
                                 "channel_mult": mult, "num_blocks": 2, "attn_resolutions": (16,)}  # fmt: skip
    more: dict[str, Any] = {} if kind == "DhariwalUNet" else {
        "embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2,
        "resample_filter": (1.0, 3.0, 3.0, 1.0),
    }  # fmt: skip
    theirs = randomise(getattr(original, kind)(**arguments, **more))
    config = EDMNetConfig(model_type=kind, **arguments, **more)  # type: ignore[arg-type]
    with torch.device("meta"):
        ours = ARCHITECTURES[kind](config, layers)
    assign(ours, {name: value.clone() for name, value in theirs.state_dict().items()})
    return Case(f"edm {kind} {size}x{size} {width}ch", ours, theirs, size, lambda network: None)


def cases(args: argparse.Namespace) -> Iterator[Callable[[Layers], Case]]:
    """The networks to be compared, each built when its turn comes."""
    shapes: list[tuple[int, int, tuple[int, ...], tuple[int, ...]]] = [(64, 128, (1, 2, 3, 4), (4, 8))]
    if 256 in args.sizes:
        shapes.append((256, args.width_256, (1, 1, 2, 2, 4, 4), (8, 16, 32)))
    if 64 not in args.sizes:
        shapes = shapes[1:]
    for path, module in ((args.guided_diffusion, "guided_diffusion"), (args.consistency_models, "cm")):
        if path is None:
            continue
        with importable(path):
            importlib.import_module(f"{module}.unet")
        for shape in shapes:
            yield lambda layers, module=module, shape=shape: adm_case(layers, module, *shape)  # type: ignore[misc]
    if args.edm is not None:
        with importable(args.edm):
            importlib.import_module("training.networks")
        if 64 in args.sizes:
            yield lambda layers: edm_case(layers, "SongUNet", 32, 128, (2, 2, 2))
            yield lambda layers: edm_case(layers, "DhariwalUNet", 64, 128, (1, 2, 3, 4))


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def times(forwards: list[Forward], x: Tensor, runs: int) -> list[float]:
    """Least seconds of each, their runs interleaved."""
    best = [math.inf] * len(forwards)
    for _ in range(runs):
        for i, forward in enumerate(forwards):
            synchronise(x.device)
            start = time.perf_counter()
            forward(x)
            synchronise(x.device)
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def peak(forward: Forward, x: Tensor) -> float:
    """Bytes of tensors at the high-water mark of one forward pass, above what is held before it."""
    if x.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        forward(x)
        return float(torch.cuda.max_memory_allocated() - before)
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        forward(x)
    held = highest = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    return float(highest)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of one large matrix product."""
    n = 8192 if device.type == "cuda" else 1536
    a = torch.randn(n, n, device=device, dtype=dtype)
    (seconds,) = times([lambda x: x @ x], a, 10)
    return 2 * n**3 / seconds


def operations(case: Case, x: Tensor) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    _, theirs = case.forwards(len(x), x.device)
    with FlopCounterMode(display=False) as counter:
        theirs(x)
    return int(counter.get_total_flops())


def on_cpu(case: Case, args: argparse.Namespace) -> None:
    device = torch.device("cpu")
    x = torch.randn(1, 3, case.size, case.size, generator=torch.Generator().manual_seed(1))
    ours, theirs = case.forwards(1, device)
    a, b = ours(x), theirs(x)  # ours reorders its weights on this first pass
    error = float((a - b).abs().max() / b.abs().max().clamp(min=1))
    if not error < MOST_DIFFERENCE:
        raise SystemExit(f"{case.name}: differs from the original by {error:.1e}; nothing is timed")
    memory = peak(ours, x), peak(theirs, x)
    print(f"{case.name}: difference {error:.1e}, {operations(case, x) / 1e9:.0f} GFLOP; "
          f"memory {memory[0] / 1e6:.1f} / {memory[1] / 1e6:.1f} MB = {memory[0] / memory[1]:.2f}")  # fmt: skip
    for threads in args.threads:
        torch.set_num_threads(threads)
        mine, other = times([ours, theirs], x, args.runs)
        rate = operations(case, x) / mine / matrix_rate(device, torch.float32)
        print(f"  {threads} thread(s): {mine:.3f} / {other:.3f} s = {mine / other:.2f}; "
              f"{100 * rate:.0f}% of the matrix-product rate", flush=True)  # fmt: skip


def on_gpu(case: Case, args: argparse.Namespace) -> None:
    device = torch.device("cuda")
    case.theirs.to(device)
    reference = {}
    for batch in (1, 8):
        x = torch.randn(batch, 3, case.size, case.size, device=device)
        case.ours.float().to(device)
        reference[batch] = case.forwards(batch, device)[0](x), x
    case.half(case.theirs)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for module in case.ours.modules():
            if not isinstance(module, nn.Linear | nn.Embedding):
                for p in module.parameters(recurse=False):
                    p.data = p.data.to(dtype)
        compiled = torch.compile(case.ours) if args.compile else None
        for batch, (exact, x) in reference.items():
            ours, theirs = case.forwards(batch, device)
            t = case.time(batch, device)

            def cast(x: Tensor, forward: Forward = ours, dtype: torch.dtype = dtype) -> Tensor:
                return forward(x.to(dtype))

            contestants = [cast, theirs]
            if compiled is not None:
                contestants.append(lambda x, net=compiled, t=t, dtype=dtype: net(x.to(dtype), t))  # type: ignore[misc]
            for forward in contestants:
                forward(x)
            found = times(contestants, x, args.runs)
            error = float((cast(x).float() - exact).std() / exact.std())
            share = operations(case, x) / min(found[0], *found[2:]) / matrix_rate(device, dtype)
            more = f", compiled {found[2] * 1e3:.1f} ms" if compiled is not None else ""
            print(f"{case.name} {str(dtype)[6:]} batch {batch}: {found[0] * 1e3:.1f} / {found[1] * 1e3:.1f} ms = "
                  f"{found[0] / found[1]:.2f}{more}; error {error:.1e}; memory {peak(cast, x) / peak(theirs, x):.2f}; "
                  f"{100 * share:.0f}% of the matrix-product rate", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("guided-diffusion", "consistency-models", "edm"):
        parser.add_argument(f"--{name}", type=Path, help=f"checkout of {name}")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64], choices=[64, 256], help="default: 64")
    parser.add_argument("--width-256", type=int, default=128, help="channels at 256x256 (published: 256)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="on a GPU: also compiled")
    args = parser.parse_args()
    installed = importlib.util.find_spec("flash_attn") is not None
    if args.consistency_models is not None and not installed:
        flash = types.ModuleType("flash_attn.flash_attention")
        flash.FlashAttention = ExactFlash  # type: ignore[attr-defined]
        sys.modules |= {"flash_attn": types.ModuleType("flash_attn"), "flash_attn.flash_attention": flash}
    print(
        f"torch {torch.__version__}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; "
        f"TF32 for convolutions {torch.backends.cudnn.allow_tf32}, products {torch.backends.cuda.matmul.allow_tf32}"
    )
    with torch.no_grad():
        for build in cases(args):
            case = build(PackedLayers)
            if installed and case.name.startswith("cm "):
                print(f"{case.name}: not run on the CPU, since flash_attn is installed")
            else:
                on_cpu(case, args)
            if torch.cuda.is_available():
                on_gpu(build(nn), args)


if __name__ == "__main__":
    main()
