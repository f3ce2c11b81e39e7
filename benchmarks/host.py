"""SSI Inverse Sampler against core's SamplerCustomAdvanced: time and memory at the same number of evaluations.

    python benchmarks/host.py [--comfyui DIR] [--kind sd15|sdxl|flux] [--side 32] [--batch 1] [--repeats 7]

Runs in the host's own Python, in one process, on a small network of the host's own with random weights; runs alternate,
so that a loaded machine slows both alike. Memory is counted in tensors, over what was held before. Also prints what
importing the pack adds to the host's start, and whether core's KSampler gives the same bits with the pack as without.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PACK = "SSI"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", default=os.environ.get("COMFYUI_PATH", "~/comfy/ComfyUI"))
    parser.add_argument("--kind", default="sd15", choices=["sd15", "sdxl", "flux"])
    parser.add_argument("--width", type=int, default=4, help="of the network, times its smallest")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--part", choices=["compare", "bits"], help=argparse.SUPPRESS)
    parser.add_argument("--without", action="store_true", help=argparse.SUPPRESS)
    o = parser.parse_args()
    host = Path(o.comfyui).expanduser().resolve()
    if o.part:
        pack = Path(os.environ["SSI_PACK"])
        seconds = enter(host, pack, not o.without)
        compare(o, seconds) if o.part == "compare" else print(bits(o.kind))
        return
    with tempfile.TemporaryDirectory() as base:
        (Path(base) / "custom_nodes").mkdir()
        pack = Path(base) / "custom_nodes" / PACK
        pack.symlink_to(REPOSITORY, target_is_directory=True)
        python = next((p for v in (".venv", "venv") if (p := host / v / "bin/python").exists()), Path(sys.executable))
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"SSI_PACK": str(pack)}
        command = [str(python), str(Path(__file__).resolve()), *sys.argv[1:]]

        def run(*more: str, wanted: bool = False) -> str:
            out = subprocess.PIPE if wanted else None
            return subprocess.run(
                [*command, *more], env=environment, cwd=base, check=True, stdout=out, text=True
            ).stdout

        same = run("--part", "bits", wanted=True) == run("--part", "bits", "--without", wanted=True)
        found = "the same bits" if same else "DIFFERENT"
        print(f"core's KSampler with the pack installed and without: {found}", flush=True)
        run("--part", "compare")


def enter(host: Path, pack: Path, with_pack: bool) -> float:
    """Start core as a library, with our pack or without; returns the seconds that the pack's import took."""
    import asyncio
    import time

    sys.path[:0] = [str(host), str(REPOSITORY / "tests/host/inside")]
    sys.argv[1:] = ["--disable-api-nodes", "--base-directory", str(pack.parents[1])]
    import torch

    if not torch.cuda.is_available():
        sys.argv.append("--cpu")
    import comfy.options
    import utils.install_util  # noqa: F401  # 0.16.4 finds another `utils` once comfy is in

    comfy.options.enable_args_parsing()
    import comfy.utils

    comfy.utils.PROGRESS_BAR_ENABLED = False
    import nodes

    async def load() -> float:
        await nodes.init_builtin_extra_nodes()
        began = time.perf_counter()
        if with_pack:
            assert await nodes.load_custom_node(str(pack))
        return time.perf_counter() - began

    return asyncio.run(load())


def compare(o: argparse.Namespace, import_seconds: float) -> None:
    import time

    import comfy.samplers
    import torch
    from tiny import tiny_latent, tiny_model, tiny_prompt

    from nodes import NODE_CLASS_MAPPINGS

    model = tiny_model(o.kind, width=o.width)
    latent, prompt = tiny_latent(o.kind, batch=o.batch, side=o.side), tiny_prompt(o.kind)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(prompt, prompt)
    core, ours = NODE_CLASS_MAPPINGS["SamplerCustomAdvanced"], NODE_CLASS_MAPPINGS["SSIInverseSampler"]
    evaluations = []
    model.model.diffusion_model.register_forward_hook(lambda *_: evaluations.append(1))
    (noise,) = NODE_CLASS_MAPPINGS["RandomNoise"].execute(noise_seed=0).result
    dpmpp_2m = comfy.samplers.sampler_object("dpmpp_2m")

    def invert() -> torch.Tensor:
        found = ours.execute(
            model=model, latent=latent, steps=o.steps, schedule="auto", skip=0.1, skip_unit="sigma", solver="dpmpp-2m",
            seed=0, positive=prompt,
        )  # fmt: skip
        sigmas: torch.Tensor = found.result[2]
        return sigmas

    sigmas = invert()[:-1]  # without the last 0: as many evaluations as the inversion's
    evaluations.clear()
    invert()
    up = len(evaluations)

    def sample() -> None:
        core.execute(noise=noise, guider=guider, sampler=dpmpp_2m, sigmas=sigmas, latent_image=latent)

    sample()
    assert len(evaluations) == 2 * up, (up, len(evaluations))
    print(f"{o.kind}, {o.batch} x {o.side}x{o.side}, {up} evaluations, torch {torch.__version__}", flush=True)
    print(f"importing the pack: {import_seconds:.3f} s; required <= 0.3", flush=True)
    memory = [peak(job) for job in (invert, sample)]
    print(
        f"peak memory over what was held: {memory[0] / 1e6:.2f} / {memory[1] / 1e6:.2f} MB = "
        f"{memory[0] / memory[1]:.3f}; required <= 1.02",
        flush=True,
    )
    pairs = []
    for i in range(o.repeats):
        times = []
        for job in (invert, sample):
            began = time.perf_counter()
            job()
            times.append(time.perf_counter() - began)
        pairs.append(tuple(times))
        print(f"pair {i + 1} of {o.repeats}: inversion {times[0]:.3f} s, core {times[1]:.3f} s", flush=True)
    ratios = [a / b for a, b in pairs]
    fastest = [min(column) for column in zip(*pairs, strict=True)]
    print(
        f"wall: {fastest[0]:.3f} / {fastest[1]:.3f} s = {fastest[0] / fastest[1]:.3f} (fastest), median of pairs "
        f"{statistics.median(ratios):.3f}, all {min(ratios):.3f}..{max(ratios):.3f}; required <= 1.03"
    )


def peak(job: object) -> float:
    """Bytes of tensors, at the highest, beyond what was held before."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    assert callable(job)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        job()
        return float(torch.cuda.max_memory_allocated() - before)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        job()
    held = highest = 0.0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    return highest


def bits(kind: str) -> str:
    """A hash of what core's KSampler gives."""
    import hashlib

    from tiny import tiny_latent, tiny_model, tiny_prompt

    from nodes import NODE_CLASS_MAPPINGS

    model, prompt = tiny_model(kind), tiny_prompt(kind)
    found = b""
    for sampler, scheduler in (("euler", "normal"), ("dpmpp_2m", "beta"), ("euler_ancestral", "simple")):
        (out,) = NODE_CLASS_MAPPINGS["KSampler"]().sample(
            model, 3, 6, 4.0, sampler, scheduler, prompt, tiny_prompt(kind, 1), tiny_latent(kind, batch=2), 0.8
        )
        found += out["samples"].numpy().tobytes()
    return hashlib.sha256(found).hexdigest()


if __name__ == "__main__":
    main()
