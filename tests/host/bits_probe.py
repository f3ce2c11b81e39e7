"""What core's own KSampler gives, in a ComfyUI with our pack or without it. Run as a script in the host's Python:

python bits_probe.py COMFYUI_DIR PACK_DIR {with,without}

Prints a hash of the results' bits, of a small random network of SD1.5's kind.
"""

import asyncio
import hashlib
import sys
from pathlib import Path


def main(host: str, pack: str, mode: str) -> None:
    sys.path[:0] = [host, str(Path(__file__).resolve().parent / "inside")]
    sys.argv[1:] = ["--cpu", "--disable-api-nodes", "--base-directory", str(Path(pack).parents[1])]
    import comfy.options
    import utils.install_util  # noqa: F401  # core 0.16 finds another `utils` once more of comfy is in

    comfy.options.enable_args_parsing()
    import torch
    from tiny import tiny_latent, tiny_model, tiny_prompt

    import nodes

    torch.set_num_threads(1)
    if mode == "with":
        assert asyncio.run(nodes.load_custom_node(pack))
    assert ("SSIInverseSampler" in nodes.NODE_CLASS_MAPPINGS) == (mode == "with")
    model, prompts, found = tiny_model("sd15"), [tiny_prompt("sd15", seed) for seed in (0, 1)], []
    for sampler, scheduler in (("euler", "normal"), ("dpmpp_2m", "karras"), ("euler_ancestral", "simple")):
        (out,) = nodes.NODE_CLASS_MAPPINGS["KSampler"]().sample(
            model, 3, 5, 4.0, sampler, scheduler, *prompts, tiny_latent("sd15", batch=2), 0.8
        )
        assert out["samples"].isfinite().all() and out["samples"].std() > 0.1
        found.append(out["samples"].numpy().tobytes())
    assert len(set(found)) == len(found)
    print("hash", hashlib.sha256(b"".join(found)).hexdigest())


if __name__ == "__main__":
    main(*sys.argv[1:])
