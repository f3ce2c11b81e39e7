"""Files that would run code, take all memory or never end are refused; whatever is refused leaves nothing behind."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ssi_core.errors import InputError
from ssi_core.models import load_checkpoint
from ssi_core.models.container import open_archive
from ssi_core.models.pickles import Budget, Machine, Span
from ssi_core.models.records import Archive
from ssi_core.models.torchfile import constructors

DATA = Path(__file__).parent / "data"
PWNED = Path("/tmp/pwned")
NVLABS = DATA / "models" / "nv_ncsnpp_cond.pkl"


class Payload:
    """Runs a function when the ordinary unpickler reads it."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def marked(arguments, mark: Path):
    """Arguments of a payload that leaves its mark there."""
    if isinstance(arguments, tuple | list):
        return type(arguments)(marked(argument, mark) for argument in arguments)
    if isinstance(arguments, bytes):
        return arguments.replace(b"MARK", bytes(mark))
    return arguments.replace("MARK", str(mark)) if isinstance(arguments, str) else arguments


def refused(path: Path, mark: Path | None = None) -> str:
    """The message; whatever the file asks for has not happened. Published attacks write their mark to `PWNED`."""
    mark = mark or PWNED
    mark.unlink(missing_ok=True)
    modules = set(sys.modules)
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    assert not mark.exists()
    assert set(sys.modules) == modules
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "forbidden"),
    [
        ("evil.pkl", "posix.system"),
        ("evil.pt", "posix.system"),
        ("evil_legacy_format.pt", "posix.system"),
        ("evil_nested_storage.pkl", "posix.system"),
        ("evil_dotted_global.pkl", "torch.serialization.os.system"),
        ("evil_module_src.pkl", "holds no network"),
    ],
)
def test_published_attacks(name, forbidden):
    path = DATA / "malicious" / name
    assert forbidden in refused(path)


def test_the_attacks_would_work_on_an_ordinary_unpickler():
    """Otherwise the tests above would prove nothing."""
    PWNED.unlink(missing_ok=True)
    code = f"import pickle; pickle.load(open({str(DATA / 'malicious' / 'evil.pkl')!r}, 'rb'))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert PWNED.exists()
    PWNED.unlink()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (eval, ("__import__('os').system('touch MARK')",), ".eval"),
        (exec, ("open('MARK', 'w')",), ".exec"),
        (getattr, ("x", "y"), ".getattr"),
        (subprocess.run, (["touch", "MARK"],), ".run"),
        (torch.load, ("x",), "torch.serialization.load"),
        (torch.hub.load, ("x", "y"), "torch.hub.load"),
        (bytearray, (10**10,), ".bytearray"),
        (pickle.loads, (b"cposix\nsystem\n(S'touch MARK'\ntR.",), "pickle.loads"),
    ],
)
def test_calls_of_builtins_and_libraries_are_refused_by_name(tmp_path, function, arguments, named, protocol):
    path, mark = tmp_path / "model.pkl", tmp_path / "mark"
    path.write_bytes(pickle.dumps({"ema": Payload(function, *marked(arguments, mark))}, protocol=protocol))
    message = refused(path, mark)
    # Up to protocol 2 some are called by their Python 2 names, and bytes are themselves made by a call.
    assert named in message or (protocol == 2 and "_codecs.encode" in message)
    assert "nothing was" in message


