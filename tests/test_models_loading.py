"""Loaded models, and the containers they come from."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from checkpoints import ADM, CONSISTENCY, DATA, EDM, NVLABS, TOLD, X, saved
from safetensors.torch import load_file, save_file
from torch import nn

from ssi_core.errors import InputError
from ssi_core.models import load_checkpoint
from ssi_core.models.edm import ARCHITECTURES, EDMNetConfig
from ssi_core.process import VE, VP, DiscreteVP


def test_what_a_model_says_of_itself():
    adm = load_checkpoint(ADM, **TOLD)
    assert adm.process == DiscreteVP("linear")
    assert adm.sigma_min == pytest.approx(0.01, rel=1e-3) and adm.sigma_max == pytest.approx(157.41, rel=1e-4)
    assert (adm.channels, adm.info.out_channels, adm.info.num_classes) == (3, 6, 0)
    assert adm.info.parametrisation == "epsilon and variance"
    assert adm.info.sources["noise_schedule"] == "argument"
    student = load_checkpoint(CONSISTENCY, num_head_channels=16, distillation=True)
    assert isinstance(student.process, VE) and (student.sigma_min, student.sigma_max) == (0.002, 80.0)
    nvidia = load_checkpoint(NVLABS, **EDM)
    assert (
        nvidia.image_size == 16
        and nvidia.info.num_classes == 10
        and (nvidia.sigma_min, nvidia.sigma_max) == (0.002, 80)
    )
    vp = load_checkpoint(NVLABS, precond="vp")
    assert isinstance(vp.process, VP) and vp.sigma_max == pytest.approx(152.17, rel=1e-3)
    assert not any(p.requires_grad for p in nvidia.module.parameters()) and not nvidia.module.training


@pytest.mark.parametrize(
    ("x", "sigma", "labels", "message"),
    [
        (X[:, :1], 1.0, 0, "x: of shape"),
        (X[0], 1.0, 0, "x: of shape"),
        (X[..., :7], 1.0, 0, "multiples of 2"),
        (X[:0], 1.0, 0, "multiples"),
        (X, 0.0, 0, "positive"),
        (X, -1.0, 0, "positive"),
        (X, float("nan"), 0, "positive"),
        (X, torch.ones(3), 0, "3 levels for 1 images"),
        (X, 1.0, 10, "must lie in 0..9"),
        (X, 1.0, -1, "must lie in 0..9"),
        (X, 1.0, [1, 2], r"shape \(2,\) for 1 images"),
        (X, 1.0, torch.ones(1, 9), r"one-hot \[1, 10\]"),
        (X, 1.0, torch.ones(3, 10), r"\[1, 10\] is wanted"),
        (X, 1.0, torch.full((1, 10), float("nan")), "NaN"),
        (X, 1.0, True, "whole numbers"),
        (X, 1.0, 1.5, "whole numbers"),
        (X, 1.0, "cat", "no numbers"),
        (X, "a", 0, "sigma 'a': are no numbers"),
        (X, 1j, 0, "sigma: holds torch.complex64"),
        (X, float("inf"), 0, "finite"),
    ],
)
def test_inputs_that_do_not_fit(x, sigma, labels, message):
    model = load_checkpoint(NVLABS, **EDM)
    for use in (model.denoise, lambda x, sigma, labels: model.conditioned(labels)(x, sigma)):
        with pytest.raises(InputError, match=message):
            use(x, sigma, labels)


@pytest.mark.parametrize(
    ("t", "message"),
    [
        ("a", "t 'a': are no numbers"),
        (float("nan"), "finite"),
        (torch.ones(3), "3 levels for 1 images"),
        (True, "bool"),
    ],
)
def test_times_that_are_none(t, message):
    with pytest.raises(InputError, match=message):
        load_checkpoint(NVLABS, **EDM).network(X, t)


@pytest.mark.skipif(not hasattr(torch, "accelerator") or not torch.accelerator.is_available(), reason="no accelerator")
def test_levels_are_looked_at_on_every_device():
    device = torch.accelerator.current_accelerator()
    model = load_checkpoint(NVLABS, device=device, **EDM)
    for sigma in (0.0, torch.zeros(1, device=device)):
        with pytest.raises(InputError, match="positive"):
            model.denoise(X.to(device), sigma)


@pytest.mark.parametrize(
    ("path", "told"),
    [(ADM, TOLD), (ADM, {**TOLD, "predict_xstart": True}), (NVLABS, {"precond": "vp"}), (NVLABS, EDM), (NVLABS, {}),
     (CONSISTENCY, {"num_head_channels": 16, "distillation": True})],
)  # fmt: skip
def test_a_model_can_be_pickled(path, told):
    model = load_checkpoint(path, **told)
    again = pickle.loads(pickle.dumps(model))
    assert again.signature == model.signature
    if model.info.undecided:
        with pytest.raises(InputError, match="class_name"):
            again.denoise(X, 0.5)
    else:
        assert torch.equal(again.denoise(X, 0.5), model.denoise(X, 0.5))


def test_a_signature_is_of_what_a_model_computes():
    def signed(**told):
        return load_checkpoint(ADM, **{**TOLD, **told}).signature

    same = signed()
    assert signed(num_head_channels=-1, num_heads=2) == same and signed(image_size=64) == same
    different = [
        signed(num_head_channels=8), signed(use_new_attention_order=True), signed(noise_schedule="cosine"),
        signed(predict_xstart=True), signed(diffusion_steps=500),
    ]  # fmt: skip
    assert len({same, *different}) == 6
    edm = load_checkpoint(NVLABS, **EDM).signature
    assert (
        load_checkpoint(NVLABS, **EDM, sigma_max=80).signature
        == load_checkpoint(NVLABS, **EDM, sigma_max=80.0).signature
    )
    assert load_checkpoint(NVLABS, precond="ve").signature != edm != load_checkpoint(NVLABS, sigma_data=0.6).signature


def test_labels_are_looked_at_once(monkeypatch):
    bound = load_checkpoint(NVLABS, **EDM).conditioned([3])
    wanted, asked = bound.model.denoise(X, 0.5, 3), []
    embedded = type(bound.model).embedded
    monkeypatch.setattr(type(bound.model), "embedded", lambda *a: asked.append(1) or embedded(*a))
    for _ in range(3):
        assert torch.equal(bound(X, torch.tensor([0.5])), wanted)
    assert len(asked) == 1


def resampled(path: Path, change) -> Path:
    state = {k: v.float() for k, v in load_file(DATA / "nv_ddpmpp.safetensors").items()}
    names = [k for k in state if k.endswith(".resample_filter")]
    assert len(names) > 1
    for i, name in enumerate(names):
        state[name] = change(i, state[name])
    save_file(state, path)
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda i, k: 2 * k,
        lambda i, k: k * (1 + (i == 1)),
        lambda i, k: torch.eye(2)[None, None] / 2,
        lambda i, k: k / 0,
    ],
)
def test_filters_whose_values_are_not_what_is_computed(tmp_path, change):
    """Two equal taps are computed by averaging, whatever gain the file's filter has."""
    load_checkpoint(resampled(tmp_path / "m.safetensors", lambda i, k: k), **EDM)
    with pytest.raises(InputError, match="not the normalised product"):
        load_checkpoint(resampled(tmp_path / "m.safetensors", change), **EDM)


