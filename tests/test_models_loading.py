"""Recognising, loading, converting and listing checkpoint files."""

from __future__ import annotations

import itertools
import json
import os
import re
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ssi_core.errors import Cancelled, InputError
from ssi_core.inversion import invert
from ssi_core.models import load_checkpoint
from ssi_core.models.adm import UNet, UNetConfig
from ssi_core.models.arguments import TABLE
from ssi_core.models.commands import convert, describe, models
from ssi_core.models.container import open_archive
from ssi_core.models.edm import ARCHITECTURES, EDMNetConfig
from ssi_core.models.family import Tensors
from ssi_core.models.load import check_shapes, skeleton
from ssi_core.models.presets import PRESETS
from ssi_core.models.recognise import FAMILIES, published, recognise
from ssi_core.process import VE, VP, DiscreteVP
from ssi_core.schedule import karras_sigmas

DATA = Path(__file__).parent / "data" / "models"
ADM = DATA / "adm_uncond256like.safetensors"
CONSISTENCY = DATA / "cm_bedroom256like.safetensors"
NVLABS = DATA / "nv_ncsnpp_cond.safetensors"
EDM = {"class_name": "EDMPrecond"}
TOLD = {"num_head_channels": 16, "use_new_attention_order": False, "noise_schedule": "linear"}
X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def shapes_only(shapes: dict[str, tuple[int, ...]]) -> Tensors:
    return Tensors(shapes, lambda name: torch.full(shapes[name], 0.25))