def test_every_storage_stream_inside_a_pkl_is_checked(tmp_path):
    evil = io.BytesIO()
    torch.save(Payload(eval, "1"), evil, _use_new_zipfile_serialization=False)
    good = NVLABS.read_bytes()
    at = good.index(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", 20_000)
    forged = good[:at] + evil.getvalue().ljust(len(evil.getvalue()), b"\0") + good[at + len(evil.getvalue()) :]
    path = tmp_path / "model.pkl"
    path.write_bytes(forged)
    assert "builtins.eval" in refused(path) or "__builtin__.eval" in refused(path)


def test_source_text_in_a_pkl_is_never_run(tmp_path, monkeypatch):
    harmless = b"# module source removed on purpose: the loader must never execute this field\n"
    attack = b"open('mark', 'w').close()\n".ljust(len(harmless), b"#")
    monkeypatch.chdir(tmp_path)  # the path would be too long for its place
    data = NVLABS.read_bytes()
    assert data.count(harmless) == 1
    path = tmp_path / "model.pkl"
    path.write_bytes(data.replace(harmless, attack))
    assert load_checkpoint(path).info.parameters == 12875
    assert not (tmp_path / "mark").exists()


def test_numpy_scalars_under_the_name_of_numpy_1(tmp_path):
    data = NVLABS.read_bytes()
    old = data.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    assert len(old) == len(data) - data.count(b"numpy._core.multiarray") and len(old) < len(data)
    path = tmp_path / "model.pkl"
    path.write_bytes(old)
    ours, theirs = load_checkpoint(path), load_checkpoint(NVLABS)
    for (name, a), (_, b) in zip(ours.module.state_dict().items(), theirs.module.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_a_chain_of_references_does_not_explode(tmp_path):
    """Modules inside modules, each holding the one before a hundred times: a hundred to the tenth of them."""

    def persistent(state: bytes) -> bytes:
        meta = b"}(\x8c\x0aclass_name\x8c\x0aEDMPrecond\x8c\x05state" + state + b"u"
        return b"\x8c\x17torch_utils.persistence\x8c\x1b_reconstruct_persistent_obj\x93" + meta + b"\x85R"

    level = persistent(b"}")
    for _ in range(10):
        others = b"".join(b"\x8c\x03" + f"{i:03d}".encode() + b"h\x00" for i in range(1, 100))
        modules = b"}(\x8c\x03000" + level + b"q\x00" + others + b"u"
        level = persistent(b"}\x8c\x08_modules" + modules + b"s")
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x04}\x8c\x03ema" + level + b"s.")
    assert "far too many" in refused(path)


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x04\x8e" + struct.pack("<Q", 20 * 2**30) + b"x.",  # a byte string of 20 GB
        b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",  # a text of 4 EB
        b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b".",  # a frame of 4 EB, and nothing on the stack
        b"\x80\x04Nr\xff\xff\xff\xff.",  # remembered under the last index there is
        b"\x80\x04" + b"(" * 100_000 + b".",
        b"\x80\x04" + b")" + b"\x85" * 1_000_000 + b"N\x86}" + b"s.",  # nested a million deep, then a key
        b"\x80\x04}" + b")" + b"\x85" * 1_000_000 + b"Ns.",
        b"\x80\x04h\x00.",  # recalls what was never remembered
        b"\x80\x04\x8a\xff.",
        b"\x80\x04}Q.",
        b"\x80\x04]NNb.",
        b"\x80\x04P1\n.",
        b"\x80\x04\x82\x01.",
        b"\x80\x04" + b"N" * 5_000_000,
    ],
)
def test_programs_that_ask_for_too_much(tmp_path, program):
    path = tmp_path / "model.pkl"
    path.write_bytes(program)
    refused(path)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


MAGIC, VERSION = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", b"\x80\x02M\xe9\x03."
SYSTEM = b"\x80\x02}" + text("little_endian") + b"\x88s."
EMPTY = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x00NtQ"
DICT, PERSISTENT = b"ccollections\nOrderedDict\n", b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n"


def load_from(stream: bytes, times: int = 1) -> bytes:
    """Instructions that read the torch stream in a byte string, so many times."""
    start = b"ctorch.storage\n_load_from_bytes\nq\x00B" + struct.pack("<I", len(stream)) + stream
    return start + b"\x85q\x01R" + b"h\x00h\x01R" * (times - 1)


def storage_stream(before: bytes = b"") -> bytes:
    """A torch legacy stream with an empty storage, whose program does something else before."""
    program = b"\x80\x02" + before + EMPTY + b"."
    return MAGIC + VERSION + SYSTEM + program + b"\x80\x02]" + text("0") + b"a." + struct.pack("<Q", 0)