@pytest.mark.parametrize("told", [{"channel_mult": "1,2"}, {"attn_resolutions": "8"}, {"resample_filter": "1,3,3,1"}])
def test_lists_as_text_say_what_lists_say(told):
    (name, text), state = next(iter(told.items())), load_checkpoint(NVLABS, **EDM).info.facts
    right = ",".join(f"{n:g}" for n in state[name])
    assert load_checkpoint(NVLABS, **EDM, **{name: right}).info.facts[name] == state[name]
    if right != text:
        with pytest.raises(InputError, match=f"given {name}=.*, but its tensors have {name}="):
            load_checkpoint(NVLABS, **EDM, **told)
    with pytest.raises(InputError, match=f"{name}='a,b': takes a list of numbers"):
        load_checkpoint(NVLABS, **EDM, **{name: "a,b"})


def test_float16_on_a_cpu_is_warned_of():
    with pytest.warns(UserWarning, match="over a hundred times slower"):
        load_checkpoint(NVLABS, dtype=torch.float16, **EDM)


def test_labels_where_there_are_none_and_none_where_there_must_be():
    with pytest.raises(InputError, match="unconditional"):
        load_checkpoint(ADM, **TOLD).denoise(X, 1.0, 3)
    with pytest.raises(InputError, match=r"10 classes and none for 'any'; give 0\.\.9"):
        load_checkpoint(DATA / "adm_neworder_classcond.safetensors", **{**TOLD, "num_head_channels": 8}).denoise(X, 1.0)
    with pytest.raises(InputError, match="augment_labels"):
        load_checkpoint(ADM, **TOLD).denoise(X, 1.0, augment_labels=torch.zeros(1, 9))