def published_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published file."""
    from ssi_core.models.family import Recognised
    from ssi_core.models.recognise import FAMILIES

    entry = published()[name]
    family = next(family for family in FAMILIES if family.name == entry.family)
    network = skeleton(Recognised(family, {**family.defaults, **entry.facts}, {}, entry.signature))
    return {family.prefix + key: tuple(value.shape) for key, value in network.state_dict().items()}


# What the tensors tell


@pytest.mark.parametrize("name", sorted(published()))
def test_a_published_file_is_recognised_by_its_name(name):
    entry = published()[name]
    found = recognise(shapes_only(published_shapes(name)), path=f"/downloads/{name}.pt")
    assert found.names == [name]
    assert found.questions == []
    for key, value in entry.facts.items():
        if key != "resample_filter":  # the stand-in values above have none
            assert found.facts[key] == value, key


def test_renamed_files_of_unique_shape_need_no_name():
    found = recognise(shapes_only(published_shapes("64x64_diffusion")), path="my model.pt")
    assert found.names == ["64x64_diffusion"] and not found.questions
    assert found.facts["use_new_attention_order"] is True and found.facts["noise_schedule"] == "cosine"


def test_files_of_the_same_shape_that_agree_need_no_name():
    found = recognise(shapes_only(published_shapes("lsun_cat")), path="renamed.pt")
    assert set(found.names) >= {"lsun_bedroom", "lsun_cat", "lsun_horse", "256x256_diffusion_uncond"}
    assert not found.questions
    assert found.facts["num_head_channels"] == 64 and found.facts["image_size"] == 256


@pytest.mark.parametrize(
    ("path", "distilled"),
    [("edm_bedroom256_ema.pt", False), ("cd_bedroom256_l2.pt", True), ("ct_cat256 (1).safetensors", True),
     ("ComfyUI_edm_cat256_ema_fp16.safetensors", False)],
)  # fmt: skip
def test_teacher_or_student_is_told_by_the_file_name(path, distilled):
    found = recognise(shapes_only(published_shapes("edm_bedroom256_ema")), path=path)
    assert found.facts["distillation"] is distilled and not found.questions
    assert "published file" in found.sources["distillation"]


def test_teacher_or_student_without_a_name_is_asked_for():
    found = recognise(shapes_only(published_shapes("edm_bedroom256_ema")), path="model.pt")
    assert [question.arguments for question in found.questions] == [("distillation",)]


@st.composite
def adm_configurations(draw):
    base = draw(st.sampled_from([16, 32, 48, 64]))
    widths = draw(st.lists(st.sampled_from([32, 64, 96]), min_size=1, max_size=4))
    levels = len(widths)
    return UNetConfig(
        in_channels=(channels := draw(st.sampled_from([1, 3, 4]))),
        model_channels=base,
        out_channels=channels * draw(st.sampled_from([1, 2])),
        num_res_blocks=draw(st.integers(1, 3)),
        attention_resolutions=tuple(2**i for i in range(levels) if draw(st.booleans())),
        channel_mult=tuple(width / base for width in widths),
        num_classes=draw(st.sampled_from([None, 7])),
        conv_resample=draw(st.booleans()),
        resblock_updown=draw(st.booleans()),
        use_scale_shift_norm=draw(st.booleans()),
        joint_projection_2d=draw(st.booleans()),
    )


@given(adm_configurations())
def test_every_adm_network_is_recovered_from_its_tensors(config):
    if config.joint_projection_2d and config.out_channels != config.in_channels:
        return
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in UNet(config).state_dict().items()}
    found = recognise(shapes_only(shapes), overrides={"num_heads": 1})
    assert found.family.name == ("consistency-models" if config.joint_projection_2d else "guided-diffusion")
    again = {k: tuple(v.shape) for k, v in skeleton(found).state_dict().items()}
    assert again == shapes
    assert found.facts["num_res_blocks"] == config.num_res_blocks
    assert found.facts["attention_resolutions"] == config.attention_resolutions
    if len(config.channel_mult) > 1:
        assert found.facts["resblock_updown"] == config.resblock_updown
        if not config.resblock_updown:
            assert found.facts["conv_resample"] == config.conv_resample


@st.composite
def edm_configurations(draw):
    song = draw(st.booleans())
    levels = draw(st.integers(1, 3))
    resolution = draw(st.sampled_from([8, 24, 32]))
    return EDMNetConfig(
        model_type="SongUNet" if song else "DhariwalUNet",
        img_resolution=resolution,
        in_channels=(channels := draw(st.sampled_from([1, 3]))),
        out_channels=channels,
        model_channels=draw(st.sampled_from([4, 12] if song else [16, 64])),
        channel_mult=tuple(draw(st.lists(st.integers(1, 3), min_size=levels, max_size=levels))),
        num_blocks=draw(st.integers(1, 3)),
        attn_resolutions=tuple(resolution >> i for i in range(levels) if draw(st.booleans())),
        label_dim=draw(st.sampled_from([0, 5])),
        augment_dim=draw(st.sampled_from([0, 9])),
        channel_mult_emb=draw(st.sampled_from([2, 4])),
        channel_mult_noise=draw(st.sampled_from([1, 2])) if song else 1,
        embedding_type=draw(st.sampled_from(["positional", "fourier"])) if song else "positional",
        encoder_type=draw(st.sampled_from(["standard", "skip", "residual"])) if song else "standard",
        decoder_type=draw(st.sampled_from(["standard", "skip"])) if song else "standard",
        resample_filter=draw(st.sampled_from([(1.0, 1.0), (1.0, 3.0, 3.0, 1.0)])) if song else (1.0, 1.0),
    )


@given(edm_configurations())
def test_every_nvlabs_network_is_recovered_from_its_tensors(config):
    try:
        network = ARCHITECTURES[config.model_type](config)
    except InputError:  # more channels than the groups of its norms divide
        return
    state = {f"model.{k}": v for k, v in network.state_dict().items()}
    tensors = Tensors({k: tuple(v.shape) for k, v in state.items()}, state.__getitem__)
    found = recognise(tensors)
    again = {f"model.{k}": tuple(v.shape) for k, v in skeleton(found).state_dict().items()}
    assert again == tensors.shapes
    for name in ("num_blocks", "channel_mult", "label_dim", "augment_dim", "channel_mult_emb", "img_resolution"):
        assert found.facts[name] == getattr(config, name), name
    if len(config.channel_mult) > 1:
        for name in ("encoder_type", "decoder_type", "resample_filter"):
            assert found.facts.get(name, getattr(config, name)) == getattr(config, name), name


@settings(max_examples=150)
@given(st.data())
def test_damaged_lists_of_tensors_are_recognised_or_refused(data):
    """Whatever is taken away or changed: an answer or an InputError, never anything else."""
    path = data.draw(st.sampled_from([ADM, CONSISTENCY, NVLABS, DATA / "nv_dhariwal_cond.safetensors"]))
    with open_archive(path) as archive:
        shapes = dict(archive.shapes)
    for name in data.draw(st.lists(st.sampled_from(sorted(shapes)), max_size=8)):
        shapes.pop(name, None)
    for name in data.draw(st.lists(st.sampled_from(sorted(shapes)), max_size=4)):
        shapes[name] = tuple(data.draw(st.lists(st.integers(0, 70), max_size=5)))
    tensors = Tensors(shapes, lambda name: torch.full(shapes[name], 0.5))
    try:
        found = recognise(tensors, overrides={})
        if not found.questions:
            skeleton(found)
    except InputError as error:
        assert len(str(error)) < 2000


# What they do not tell


def test_everything_that_is_open_is_listed_with_its_choices():
    with pytest.raises(InputError) as caught:
        load_checkpoint(ADM)
    message = str(caught.value)
    for part in ("num_head_channels: one of 8, 16, 32", "num_heads: one of 1, 2, 4", "use_new_attention_order",
                 '"linear"', '"cosine"', "load_checkpoint(path, num_head_channels=..."):  # fmt: skip
        assert part in message


@pytest.mark.parametrize("left_out", ["num_head_channels", "use_new_attention_order"])
def test_each_open_question_of_the_network_is_asked_with_all_others(left_out):
    known = {k: v for k, v in TOLD.items() if k not in (left_out, "noise_schedule")}
    with pytest.raises(InputError, match=rf"{left_out}: .*noise_schedule: .*{left_out}=\.\.\., noise_schedule=\.\.\."):
        load_checkpoint(ADM, **known)


@pytest.mark.parametrize(
    ("path", "told", "answer", "choice"),
    [
        (ADM, {k: v for k, v in TOLD.items() if k != "noise_schedule"}, {"noise_schedule": "linear"}, '"cosine"'),
        (CONSISTENCY, {"num_head_channels": 16}, {"distillation": True}, "True (cd_*"),
        (NVLABS, {}, EDM, "VPPrecond (baseline-*-vp"),
    ],
)
def test_a_network_runs_before_its_output_can_be_read(path, told, answer, choice):
    model, decided = load_checkpoint(path, **told), load_checkpoint(path, **told, **answer)
    assert torch.equal(model.network(X, 3), decided.network(X, 3))
    assert choice in model.info.undecided[0] and model.info.parametrisation == "undecided"
    assert decided.info.undecided == ()
    conditioned, sigma = model.conditioned(None), torch.ones(1)
    for use in (
        lambda: model.denoise(X, 1.0), lambda: model(X, sigma), lambda: model.process, lambda: model.sigma_min,
        lambda: model.sigma_max, lambda: conditioned(X, sigma), lambda: invert(model, X, karras_sigmas(3)),
    ):  # fmt: skip
        with pytest.raises(InputError) as caught:
            use()
        assert choice in str(caught.value) and f"load_checkpoint(path, {next(iter(answer))}=...)" in str(caught.value)


WHOLE = {"img_resolution": 16, "img_channels": 3, "label_dim": 10, "model_type": "SongUNet", "use_fp16": False}


@pytest.mark.parametrize(
    ("file", "arguments", "kind", "source"),
    [
        ("m", {"sigma_data": 0.5}, "EDMPrecond", "only this class"),
        ("m", {"sigma_min": 0, "sigma_max": float("inf")}, "EDMPrecond", "only this class"),
        ("m", {"beta_min": 0.1, "model_type": "SongUNet"}, "VPPrecond", "only this class"),
        ("m", {"ctor": "VEPrecond"}, "VEPrecond", "argument"),
        ("m", WHOLE, "EDMPrecond", "assumed: the original's default"),
        ("m", {**WHOLE, "precond": "ve"}, "VEPrecond", "argument"),
        ("baseline-cifar10-32x32-cond-vp", {}, "VPPrecond", "the file's name"),
        ("baseline-ffhq-64x64-uncond-ve (1)", WHOLE, "VEPrecond", "the file's name"),
        ("EDM-cifar10-32x32-uncond-ve", {}, "EDMPrecond", "the file's name"),
        ("edm-cifar10-32x32-uncond-ve", {"class_name": "VPPrecond"}, "VPPrecond", "argument"),
        ("m", {"sigma_min": 0.02, "sigma_max": 100}, None, ""),
        ("edm-large", {}, None, ""),
        ("baseline-imagenet-64x64-cond-adm", {}, None, ""),
    ],
)
def test_what_tells_nvlabs_preconditioners_apart(file, arguments, kind, source):
    with open_archive(NVLABS) as archive:
        shapes = dict(archive.shapes)
    tensors = Tensors(shapes, load_file(NVLABS).__getitem__)
    found = recognise(tensors, path=f"/downloads/{file}.safetensors", overrides=arguments)
    assert found.facts.get("class_name") == kind
    assert source in found.sources.get("class_name", "")
    assert bool(found.questions) == (kind is None)


def test_a_published_shape_tells_the_preconditioner():
    told = {**WHOLE, "img_resolution": 64, "label_dim": 0}
    shapes = shapes_only(published_shapes("edm-ffhq-64x64-uncond-vp"))
    found = recognise(shapes, path="m.pt", overrides=told)
    assert found.facts["class_name"] == "EDMPrecond" and "published" in found.sources["class_name"]
    assert recognise(shapes, path="baseline-ffhq-64x64-uncond-vp.pt").facts["class_name"] == "VPPrecond"


def test_with_one_head_the_attention_order_does_not_matter():
    one = load_checkpoint(ADM, num_heads=1, noise_schedule="linear")
    for order in (False, True):
        same = load_checkpoint(ADM, num_heads=1, noise_schedule="linear", use_new_attention_order=order)
        assert torch.equal(same.network(X, 3), one.network(X, 3))


def test_answers_change_the_result():
    results = [
        load_checkpoint(ADM, num_heads=heads, use_new_attention_order=order, noise_schedule=schedule).denoise(X, 0.5)
        for heads, order, schedule in itertools.product((2, 4), (False, True), ("linear", "cosine"))
    ]
    for a, b in itertools.combinations(results, 2):
        assert float((a - b).abs().max()) > 1e-3


def test_number_and_width_of_heads_say_the_same():
    a = load_checkpoint(ADM, **TOLD)
    b = load_checkpoint(ADM, **{**TOLD, "num_head_channels": -1, "num_heads": 2})
    assert torch.equal(a.network(X, 5), b.network(X, 5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_head_channels": 12}, "12: does not divide an attention block of 32"),
        ({"num_head_channels": 0}, "0: does not divide"),
        ({"num_heads": 3, "num_head_channels": -1}, "3: does not divide"),
        ({"noise_schedule": "sigmoid"}, "sigmoid"),
        ({"model_channels": 32}, "model_channels=32 was given, but its tensors have model_channels=16"),
        ({"num_channels": 32}, "model_channels=32 was given"),
        ({"channel_mult": "1,2,3"}, "channel_mult"),
        ({"class_cond": True}, "num_classes"),
        ({"learn_sigma": False}, "out_channels=3 was given"),
        ({"attention_resolutions": (1,)}, "attention_resolutions"),
        ({"use_scale_shift_norm": False}, "use_scale_shift_norm"),
        ({"resblock_updown": False}, "resblock_updown"),
        ({"num_res_block": 1}, "num_res_block: no argument of a guided-diffusion model"),
        ({"distillation": True}, "distillation: no argument"),
        ({"channel_mult": "one"}, "cannot be understood"),
        ({"name": "lsun_sofa"}, "no published file is called so"),
        ({"name": "lsun_cat"}, "its tensors are not those of lsun_cat"),
        ({"dtype": torch.int8}, "dtype torch.int8"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        load_checkpoint(ADM, **{**TOLD, **arguments})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_heads", "abc"), ("num_heads", 0), ("num_heads", True), ("num_head_channels", None),
        ("noise_schedule", []),
        ("diffusion_steps", 0), ("diffusion_steps", -1), ("diffusion_steps", "x"), ("diffusion_steps", 20_000_000),
        ("predict_xstart", "maybe"), ("predict_xstart", 2), ("sigma_data", -5), ("sigma_data", float("nan")),
        ("sigma_data", float("inf")), ("sigma_min", 0), ("distillation", "maybe"), ("distillation", None),
    ],
)  # fmt: skip
def test_values_of_the_wrong_kind_are_refused_by_name_given_or_stated(tmp_path, name, value):
    path, told = (ADM, TOLD) if name not in ("sigma_data", "sigma_min", "distillation") else (
        CONSISTENCY, {"num_head_channels": 16, "distillation": True})  # fmt: skip
    with pytest.raises(InputError, match=f"{name}=.*: takes "):
        load_checkpoint(path, **{**told, name: value})
    facts = {"kind": "pixel-model", "facts": {"arguments": {**told, name: value}}}
    save_file(load_file(path), tmp_path / "x.safetensors", {"ssi": json.dumps(facts)})
    with pytest.raises(InputError, match=f"{name}=.*: takes "):
        load_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("word", "meant"), [("no", False), ("off", False), ("false", False), (0, False), ("yes", True)]
)
def test_words_for_yes_and_no(word, meant):
    loaded = load_checkpoint(CONSISTENCY, num_head_channels=16, distillation=word)
    assert loaded.info.facts["distillation"] is meant


def test_every_argument_has_a_kind():
    assert set(TABLE) == set().union(*(family.arguments for family in FAMILIES))


def test_all_of_the_originals_arguments_are_understood():
    loaded = load_checkpoint(
        ADM, image_size=16, num_channels=16, num_res_blocks=1, num_heads=4, num_heads_upsample=-1, num_head_channels=16,
        attention_resolutions="8", channel_mult="2,2", dropout=0.1, class_cond=False, use_checkpoint=False,
        use_scale_shift_norm=True, resblock_updown=True, use_fp16=True, use_new_attention_order=False, learn_sigma=True,
        diffusion_steps=1000, noise_schedule="linear", timestep_respacing="ddim20", use_kl=False, predict_xstart=False,
        rescale_timesteps=False, rescale_learned_sigmas=False,
    )  # fmt: skip
    assert loaded.image_size == 16
    assert torch.equal(loaded.denoise(X, 0.5), load_checkpoint(ADM, **TOLD).denoise(X, 0.5))


def test_predicted_image_and_rescaled_timesteps():
    image = load_checkpoint(ADM, **TOLD, predict_xstart=True)
    eps = load_checkpoint(ADM, **TOLD)
    sigma = 0.7
    shown = X / (1 + sigma**2) ** 0.5
    t = DiscreteVP().timestep(torch.tensor([sigma], dtype=torch.float64))
    assert torch.allclose(image.denoise(X, sigma), eps.network(shown, t)[:, :3], atol=1e-6)
    long = load_checkpoint(ADM, **TOLD, diffusion_steps=4000, rescale_timesteps=True)
    t = DiscreteVP(steps=4000).timestep(torch.tensor([sigma], dtype=torch.float64)) / 4
    assert torch.allclose(long.denoise(X, sigma), X - sigma * long.network(shown, t)[:, :3], atol=1e-5)


# The loaded model


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
    ],
)
def test_inputs_that_do_not_fit(x, sigma, labels, message):
    with pytest.raises(InputError, match=message):
        load_checkpoint(NVLABS, **EDM).denoise(x, sigma, labels)


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
    with pytest.raises(InputError, match="num_classes=None was given, but its tensors have num_classes=10"):
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


def saved(path: Path, state: dict[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=path.suffix == ".pt")
    return path


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
        InputError, match=r"several networks, generator, teacher, among the .* generator, teacher, step;"
    ):
        load_checkpoint(tmp_path / "m.pt")
    torch.save({"step": 3, "notes": {"by": "me"}}, tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"holds no network.*; its top-level keys are step, notes"):
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


# Bad files


def test_files_that_are_no_checkpoints(tmp_path):
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("Git LFS pointer\n" * 20)
    (tmp_path / "page.safetensors").write_text("<!doctype html><html>not found</html>" * 20)
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "loop.pt").symlink_to(tmp_path / "loop.pt")
    for name, message in {
        "empty.pt": "is empty", "text.pt": "is no checkpoint", "page.safetensors": "is no checkpoint",
        "pipe.pt": "not a regular file", "folder.pt": "not a regular file", "loop.pt": "cannot be opened",
        "missing.pt": "no such file",
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=message):
            load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", ["nv_ncsnpp_cond.pkl", "nv_ncsnpp_cond.safetensors", "m.pt", "m.pth"])
@pytest.mark.parametrize("kept", [0.01, 0.3, 0.9, 0.999])
def test_truncated_files(tmp_path, name, kept):
    source = DATA / name if (DATA / name).exists() else saved(tmp_path / name, load_file(NVLABS))
    data = source.read_bytes()
    path = tmp_path / f"cut-{name}"
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(InputError, match=r"truncated|damaged|no checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.encoder.conv_in.weight"],
            "Stable Diffusion",
        ),
        (["input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight", "time_embed.0.weight"], "latent diffusion"),
        (["lora_unet_down_blocks_0.lora_up.weight"], "a LoRA"),
        (["transformer.blocks.0.lora_A.weight"], "a LoRA"),
        (["encoder.down.0.block.0.conv1.weight"], "autoencoder"),
        (["weight", "bias"], "no pixel model that is known here"),
        (["time_embed.0.weight", "input_blocks.0.0.weight"], "a classifier"),
    ],
)
def test_other_kinds_of_model(tmp_path, names, message):
    save_file({name: torch.zeros(4, 4) for name in names}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path / "other.safetensors")


def test_an_upsampler_is_named(tmp_path):
    with torch.device("meta"):
        config = UNetConfig(6, 32, 6, 1, (), (1,))
        shapes = {k: tuple(v.shape) for k, v in UNet(config).state_dict().items()}
    with pytest.raises(InputError, match="an upsampler"):
        recognise(shapes_only(shapes))


def test_an_optimisers_state(tmp_path):
    network = nn.Linear(3, 3)
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.ones(3)).sum().backward()
    optimiser.step()
    torch.save(optimiser.state_dict(), tmp_path / "opt.pt")
    with pytest.raises(InputError, match="optimiser's state"):
        load_checkpoint(tmp_path / "opt.pt")
    torch.save({"step": 3, "lr": 0.1}, tmp_path / "numbers.pt")
    with pytest.raises(InputError, match="holds no network"):
        load_checkpoint(tmp_path / "numbers.pt")


def test_missing_unknown_and_misshapen_tensors_are_named(tmp_path):
    state = load_file(ADM)
    lost = [k for k in state if "emb_layers.1.bias" in k][:7]
    for name in lost:
        del state[name]
    state |= {"ema_step": torch.zeros(1), "out.2.bias": torch.zeros(5)}
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(InputError) as caught:
        load_checkpoint(tmp_path / "m.safetensors", **TOLD)
    message = str(caught.value)
    assert "7 tensors are missing" in message and message.count("emb_layers.1.bias") == 5 and ", ..." in message
    assert "1 are unknown (ema_step)" in message
    assert "out.2.bias is (5,) instead of (6,)" in message


LEAVES_A_WHOLE_MODEL = re.compile(r"label_emb\.|map_(label|augment|noise)\.|_aux_residual\.")
"""Without these a file is that of another, whole model."""


@pytest.mark.parametrize("name", sorted(p.name for p in DATA.glob("*.safetensors") if p.with_suffix("").suffix == ""
                                        and p.stem not in ("schedules", "nv_unetblock_2heads")))  # fmt: skip
def test_whatever_tensor_is_missing_is_named(name):
    """Alone, and with the four that follow it: the first five, whatever kind of layer they belong to."""
    state = load_file(DATA / name)
    whole = {key: tuple(value.shape) for key, value in state.items()}
    order = [key for key in whole if not LEAVES_A_WHOLE_MODEL.search(key)]
    for i, key in enumerate(order):
        for lost in ({key}, set(order[i : i + 5])):
            shapes = {k: v for k, v in whole.items() if k not in lost}
            tensors = Tensors(shapes, state.__getitem__)
            found = recognise(tensors)
            with pytest.raises(InputError) as caught:
                check_shapes(Path("m.pt"), found, skeleton(found), tensors)
            message = str(caught.value)
            assert f"{len(lost)} tensors are missing" in message and all(part in message for part in lost), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(tmp_path, value, dtype):
    state = {k: v.to(dtype) for k, v in load_file(NVLABS).items()}
    state["model.map_layer0.bias"][3] = value
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"1 tensors hold NaN or Inf \(model.map_layer0.bias\)"):
        load_checkpoint(tmp_path / "m.safetensors")


def test_large_finite_weights_are_no_error(tmp_path):
    """Their sum overflows; they themselves do not."""
    state = {k: v.float() for k, v in load_file(NVLABS).items()}
    state["model.map_layer0.bias"][:] = 3e38
    save_file(state, tmp_path / "m.safetensors")
    load_checkpoint(tmp_path / "m.safetensors")


def test_a_file_that_is_written_to_while_it_is_read(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(NVLABS.read_bytes())

    def append(done, total):
        with path.open("ab") as file:
            file.write(b"x")

    with pytest.raises(InputError, match="was changed while it was being read"):
        load_checkpoint(path, progress=append)
    path.write_bytes(NVLABS.read_bytes())
    with pytest.raises(InputError, match="cut short"):
        load_checkpoint(path, progress=lambda done, total: os.truncate(path, 9000))


def test_a_loaded_model_does_not_need_its_file(tmp_path):
    """It would with a mapped file: truncating that kills the process."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(NVLABS.read_bytes())
    model = load_checkpoint(path, **EDM)
    before = model.denoise(X, 0.5)
    os.truncate(path, 0)
    assert torch.equal(model.denoise(X, 0.5), before)