def test_the_stream_that_the_tests_below_forge_is_read(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x02" + load_from(storage_stream()) + b".")
    assert "holds no network" in refused(path)


@pytest.mark.parametrize("times", [1, 10])
@pytest.mark.parametrize("depth", [2, 5, 17, 200])
def test_streams_inside_streams_are_refused(tmp_path, depth, times):
    """Each level runs the one below twice, or more often: two to the 17th programs in 2.7 kB."""
    stream = storage_stream()
    for _ in range(depth - 1):
        stream = storage_stream(load_from(stream, times))
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x02" + load_from(stream) + b".")
    assert "asks for 'torch.storage._load_from_bytes'" in refused(path)


def test_a_network_inside_a_storage_is_refused(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x02" + load_from(storage_stream(PERSISTENT)) + b".")
    assert "asks for 'torch_utils.persistence._reconstruct_persistent_obj'" in refused(path)


def test_a_stream_that_is_asked_for_often_is_read_once(tmp_path):
    """A thousand times some 10,000 instructions would be too many."""
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x02" + load_from(storage_stream(b"N" * 5000), 1000) + b".")
    assert "holds no network" in refused(path)


def test_all_programs_of_a_file_share_one_limit(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x02" + load_from(storage_stream(b"N" * 900_000)) * 5 + b".")
    assert "more than 4000000 instructions" in refused(path)


@pytest.mark.parametrize("copied", [b"}", b"]"])
def test_copies_of_a_dictionary_are_counted(tmp_path, copied):
    """300 copies of 50,000 entries took 750 MB."""
    if copied == b"}":
        original = b"}q\x00(" + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(50_000)) + b"u"
    else:
        original = b"]q\x00(" + b"".join(b"J" + struct.pack("<i", i) + b"N\x86" for i in range(50_000)) + b"e"
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x02" + original + DICT + b"q\x01h\x00\x85q\x02" + b"h\x01h\x02R" * 300 + b".")
    assert ("what is no list" if copied == b"}" else "more than 4000000") in refused(path)


def test_a_dictionary_of_pairs_as_python_2_wrote_it():
    program = b"\x80\x02" + DICT + b"](](X\x01\x00\x00\x00aK\x01ee\x85R."
    with (DATA / "models" / "nv_ncsnpp_cond.pkl").open("rb") as file:
        archive = Archive(NVLABS, "", {}, file=file, opened=NVLABS.stat())
        table = constructors(archive, Budget())
        assert Machine(io.BytesIO(program), len(program), "fuzz", table).run() == {"a": 1}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (b"]" + b")" + b"\x85" * 1_000_000 + b"N\x86a", "a key that is no text: 'tuple'"),
        (b"]Na", "are no pairs"), (b"](NNNta", "are no pairs"), (b"K\x01", "what is no list"),
    ],
)  # fmt: skip
def test_a_dictionary_of_other_things(tmp_path, pairs, message):
    """A key that is nested a million deep would overflow the stack when it is hashed."""
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x02" + DICT + pairs + b"\x85R.")
    assert message in refused(path)


def module(state: bytes) -> bytes:
    return b"}(" + text("class_name") + text("EDMPrecond") + text("state") + b"}(" + state + b"uu"


@pytest.mark.parametrize("kind", ["_parameters", "_modules"])
def test_a_large_module_in_many_places_is_counted_whole(tmp_path, kind):
    entries = b"".join(text(f"{i}") + b"N" for i in range(20_000))
    shared = PERSISTENT + module(text(kind) + b"}(" + entries + b"u") + b"\x85Rq\x00"
    places = text("first") + shared + b"".join(text(f"{i}") + b"h\x00" for i in range(20_000))
    path = tmp_path / "model.pkl"
    top = PERSISTENT + module(text("_modules") + b"}(" + places + b"u") + b"\x85R"
    path.write_bytes(b"\x80\x02}" + text("ema") + top + b"s.")
    assert "far too many" in refused(path)


@pytest.mark.parametrize("odd", [b"K\x01", b"]" + text("x") + b"a", text("x")])
def test_a_module_whose_list_of_buffers_is_something_else(tmp_path, odd):
    path = tmp_path / "model.pkl"
    state = text("_non_persistent_buffers_set") + odd + text("_buffers") + b"}" + text("a") + b"Ns"
    path.write_bytes(b"\x80\x02}" + text("ema") + PERSISTENT + module(state) + b"\x85Rs.")
    assert "no proper state" in refused(path)


def test_a_name_of_a_megabyte(tmp_path):
    path = tmp_path / "model.pkl"
    state = text("_parameters") + b"}" + text("a" * 1_000_000) + b"Ns"
    path.write_bytes(b"\x80\x02}" + text("ema") + PERSISTENT + module(state) + b"\x85Rs.")
    assert "name without an end" in refused(path)