@pytest.mark.parametrize(
    ("path", "told"),
    [(NVLABS, EDM), (DATA / "adm_neworder_classcond.safetensors", {**TOLD, "num_head_channels": 8})],
)
def test_labels_in_every_unambiguous_form(path, told):
    model = load_checkpoint(path, **told)
    x = torch.cat([X, 2 * X])
    wanted = model.denoise(x, 1.0, [3, 7])
    one_hot = nn.functional.one_hot(torch.tensor([3, 7]), 10)
    for labels in (torch.tensor([3.0, 7.0]), torch.tensor([[3], [7]]), torch.tensor([3, 7], dtype=torch.uint8),
                   one_hot, one_hot.int(), one_hot.float(), one_hot.double(), one_hot.bool()):  # fmt: skip
        assert torch.equal(model.denoise(x, 1.0, labels), wanted)
    assert torch.equal(model.denoise(x, 1.0, one_hot[:1]), model.denoise(x, 1.0, 3))


def test_rows_that_are_not_one_hot_are_weights_or_refused():
    mixed = torch.full((1, 10), 0.1)
    adm = load_checkpoint(DATA / "adm_neworder_classcond.safetensors", **{**TOLD, "num_head_channels": 8})
    for labels in (mixed, torch.ones(1, 10, dtype=torch.int64), torch.zeros(1, 10)):
        with pytest.raises(InputError, match="must be one-hot"):
            adm.denoise(X, 1.0, labels)
    nvidia = load_checkpoint(NVLABS, **EDM)
    assert not torch.equal(nvidia.denoise(X, 1.0, mixed), nvidia.denoise(X, 1.0, 3))
    assert torch.equal(nvidia.denoise(X, 1.0, torch.zeros(1, 10)), nvidia.denoise(X, 1.0))


@pytest.mark.parametrize(
    "labels", [torch.zeros(1, 8), torch.zeros(9), torch.zeros(2, 9), torch.full((1, 9), torch.nan)]
)
def test_augment_labels_that_do_not_fit(labels):
    model = load_checkpoint(NVLABS, **EDM)
    for use in (model.denoise, model.network):
        with pytest.raises(InputError, match="augment_labels: "):
            use(X, 1.0, augment_labels=labels)
    whole = torch.zeros(1, 9, dtype=torch.int64)
    assert torch.equal(model.denoise(X, 1.0, augment_labels=whole), model.denoise(X, 1.0, augment_labels=whole.float()))


def test_no_classes_are_unconditional():
    assert load_checkpoint(ADM, **TOLD, num_classes=0).info.num_classes == 0
    with pytest.raises(InputError, match="given num_classes=None, but its tensors have num_classes=10"):
        load_checkpoint(DATA / "adm_neworder_classcond.safetensors", **TOLD, num_classes=0)


def test_a_model_is_a_denoiser_with_its_labels_bound():
    model = load_checkpoint(NVLABS, **EDM)
    bound = model.conditioned(4)
    assert torch.equal(bound(X, torch.tensor([0.5])), model.denoise(X, 0.5, 4))
    assert torch.equal(model(X, torch.tensor([0.5])), model.denoise(X, 0.5))
    assert not torch.equal(bound(X, torch.tensor([0.5])), model(X, torch.tensor([0.5])))
    assert (bound.sigma_min, bound.sigma_max, bound.channels, bound.image_size) == (0.002, 80, 3, 16)


def test_dtypes_of_inputs_come_back():
    model = load_checkpoint(NVLABS, **EDM)
    assert model.denoise(X.double(), 0.5).dtype == torch.float64
    assert model.denoise(X.half(), 0.5).dtype == torch.float16