def test_loading_can_be_cancelled_and_reports_bytes(tmp_path):
    seen = []

    def cancel(done, total):
        seen.append((done, total))
        return len(seen) < 3

    with pytest.raises(Cancelled):
        load_checkpoint(NVLABS, progress=cancel)
    assert len(seen) == 3 and seen[0][0] < seen[1][0] < seen[2][0] < seen[2][1]


def header(entries: dict) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "data",
    [
        header({"a": {"dtype": "F32", "shape": [5 * 2**30], "data_offsets": [0, 20 * 2**30]}}),  # 20 GB
        header({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 2**82]}}),
        header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}) + b"xxxx",
        header({"a": {"dtype": "Q4", "shape": [1], "data_offsets": [0, 4]}}) + b"xxxx",
        header({"a": {"dtype": "F32", "shape": "1", "data_offsets": [0, 4, 5]}}) + b"xxxx",
        header({"a": {"dtype": "F32", "shape": [float("inf")], "data_offsets": [0, 4]}}) + b"xxxx",
        header({"a": 3}),
        header({"a": {}}),
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"{]",
        struct.pack("<Q", 60_000) + b"{\"a\":" + b"[" * 59_995,
        header({f"{i}": {"dtype": "F32", "shape": [250], "data_offsets": [0, 1000]} for i in range(9)}) + b"x" * 1000,
    ],
)  # fmt: skip
def test_forged_safetensors(tmp_path, data):
    path = tmp_path / "forged.safetensors"
    path.write_bytes(data)
    with pytest.raises(InputError, match="forged"):
        load_checkpoint(path)


