"""The ComfyUI nodes. A node module is added to `NODES` here and nowhere else.

Empty so far: a node's id and the order of its outputs are for ever, so none ships before its schema is final.
"""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

NODES: list[type[io.ComfyNode]] = []


class SSIExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> SSIExtension:
    return SSIExtension()