def test_other_layer_classes():
    built = []

    class Counted(nn.Conv2d):
        def __init__(self, *args, **kwargs):
            built.append(self)
            super().__init__(*args, **kwargs)

    class Layers:
        Linear, Conv1d, Conv2d, GroupNorm, Embedding = nn.Linear, nn.Conv1d, Counted, nn.GroupNorm, nn.Embedding

    for path, told in ((ADM, TOLD), (NVLABS, EDM)):
        built.clear()
        model = load_checkpoint(path, layers=Layers, **told)
        convolutions = [m for m in model.module.modules() if isinstance(m, nn.Conv2d)]
        assert convolutions and all(type(m) is Counted for m in convolutions)
        assert torch.equal(model.denoise(X, 0.5), load_checkpoint(path, **told).denoise(X, 0.5))


# Containers


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_all_containers_and_stored_dtypes(tmp_path, suffix, dtype):
    state = {k: v.to(dtype) for k, v in load_file(ADM).items()}
    loaded = load_checkpoint(saved(tmp_path / f"m{suffix}", state), **TOLD)
    for name, value in loaded.module.state_dict().items():
        assert torch.equal(value, state[name].float()), name
    assert loaded.info.stored == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_tensors_that_are_views_and_parameters(tmp_path, suffix):
    state = load_file(NVLABS)
    name = "model.enc.16x16_block0.conv1.weight"
    state[name] = state[name].float().contiguous(memory_format=torch.channels_last)
    state["model.map_layer1.weight"] = nn.Parameter(state["model.map_layer1.weight"].float().t().contiguous()).t()
    state["model.map_layer0.bias"] = torch.cat([torch.ones(5), state["model.map_layer0.bias"].float()])[5:]
    loaded = load_checkpoint(saved(tmp_path / f"m{suffix}", state))
    for key, value in loaded.module.state_dict().items():
        assert torch.equal(value, state["model." + key].float()) and value.is_contiguous(), key


