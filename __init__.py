"""The repository root is a ComfyUI custom node folder: this file is what ComfyUI imports.

ComfyUI imports the folder as a package named by its path (`/x/custom_nodes/SSI pack`), so nodes reach the engine
relatively: `from ..ssi_core import invert`. Scripts and tests know it as plain `ssi_core`. Python would load it once
for each name, and `isinstance(process, VE)` would depend on who made the process. So `_SharedCore` answers the pack's
name with the plain module: one engine, whichever way and order it was imported in. A finder, because it also covers
submodules imported later, costs nothing until a node needs the engine, and keeps the repository root off `sys.path`,
where `nodes/` would collide with ComfyUI's own `nodes` module.

Which engine: the one already loaded as `ssi_core` if it has this pack's version, else this folder's, even where another
is installed. If another version is already loaded, a warning names both; its users keep it, and the nodes get this
folder's under the pack's name only.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

# Here, not in pyproject.toml: ComfyUI looks for help pages under the folder's name (and, with aiohttp 3.14, finds none
# under a name that holds a space; everything else works there).
WEB_DIRECTORY = "./web"

CORE = "ssi_core"
CORE_DIRECTORY = Path(__file__).parent / CORE


class _SharedCore(MetaPathFinder, Loader):
    """Imports `<pack>.ssi_core[.x]` as `ssi_core[.x]`."""

    def __init__(self, pack: str) -> None:
        self.alias = f"{pack}.{CORE}"

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == self.alias:
            shared = _can_share()
        elif fullname.startswith(f"{self.alias}."):
            shared = sys.modules[self.alias].__name__ == CORE  # as was decided for the package
        else:
            return None
        # Answering None lets Python import this folder's engine as an ordinary subpackage of the pack.
        return ModuleSpec(fullname, self) if shared else None

    def exec_module(self, module: ModuleType) -> None:
        # `module` is an empty one, stamped by importlib with the alias's __spec__ and __package__. What stands in
        # sys.modules when this returns is what gets imported, so the real module can take its place unstamped.
        if module.__name__ == self.alias and not _loaded():
            _run(CORE, CORE_DIRECTORY / "__init__.py")
        sys.modules[module.__name__] = import_module(CORE + module.__name__.removeprefix(self.alias))


def _loaded() -> ModuleType | None:
    return sys.modules.get(CORE)


def _can_share() -> bool:
    """Whether the name `ssi_core` is free for this folder's engine, or held by one of the same version."""
    loaded = _loaded()
    if loaded is None:
        return True
    own = _run(f"{__name__}.version", CORE_DIRECTORY / "version.py").__version__
    other = getattr(loaded, "__version__", None)
    if other == own:
        return True
    logging.warning(
        "SSI inversion: another %s (version %s, %s) is already loaded. The nodes use their own (version %s, %s); "
        "objects of one are foreign to the other. Uninstall one, or bring both to the same version.",
        CORE,
        other or "unknown",
        getattr(loaded, "__file__", None) or list(getattr(loaded, "__path__", [])),
        own,
        CORE_DIRECTORY / "__init__.py",
    )
    return False


def _run(name: str, file: Path) -> ModuleType:
    """Import `file` as `name` without looking for it on `sys.path`."""
    spec = spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import {file}", name=name, path=str(file))
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


# One finder a package, also when a reloader imports this file again.
sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, "alias", None) != f"{__name__}.{CORE}"]
sys.meta_path.insert(0, _SharedCore(__name__))

if find_spec("comfy_api"):  # elsewhere (pytest imports this file too) there is nothing to register
    comfy_entrypoint = import_module(".nodes", __name__).comfy_entrypoint
