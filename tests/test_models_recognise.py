"""What a checkpoint is: from its tensors, its name, and what one is told."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from checkpoints import ADM, CONSISTENCY, DATA, EDM, NVLABS, TOLD, X, published_shapes, shapes_only
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ssi_core.errors import InputError
from ssi_core.inversion import invert
from ssi_core.models import load_checkpoint
from ssi_core.models.adm import UNet, UNetConfig
from ssi_core.models.arguments import TABLE
from ssi_core.models.container import open_archive
from ssi_core.models.edm import ARCHITECTURES, EDMNetConfig
from ssi_core.models.family import Tensors
from ssi_core.models.load import skeleton
from ssi_core.models.recognise import FAMILIES, published, recognise
from ssi_core.process import DiscreteVP
from ssi_core.schedule import karras_sigmas

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


HUGE = [2**31, 2**40, 2**62, 2**63]


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
        shapes[name] = tuple(data.draw(st.lists(st.integers(0, 70) | st.sampled_from(HUGE), max_size=5)))
    if any(n in HUGE for name, shape in shapes.items() for n in shape if name == "u" or name.endswith("_filter")):
        return  # loading asks for no value of a tensor that large
    tensors = Tensors(shapes, lambda name: torch.full(shapes[name], 1 / max(1, math.prod(shapes[name]))))
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
        ({"model_channels": 32}, "given model_channels=32, but its tensors have model_channels=16"),
        ({"num_channels": 32}, "given model_channels=32"),
        ({"channel_mult": "1,2,3"}, "channel_mult"),
        ({"class_cond": True}, "num_classes"),
        ({"learn_sigma": False}, "given out_channels=3"),
        ({"attention_resolutions": (1,)}, "attention_resolutions"),
        ({"use_scale_shift_norm": False}, "use_scale_shift_norm"),
        ({"resblock_updown": False}, "resblock_updown"),
        ({"num_res_block": 1}, "num_res_block: no argument of a guided-diffusion model"),
        ({"distillation": True}, "distillation: no argument"),
        ({"channel_mult": "one"}, "takes a list of numbers"),
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
