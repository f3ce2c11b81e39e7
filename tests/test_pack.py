"""The repository root as a ComfyUI custom node folder, without ComfyUI: one engine under two names, harmless elsewhere.

Each case runs in its own Python, isolated (-I) so that nothing is on `sys.path` but what the case puts there.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PROBE = REPOSITORY / "tests" / "host" / "pack_probe.py"
PACK = "ComfyUI-SSI v1.0 (my copy)"


def python(*arguments: object) -> str:
    done = subprocess.run([sys.executable, "-I", *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("order", ["pack-first", "core-first"])
def test_one_engine(tmp_path, order):
    """The real engine: same modules and classes by both names, pickles, no `nodes`, nothing registered."""
    pack = tmp_path / PACK
    pack.symlink_to(REPOSITORY, target_is_directory=True)
    elsewhere = tmp_path / "site-packages"
    elsewhere.mkdir()
    (elsewhere / "ssi_core").symlink_to(REPOSITORY / "ssi_core", target_is_directory=True)
    assert "one engine" in python(PROBE, pack, order, elsewhere)


# From here on a stub in the engine's place: what matters is which one is taken.


def stub(parent: Path, version: str, body: str = "") -> Path:
    core = parent / "ssi_core"
    core.mkdir(parents=True)
    (core / "__init__.py").write_text(f"from .version import __version__\nfrom .process import VE\n{body}\n")
    (core / "version.py").write_text(f"__version__ = {version!r}\n")
    (core / "process.py").write_text("class VE: pass\n")
    (core / "lazy.py").write_text("from .process import VE\n")
    return parent


def stub_pack(parent: Path, version: str, body: str = "") -> Path:
    shutil.copy(REPOSITORY / "__init__.py", stub(parent, version, body) / "__init__.py")
    return parent


PRELUDE = """
import importlib, importlib.util, sys
from pathlib import Path

def load(folder):
    name = str(folder).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, Path(folder) / "__init__.py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return name

def reach(name, module=""):
    return importlib.import_module(f"..ssi_core{module}", f"{name}.nodes")

def where(module):
    return Path(module.__file__).parents[1]
"""


def case(body: str, *arguments: object) -> str:
    names = "one, two = map(Path, sys.argv[1:3])\n" if len(arguments) == 2 else "one = Path(sys.argv[1])\n"
    return python("-c", PRELUDE + names + body, *arguments)


def test_own_engine_wins_over_an_installed_one(tmp_path):
    pack, installed = stub_pack(tmp_path / PACK, "2.0"), stub(tmp_path / "site", "1.0")
    case(
        "sys.path.insert(0, str(two)); name = load(one); core = reach(name, '.lazy'); import ssi_core, ssi_core.lazy\n"
        "assert where(core) == where(ssi_core) == one and core is ssi_core.lazy",
        pack,
        installed,
    )


def test_loaded_engine_of_the_same_version_is_used(tmp_path):
    pack, installed = stub_pack(tmp_path / PACK, "2.0"), stub(tmp_path / "site", "2.0")
    output = case(
        "sys.path.insert(0, str(two)); import ssi_core; name = load(one)\n"
        "assert reach(name, '.lazy').VE is reach(name).VE is ssi_core.VE and where(ssi_core) == two",
        pack,
        installed,
    )
    assert output == ""


@pytest.mark.parametrize("foreign", ["", "del __version__"])
def test_loaded_engine_of_another_version_is_named_and_left_alone(tmp_path, foreign):
    pack, installed = stub_pack(tmp_path / PACK, "2.0"), stub(tmp_path / "site", "1.0", foreign)
    output = case(
        "sys.path.insert(0, str(two)); import ssi_core; name = load(one)\n"
        "core = reach(name); lazy = reach(name, '.lazy')\n"
        "assert where(core) == where(lazy) == one and core.__version__ == '2.0' and lazy.VE is core.VE\n"
        "import ssi_core.lazy\n"
        "assert where(ssi_core.lazy) == two and ssi_core.lazy.VE is ssi_core.VE is not core.VE",
        pack,
        installed,
    )
    assert output.count("already loaded") == 1
    for said in (str(pack / "ssi_core"), str(installed / "ssi_core"), "2.0", "unknown" if foreign else "1.0"):
        assert said in output


def test_two_copies_of_the_pack(tmp_path):
    pack, copy = stub_pack(tmp_path / PACK, "2.0"), stub_pack(tmp_path / "copy", "2.0")
    case("assert reach(load(one), '.lazy') is reach(load(two), '.lazy')", pack, copy)


def test_failing_engine_leaves_no_half_import(tmp_path):
    pack = stub_pack(tmp_path / PACK, "2.0", "import sys; assert 'fixed' in sys.argv, 'broken'")
    case(
        "name = load(one)\n"
        "for _ in range(2):\n"
        "    try:\n"
        "        reach(name, '.lazy')\n"
        "    except AssertionError as error:\n"
        "        assert 'broken' in str(error)\n"
        "    else:\n"
        "        raise SystemExit('imported')\n"
        "    assert 'ssi_core' not in sys.modules and f'{name}.ssi_core' not in sys.modules\n"
        "sys.argv.append('fixed')\n"
        "core = reach(name)\n"
        "import ssi_core\n"
        "assert ssi_core is core",
        pack,
    )


def test_unknown_submodule_is_an_import_error(tmp_path):
    pack = stub_pack(tmp_path / PACK, "2.0")
    case(
        "name = load(one)\n"
        "try:\n"
        "    reach(name, '.nothing')\n"
        "except ModuleNotFoundError as error:\n"
        "    assert error.name == 'ssi_core.nothing'\n"
        "else:\n"
        "    raise SystemExit('imported')",
        pack,
    )
