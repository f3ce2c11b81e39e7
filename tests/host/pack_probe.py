"""Import the pack under the name ComfyUI gives it and check that there is one engine. Run as a script, host or none:

python pack_probe.py PACK_DIR {pack-first,core-first} CORE_PARENT [COMFYUI_DIR]

`CORE_PARENT` is a folder that holds `ssi_core` and nothing else: the "pip-installed" one of the core-first order.
"""

import asyncio
import copy
import importlib
import importlib.util
import pickle
import sys
from pathlib import Path


def import_pack(pack: str, host: str | None) -> str:
    """Import the folder as ComfyUI does, or by the same steps without it; returns the module's name."""
    name = pack.replace(".", "_x_")
    if host is None:
        spec = importlib.util.spec_from_file_location(name, Path(pack) / "__init__.py")
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert not hasattr(module, "comfy_entrypoint"), "registered outside ComfyUI"
        assert not hasattr(module, "NODE_CLASS_MAPPINGS")
        assert f"{name}.nodes" not in sys.modules, "nodes imported outside ComfyUI"
        assert importlib.util.find_spec("nodes") is None, "the pack's nodes are top-level"
        return name
    sys.path.insert(0, host)
    sys.argv[1:] = ["--cpu", "--disable-api-nodes"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import nodes

    before = set(nodes.NODE_CLASS_MAPPINGS)
    assert asyncio.run(nodes.load_custom_node(pack)), "ComfyUI could not load the pack"
    folder = Path(pack).name
    assert Path(nodes.EXTENSION_WEB_DIRS[folder]) == Path(pack) / "web"
    assert before <= set(nodes.NODE_CLASS_MAPPINGS)
    assert all(new.startswith("SSI") for new in set(nodes.NODE_CLASS_MAPPINGS) - before)
    assert Path(nodes.__file__) == Path(host) / "nodes.py"
    assert Path(sys.modules[f"{name}.nodes"].__file__) == Path(pack) / "nodes" / "__init__.py"
    return name


def main(pack: str, order: str, core_parent: str, host: str | None = None) -> None:
    path = list(sys.path)
    if order == "core-first":
        sys.path.insert(0, core_parent)
        import ssi_core

        sys.path.remove(core_parent)
        engine = Path(core_parent)
    else:
        engine = Path(pack)

    name = import_pack(pack, host)
    # What `from ..ssi_core.process import VE` in a node does; the package itself, eager and lazy submodules.
    inside = {
        module: importlib.import_module(f"..ssi_core{module}", f"{name}.nodes")
        for module in (".process", "", ".solver", ".demo", ".demo.scenes", ".metrics")
    }

    import ssi_core
    from ssi_core import VE

    assert Path(ssi_core.__file__) == engine / "ssi_core" / "__init__.py", ssi_core.__file__
    for module, reached in inside.items():
        plain = importlib.import_module(f"ssi_core{module}")
        assert reached is plain, module
        assert plain.__name__ == plain.__spec__.name == f"ssi_core{module}"
        assert plain.__package__ == plain.__spec__.parent
    assert inside[".process"].VE is VE is ssi_core.process.VE
    assert pickle.loads(pickle.dumps(VE())) == copy.deepcopy(VE()) == VE()
    assert type(pickle.loads(pickle.dumps(VE()))) is VE

    import_pack_again = importlib.util.spec_from_file_location(name, Path(pack) / "__init__.py")
    module = importlib.util.module_from_spec(import_pack_again)
    import_pack_again.loader.exec_module(module)
    assert sum(getattr(finder, "alias", None) == f"{name}.ssi_core" for finder in sys.meta_path) == 1
    assert importlib.import_module(f"{name}.ssi_core") is ssi_core

    assert pack not in sys.path
    assert host or sys.path == path
    print("one engine:", ssi_core.__file__)


if __name__ == "__main__":
    main(*sys.argv[1:])
