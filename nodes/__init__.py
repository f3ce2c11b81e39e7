"""The ComfyUI nodes. A node module is added to `NODES` here and nowhere else.

A node's id and the order of its outputs are for ever.
"""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import pixel

NODES: list[type[io.ComfyNode]] = [*pixel.NODES]


class SSIExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> SSIExtension:
    return SSIExtension()
