"""The pairs of `morphs.py` through the node SSI Morph, on a running ComfyUI.

    python benchmarks/morph_node.py http://127.0.0.1:8188 [--pairs 16] [--frames 24] [--skip 0.07]

For each pair, measured in the animation that comes out: how far the keyframes are off (grey levels of 255) and the
largest step between frames over the median one; and the evaluations, of one frame each.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from ssi_core.demo.photos import held_out_photos
from ssi_core.demo.scenes import HELD_OUT, draw_scenes
from ssi_core.image import to_pixels
from ssi_core.queue import run_workflow
from ssi_core.skip import DEFAULT_SKIP

WORKFLOW = Path(__file__).parents[1] / "workflows" / "api" / "demo_morph_even.json"
ENLARGED = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--skip", type=float, default=DEFAULT_SKIP)
    o = parser.parse_args()
    scenes = o.pairs - o.pairs // 2
    jobs = [("drawn scenes", 2 * i) for i in range(scenes)] + [("photographs", 2 * i) for i in range(o.pairs // 2)]
    off: list[int] = []
    uneven: list[float] = []
    spent: list[int] = []
    for i, (kind, index) in enumerate(jobs):
        settings = {
            "Pictures.kind": kind, "Pictures.index": index, "Pictures.count": 2, "Invert.seed": 2 * i,
            "Invert.skip": o.skip, "Morph.frames": o.frames, "Morph.loop": False,
        }  # fmt: skip
        if kind == "photographs":
            pair = held_out_photos()[index : index + 2]
        else:
            pair = draw_scenes(range(HELD_OUT + index, HELD_OUT + index + 2))
        with tempfile.TemporaryDirectory() as out:
            result = run_workflow(json.loads(WORKFLOW.read_text()), o.server, settings=settings, out=Path(out))
            (path,) = [output.path for output in result.outputs if output.title == "Animation"]
            (told,) = [output.text for output in result.outputs if output.title == "How even is it?"]
            assert path is not None and told is not None
            with Image.open(path) as animation:
                found = [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(animation)]
        frames = np.stack(found)[:, ::ENLARGED, ::ENLARGED].astype(float)
        steps = np.sqrt(np.square(np.diff(frames, axis=0)).mean((1, 2, 3)))
        off.append(int(abs(frames[[0, -1]] - to_pixels(pair)).max()))
        uneven.append(float(steps.max() / np.median(steps)))
        spent.append(int(re.findall(r"(\d+) evaluations", told)[0]))
        print(f"{kind} {index}, {index + 1}: {off[-1]} off, {uneven[-1]:.2f}, {spent[-1]} evaluations", flush=True)
    print(
        f"{o.pairs} pairs: keyframes at most {max(off)} grey levels off; largest step / median: median "
        f"{statistics.median(uneven):.2f}, worst {max(uneven):.2f}, {sum(u > 2 for u in uneven)} over 2; "
        f"{statistics.mean(spent):.0f} evaluations a pair"
    )


if __name__ == "__main__":
    main()
