"""Invert the demo picture in a ComfyUI whose other packs behave badly. Run as a script in the host's Python:

python neighbours_probe.py COMFYUI_DIR PACK_DIR {alone,neighbours} TMP

Prints a hash of the noise found, of its way back, and of what core's own KSampler gives.
"""

import asyncio
import hashlib
import sys
from pathlib import Path

NEIGHBOURS = {
    # Claims the engine's name, as another version of it.
    "ssi_core": """
import sys, types
foreign = types.ModuleType("ssi_core")
foreign.__version__, foreign.__path__ = "99.0", []
sys.modules["ssi_core"] = foreign
NODE_CLASS_MAPPINGS = {}
""",
    # Puts its own hands into the samplers, as several known packs do.
    "patcher": """
import comfy.samplers, comfy.k_diffusion.sampling as k
inner = comfy.samplers.KSAMPLER.sample
def sample(self, *args, **kwargs):
    sample.calls += 1
    return inner(self, *args, **kwargs)
sample.calls = 0
comfy.samplers.KSAMPLER.sample = sample
calculate = comfy.samplers.calculate_sigmas
comfy.samplers.calculate_sigmas = lambda *args, **kwargs: calculate(*args, **kwargs)
comfy.samplers.SCHEDULER_NAMES = [*comfy.samplers.SCHEDULER_NAMES, "foreign"]
k.sample_euler.__doc__ = "patched"
NODE_CLASS_MAPPINGS = {}
""",
    # Has a `nodes` package and modules with everyday names at the front of sys.path.
    "pushy": """
import sys, pathlib
sys.path.insert(0, str(pathlib.Path(__file__).parent))
NODE_CLASS_MAPPINGS = {}
""",
}


def main(host: str, pack: str, mode: str, tmp: str) -> None:
    sys.path.insert(0, host)
    sys.argv[1:] = ["--cpu", "--disable-api-nodes", "--base-directory", str(Path(pack).parents[1])]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.samplers
    import torch

    import nodes

    torch.set_num_threads(1)

    async def load() -> None:
        await nodes.init_builtin_extra_nodes()
        for name, code in NEIGHBOURS.items() if mode == "neighbours" else ():
            folder = Path(tmp) / name
            folder.mkdir()
            (folder / "__init__.py").write_text(code)
            for other in ("process.py", "noise.py", "solver.py", "inversion.py"):
                (folder / other).write_text("raise RuntimeError('the wrong module')\n")
            assert await nodes.load_custom_node(str(folder)), name
        assert await nodes.load_custom_node(pack), "our pack"
        assert await nodes.load_custom_node(pack), "our pack, imported again"

    asyncio.run(load())
    made = nodes.NODE_CLASS_MAPPINGS

    def run(node: str, **inputs: object) -> tuple:
        return made[node].execute(**inputs).result

    model, vae, _ = run("SSIPixelModelLoader", checkpoint="demo32 (embedded)")
    (images,) = run("SSIDemoImages", kind="drawn scenes", index=0, count=1)
    latent = {"samples": vae.encode(images)}
    noise, _, sigmas, _, _ = run(
        "SSIInverseSampler", model=model, latent=latent, steps=6, schedule="ssi-karras", skip=0.1, skip_unit="sigma",
        solver="dpmpp-2m", seed=0,
    )  # fmt: skip
    (prompt,) = run("SSIClassLabel", label="")
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(prompt, prompt)
    out, _ = run(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=comfy.samplers.sampler_object("euler"),
        sigmas=sigmas, latent_image={"samples": torch.zeros_like(latent["samples"])},
    )  # fmt: skip
    (core,) = made["KSampler"]().sample(model, 1, 4, 1.0, "euler", "karras", prompt, prompt, latent, 0.6)
    if mode == "neighbours":
        assert sys.modules["ssi_core"].__version__ == "99.0", "the other pack's module was taken away from it"
        assert comfy.samplers.KSAMPLER.sample.calls == 2
    found = b"".join(t.numpy().tobytes() for t in (noise.unit, sigmas, out["samples"], core["samples"]))
    print("hash", hashlib.sha256(found).hexdigest())


if __name__ == "__main__":
    main(*sys.argv[1:])