def test_a_path_with_a_nul_byte(tmp_path):
    with pytest.raises(InputError, match="cannot be opened"):
        load_checkpoint(f"{tmp_path}/a\0b.pt")


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_a_tensor_of_20_gb_in_a_file_of_1_kb(tmp_path, suffix):
    """7 doubles become 2 684 354 560, in the programs that describe the tensor and its storage."""
    small = tmp_path / f"small{suffix}"
    torch.save({"a": torch.ones(7, dtype=torch.float64)}, small, _use_new_zipfile_serialization=suffix == ".pt")

    def forge(program: bytes) -> bytes:
        assert program.count(b"K\x07") >= 2
        return program.replace(b"K\x07", b"\x8a\x05" + (5 * 2**29).to_bytes(5, "little"))

    path = tmp_path / f"huge{suffix}"
    if suffix == ".pth":
        path.write_bytes(forge(small.read_bytes()))
    else:
        with zipfile.ZipFile(small) as genuine, zipfile.ZipFile(path, "w") as forged:
            for name in genuine.namelist():
                data = genuine.read(name)
                forged.writestr(name, forge(data) if name.endswith("data.pkl") else data)
    assert path.stat().st_size < 2500
    with pytest.raises(InputError, match=r"21474836480 bytes"):
        load_checkpoint(path)