OPTIMISER = {"state": {0: {"exp_avg": torch.ones(500)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}


@pytest.mark.parametrize("wrap", [
    lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"ema": s}, lambda s: {f"module.{k}": v for k, v in s.items()},
    lambda s: {"state_dict": s, "hyper_parameters": {"mean": torch.zeros(3), "std": torch.ones(3)}},
        lambda s: {"model_state_dict": s, "optimizer": OPTIMISER}, lambda s: {"params_ema": s}, lambda s: {"module": s},
    lambda s: {"checkpoint": {"model": s}, "rng": torch.zeros(9)}, lambda s: {**s, "best": {"loss": torch.ones(1)}},
    lambda s: {"model": {k: 2 * v for k, v in s.items()}, "model_ema": s},
    lambda s: {"net": s, "size": torch.Size([3, 16]), "dtype": torch.float16, "device": torch.device("cuda", 1),
               "args": OrderedDict(lr=0.1, name="x", steps=2**70), "at": [None, (True, 2)]},
])  # fmt: skip
def test_wrappers_of_training_code(tmp_path, wrap):
    torch.save(wrap(load_file(NVLABS)), tmp_path / "m.pt")
    told = load_checkpoint(tmp_path / "m.pt", **EDM)
    assert torch.equal(told.denoise(X, 0.5), load_checkpoint(NVLABS, **EDM).denoise(X, 0.5))


def test_wrappers_that_leave_the_choice_open(tmp_path):
    state = load_file(NVLABS)
    torch.save({"generator": state, "teacher": state, "step": 3}, tmp_path / "m.pt")
    with pytest.raises(
        InputError, match=r"several networks, 'generator', 'teacher', among the .* 'generator', 'teacher', 'step';"
    ):
        load_checkpoint(tmp_path / "m.pt")
    torch.save({"step": 3, "notes": {"by": "me"}}, tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"holds no network.*; its top-level keys are 'step', 'notes'"):
        load_checkpoint(tmp_path / "m.pt")
    circle: dict = {"c": {"t": torch.ones(1)}, "d": {"t": torch.ones(1)}}
    circle["ema"] = {"ema": circle, "e": {"t": torch.ones(1)}}
    torch.save(circle, tmp_path / "m.pt")
    with pytest.raises(InputError, match="without an end"):
        load_checkpoint(tmp_path / "m.pt")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_of_torch(tmp_path, protocol, zipped):
    torch.save({"state_dict": load_file(NVLABS), "size": torch.Size([1]), "dtype": torch.float32}, tmp_path / "m.pt",
               pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)  # fmt: skip
    model = load_checkpoint(tmp_path / "m.pt", **EDM)
    assert model.info.container == ("torch zip" if zipped else "torch legacy")
    assert torch.equal(model.denoise(X, 0.5), load_checkpoint(NVLABS, **EDM).denoise(X, 0.5))


def test_nvlabs_network_without_its_preconditioner(tmp_path):
    save_file({k.removeprefix("model."): v for k, v in load_file(NVLABS).items()}, tmp_path / "m.safetensors")
    loaded = load_checkpoint(tmp_path / "m.safetensors", **EDM)
    assert torch.equal(loaded.denoise(X, 0.5), load_checkpoint(NVLABS, **EDM).denoise(X, 0.5))


def test_pkl_and_safetensors_of_the_same_model():
    pkl = load_checkpoint(DATA / "nv_ncsnpp_cond.pkl")
    assert pkl.info.container == "NVlabs pickle" and pkl.info.sources["class_name"] == "the file itself"
    assert torch.equal(pkl.denoise(X, 0.5, 3), load_checkpoint(NVLABS, **EDM).denoise(X, 0.5, 3))
    assert pkl.signature == load_checkpoint(NVLABS, **EDM).signature
    assert pkl.signature != load_checkpoint(DATA / "nv_ddpmpp.safetensors").signature


def test_the_suffix_does_not_decide(tmp_path):
    (tmp_path / "m.pt").write_bytes(NVLABS.read_bytes())
    assert load_checkpoint(tmp_path / "m.pt").info.container == "safetensors"


@pytest.mark.parametrize("low", range(0x80, 0x100, 0x20))
def test_a_safetensors_header_whose_length_looks_like_a_pickle(tmp_path, low):
    data = NVLABS.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    padded = length + (low - length) % 256
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", padded) + data[8 : 8 + length] + b" " * (padded - length) + data[8 + length :])
    assert torch.equal(load_checkpoint(path, **EDM).denoise(X, 0.5), load_checkpoint(NVLABS, **EDM).denoise(X, 0.5))


# Bounds


@pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark is read from /proc")
def test_loading_takes_little_more_memory_than_the_weights(tmp_path):
    """In a process of its own, so that nothing else counts; 1.15 times the tensors' bytes are allowed."""
    config = EDMNetConfig("DhariwalUNet", 32, 3, 3, 128, (1, 2, 2), 2, (16,))
    state = {f"model.{k}": torch.randn_like(v) for k, v in ARCHITECTURES["DhariwalUNet"](config).state_dict().items()}
    for name in state:
        if name.endswith("resample_filter"):
            state[name] = torch.full((1, 1, 2, 2), 0.25)
    nbytes = sum(v.numel() * 4 for v in state.values())
    assert nbytes > 80e6
    for suffix in (".pt", ".safetensors"):
        path = saved(tmp_path / f"m{suffix}", state)
        code = f"""
import re
from ssi_core.models import load_checkpoint
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
load_checkpoint({str(DATA / "nv_ncsnpp_cond.safetensors")!r})
before = peak()
model = load_checkpoint({str(path)!r})
print(peak() - before)
"""
        run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True,
                             cwd=Path(__file__).parent.parent)  # fmt: skip
        assert int(run.stdout) < 1.15 * nbytes


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (NVLABS, EDM),
        (DATA / "cm_imagenet64like.safetensors", {"num_head_channels": 16, "distillation": False}),
        (ADM, TOLD),
    ],
)
def test_loading_does_not_import_torchs_compiler(path, told):
    # It takes two seconds and a hundred megabytes, which whoever loads one file in a process would pay.
    code = (
        "import sys\n"
        "from ssi_core.models import load_checkpoint\n"
        f"load_checkpoint({str(path)!r}, **{told!r})\n"
        "print([name for name in sys.modules if name in ('torch._dynamo', 'sympy', 'torch.onnx')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_sets_beside_a_network_are_data_at_every_protocol(tmp_path, protocol):
    path = tmp_path / "x.pt"
    state = {"model": load_file(ADM), "kept": {"a", "b"}, "none": set()}
    torch.save(state, path, pickle_protocol=protocol)
    assert load_checkpoint(path, **TOLD).info.family == "guided-diffusion"


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", None, 3.5])
def test_devices_that_are_none(device):
    with pytest.raises(InputError, match=r"device .*: cannot be used here"):
        load_checkpoint(ADM, device=device, **TOLD)