def test_inst_names_what_it_asks_for(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x02(X\x04\x00\x00\x00trueiposix\nsystem\n.")
    assert "posix.system" in refused(path)


@settings(max_examples=300)
@given(st.binary(max_size=300))
@example(b"\x80\x04]\x940h\x00ah\x00a.")
@example(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.")
def test_any_bytes_are_read_as_data_or_refused(program):
    """The machine ends with plain data or an InputError; nothing else comes out of it."""
    machine = Machine(io.BytesIO(program), len(program), "fuzz", {("collections", "OrderedDict"): dict})
    try:
        machine.run()
    except InputError as error:
        assert "fuzz" in str(error)


TOKENS = [
    b"\x80\x02", b"N", b"\x88", b"K\x03", b"(", b")", b"}", b"]", b"\x8f", b"t", b"\x85", b"\x86", b"\x87", b"a", b"e",
    b"s", b"u", b"\x90", b"\x94", b"q\x00", b"h\x00", b"h\x01", b"X\x01\x00\x00\x00a", b"\x8c\x05state", b"R", b"b",
    b"\x81", b"Q", b"C\x02ab", b"\x93", b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch.storage\n_load_from_bytes\n", b"cnumpy\ndtype\n",
    b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n", b"cnumpy.core.multiarray\nscalar\n",
    b"\x8c\x08_modules", b"\x8c\x0bstate_dict\n", b"cposix\nsystem\n", b".",
]  # fmt: skip


@settings(max_examples=500)
@given(st.lists(st.sampled_from(TOKENS), max_size=40))
def test_any_program_of_known_instructions_is_read_as_data_or_refused(tmp_path_factory, tokens):
    path = tmp_path_factory.getbasetemp() / "fuzz.pkl"
    path.write_bytes(b"\x80\x04" + b"".join(tokens) + b".")
    with pytest.raises(InputError), open_archive(path):
        pass  # no such program describes a network


@settings(max_examples=200)
@given(st.integers(0, 119_000), st.binary(min_size=1, max_size=4))
def test_a_damaged_pkl_is_read_or_refused(tmp_path_factory, position, replacement):
    data = bytearray(NVLABS.read_bytes())
    data[position : position + len(replacement)] = replacement
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    path.write_bytes(data)
    try:
        load_checkpoint(path)
    except InputError as error:
        assert str(path) in str(error)


def test_byte_strings_stay_in_the_file():
    data = pickle.dumps({"a": b"x" * 1000}, protocol=4)
    result = Machine(io.BytesIO(data), len(data), "test", {}).run()
    assert result == {"a": Span(data.index(b"x" * 1000), 1000)}


# Zips


def torch_zip(path: Path, change=lambda name, data: (name, data), compression=zipfile.ZIP_STORED) -> Path:
    """A genuine torch file, each member of which `change` may alter."""
    buffer = io.BytesIO()
    torch.save(OrderedDict(a=torch.ones(4), b=torch.zeros(2, 3)), buffer)
    with zipfile.ZipFile(buffer) as genuine, zipfile.ZipFile(path, "w", compression) as forged:
        for name in genuine.namelist():
            member = change(name, genuine.read(name))
            if member is not None:
                forged.writestr(*member)
    return path


def test_the_zip_that_the_tests_below_forge_is_read(tmp_path):
    with open_archive(torch_zip(tmp_path / "x.pt")) as archive:
        assert torch.equal(archive.tensor("a"), torch.ones(4))
        assert archive.shapes == {"a": (4,), "b": (2, 3)}


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    def bomb(name, data):
        return (name, b"\0" * 50_000_000) if name.endswith("data/0") else (name, data)

    path = torch_zip(tmp_path / "bomb.pt", bomb, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 200_000
    assert "compressed" in refused(path)


def test_a_symbolic_link_in_a_zip_is_refused(tmp_path):
    def link(name, data):
        if name.endswith("data/0"):
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o120777 << 16
            return info, b"/etc/passwd"
        return name, data

    assert "symbolic link" in refused(torch_zip(tmp_path / "link.pt", link))


def test_a_zip_without_its_program(tmp_path):
    path = torch_zip(tmp_path / "x.pt", lambda name, data: None if name.endswith("data.pkl") else (name, data))
    assert "without data.pkl" in refused(path)


def test_a_storage_that_is_smaller_than_it_claims(tmp_path):
    path = torch_zip(tmp_path / "x.pt", lambda name, data: (name, data[:4] if name.endswith("data/0") else data))
    assert "claims 16 bytes, but has 4" in refused(path)


def test_a_storage_that_is_not_there(tmp_path):
    path = torch_zip(tmp_path / "x.pt", lambda name, data: None if name.endswith("data/1") else (name, data))
    assert "storage '1'" in refused(path)


def test_a_big_endian_file(tmp_path):
    path = torch_zip(tmp_path / "x.pt", lambda name, data: (name, b"big" if name.endswith("byteorder") else data))
    assert "big-endian" in refused(path)


def test_a_script_archive_names_its_classes(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
    assert "__torch__" in refused(tmp_path / "script.pt")


def test_every_stream_answers_for_its_own_beginning(tmp_path):
    """The first three programs of a file's streams are run once; one whose bytes differ is not taken for the others."""
    data = NVLABS.read_bytes()
    first = data.index(b"little_endianq")
    last = data.rindex(b"little_endianq")
    true = data.index(b"\x88", last)
    assert first < last < true < last + 40
    forged = tmp_path / "model.pkl"
    forged.write_bytes(data[:true] + b"\x89" + data[true + 1 :])
    assert "big-endian" in refused(forged)