# Commands


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("path", "told"),
    [(ADM, TOLD), (CONSISTENCY, {"num_head_channels": 16, "distillation": True}), (DATA / "nv_ncsnpp_cond.pkl", {})],
)
def test_a_converted_file_needs_no_arguments(tmp_path, path, told, dtype):
    out = tmp_path / "converted.safetensors"
    description = convert(path, out, dtype=dtype, overrides=told)
    assert description.undecided is None and description.container == "safetensors"
    original, again = load_checkpoint(path, **told), load_checkpoint(out)
    assert again.process == original.process and again.info.parametrisation == original.info.parametrisation
    error = float((again.denoise(X, 0.5) - original.denoise(X, 0.5)).abs().max())
    # The reference weights are exact in float16, so only bfloat16 changes them.
    assert error == 0 if dtype in (None, torch.float16) else 0 < error < 0.05
    with open_archive(out) as archive:
        assert {r.storage.dtype for n, r in archive.records.items() if "conv" in n or "layers.2" in n} >= {
            dtype or next(iter(archive.records.values())).storage.dtype
        }


def test_arguments_of_a_converted_file_can_be_overruled(tmp_path):
    out = tmp_path / "converted.safetensors"
    convert(ADM, out, overrides=TOLD)
    assert load_checkpoint(out, noise_schedule="cosine").process == DiscreteVP("cosine")
    assert load_checkpoint(out, num_heads=4).info.facts.get("num_head_channels", -1) == -1


