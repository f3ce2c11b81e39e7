"""The ComfyUI nodes. A node is a class in one of these modules, listed in its module's `NODES`."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import blending, files, inspection, inversion, morph, pixel, skip

NODES: list[type[io.ComfyNode]] = [
    *inversion.NODES,
    *blending.NODES,
    *morph.NODES,
    *inspection.NODES,
    *skip.NODES,
    *pixel.NODES,
    *files.NODES,
]


class SSIExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> SSIExtension:
    return SSIExtension()
