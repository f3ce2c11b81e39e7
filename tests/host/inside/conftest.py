"""Tests that run inside a real ComfyUI, in its own Python: `test_inside.py` starts them."""

import asyncio
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).resolve().parent
PACK = Path(os.environ["SSI_PACK"])  # a custom_nodes/<any name> that leads to the repository
BASE = PACK.parents[1]
sys.path[:0] = [os.environ["SSI_COMFYUI"], str(HERE)]
sys.argv[1:] = ["--cpu", "--disable-api-nodes", "--base-directory", str(BASE)]

# Before anything of comfy is imported: it reads its options once.
import comfy.options  # noqa: E402
import utils.install_util  # noqa: E402, F401  # core 0.16 finds another `utils` once more of comfy is in

comfy.options.enable_args_parsing()

import comfy.utils  # noqa: E402
import execution  # noqa: E402, F401  # sets up what nodes expect to be there
import torch  # noqa: E402

import nodes  # noqa: E402

torch.set_num_threads(1)
comfy.utils.PROGRESS_BAR_ENABLED = False


@pytest.fixture(scope="session", autouse=True)
def pack() -> ModuleType:
    """The pack, loaded as ComfyUI loads it."""

    async def load() -> bool:
        await nodes.init_builtin_extra_nodes()
        return await nodes.load_custom_node(str(PACK))

    assert asyncio.run(load()), "ComfyUI could not load the pack"
    return sys.modules[str(PACK).replace(".", "_x_")]


def run(node_id: str, **inputs: object) -> tuple:
    """What a node gives for these inputs; left-out ones take the defaults that the editor would show."""
    node = nodes.NODE_CLASS_MAPPINGS[node_id]
    spec = node.INPUT_TYPES()
    given = {
        name: options[1]["default"]
        for group in ("required", "optional")
        for name, options in spec.get(group, {}).items()
        if len(options) > 1 and "default" in options[1] and group == "required"
    }
    for name, options in spec.get("required", {}).items():
        choices = options[1].get("options") if len(options) > 1 else None
        if name not in given and choices and options[0] == "COMBO":
            given[name] = choices[0]
    answer = (
        getattr(node(), node.FUNCTION)(**{**given, **inputs}) if not _is_v3(node) else node.execute(**given | inputs)
    )
    if isinstance(answer, tuple):
        return answer
    return tuple(answer.result or ()) if hasattr(answer, "result") else tuple(answer["result"])


def _is_v3(node: type) -> bool:
    return hasattr(node, "define_schema")


@pytest.fixture(name="run")
def run_fixture():
    return run