def test_conversion_fails_whole(tmp_path):
    out = tmp_path / "converted.safetensors"
    with pytest.raises(InputError, match="Choices"):
        convert(ADM, out)
    with pytest.raises(InputError, match=r"must end in \.safetensors"):
        convert(ADM, tmp_path / "x.pt", overrides=TOLD)
    with pytest.raises(Cancelled):
        convert(ADM, out, overrides=TOLD, progress=lambda done, total: False)
    state = {k: v.float() for k, v in load_file(ADM).items()}
    state["input_blocks.0.0.weight"] *= 1e6
    save_file(state, tmp_path / "large.safetensors")
    with pytest.raises(InputError, match=r"input_blocks\.0\.0\.weight does not fit into torch.float16; use bfloat16"):
        convert(tmp_path / "large.safetensors", out, dtype=torch.float16, overrides=TOLD)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["large.safetensors"]


def test_a_description_reads_no_weights(tmp_path):
    """A sparse file with the shape of a 2.2 GB checkpoint is described at once."""
    shapes = published_shapes("lsun_bedroom")
    entries, offset = {}, 0
    for name, shape in shapes.items():
        nbytes = 4 * torch.Size(shape).numel()
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    path = tmp_path / "lsun_bedroom.safetensors"
    path.write_bytes(header(entries))
    os.truncate(path, path.stat().st_size + offset)
    found = describe(path)
    assert found.names == ("lsun_bedroom",) and found.undecided is None and found.nbytes == 2211256344
    assert found.stored == ("float32",) and found.facts["image_size"] == 256
    listed = {row.file.name: row.found for row in models([tmp_path])}
    assert listed["lsun_bedroom"] == [path] and listed["lsun_cat"] == []
    assert describe(ADM).undecided and describe(ADM, overrides=TOLD).undecided is None


def test_the_list_of_published_files():
    rows = {row.file.name: row.file for row in models()}
    assert len(rows) == 30
    assert rows["edm-imagenet-64x64-cond-adm"].licence == "CC BY-NC-SA 4.0"
    for file in rows.values():
        assert file.url.startswith("https://") and file.url.rsplit("/", 1)[1].rsplit(".", 1)[0] == file.name
    with pytest.raises(InputError, match="no such folder"):
        models(["/nowhere"])


def test_the_readme_lists_every_published_file_and_preset():
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    for file in published().values():
        assert f"[{file.name}]({file.url})" in readme and f"{file.nbytes / 1e6:,.0f} MB" in readme
    for name in PRESETS:
        assert f"`{name}`" in readme


def test_presets_are_the_papers_settings():
    assert len(PRESETS) == 8
    bedroom = PRESETS["bedroom-ddim-ssi"]
    assert bedroom.skip() == pytest.approx(0.1405, abs=5e-4) and len(bedroom.sigmas()) == 501
    assert PRESETS["imagenet-ddim-ssi"].skip() == pytest.approx(0.023, abs=5e-4)
    edm = PRESETS["bedroom-edm-ssi"]
    assert edm.skip() == 0.1 and len(edm.sigmas()) == 201
    assert int((edm.sigmas()[:-1] < 0.1).sum()) == 43
    assert all(preset.model in published() for preset in PRESETS.values())
    assert {p.skip() for name, p in PRESETS.items() if name.endswith("base")} == {0.0}


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
