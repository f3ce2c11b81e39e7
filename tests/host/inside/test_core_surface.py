"""What `nodes/host/` needs of core beyond its nodes: a core that changed any of it fails here first, by name."""

import ast
import copy
import importlib
import inspect
from functools import reduce
from pathlib import Path

import comfy.hooks
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.patcher_extension
import comfy.samplers
import comfy.supported_models
import comfy_execution.utils
import latent_preview
import pytest
import torch
from conftest import PACK
from models import FAMILIES, RARE, gaussian_model

SELF = "self"
CALLED = {
    # name: how we call it (positional, by name). Methods are called with SELF first.
    "comfy.conds.CONDRegular": (("cond",), {}),
    "comfy.latent_formats.LatentFormat.process_in": ((SELF, "latent"), {}),
    "comfy.latent_formats.LatentFormat.process_out": ((SELF, "latent"), {}),
    "comfy.model_base.BaseModel": (("config",), {"device": 0, "unet_model": 0}),
    "comfy.model_base.BaseModel.apply_model": ((SELF, "x", "t"), {"exact_sigma": 0}),
    "comfy.model_base.BaseModel.extra_conds": ((SELF,), {"noise": 0, "device": 0, "prompt_type": 0, "cross_attn": 0}),
    "comfy.model_base.BaseModel.process_timestep": ((SELF, "timestep"), {"exact_sigma": 0}),
    "comfy.model_management.get_free_memory": (("device",), {}),
    "comfy.model_management.get_torch_device": ((), {}),
    "comfy.model_management.intermediate_device": ((), {}),
    "comfy.model_management.is_device_cpu": (("device",), {}),
    "comfy.model_management.throw_exception_if_processing_interrupted": ((), {}),
    "comfy.model_management.unet_dtype": ((), {"model_params": 0, "supported_dtypes": []}),
    "comfy.model_management.unet_manual_cast": (("dtype", "device", []), {}),
    "comfy.model_management.unet_offload_device": ((), {}),
    "comfy.model_patcher.ModelPatcher": (("model",), {"load_device": 0, "offload_device": 0}),
    "comfy.model_patcher.ModelPatcher.get_model_object": ((SELF, "name"), {}),
    "comfy.model_patcher.create_model_options_clone": (({},), {}),
    "comfy.ops.pick_operations": (("stored", "computed"), {}),
    "comfy.patcher_extension.add_wrapper_with_key": (("kind", "key", "wrapper", {}), {"is_model_options": True}),
    "comfy.samplers.CFGGuider": (("model",), {}),
    "comfy.samplers.CFGGuider.inner_set_conds": ((SELF, {}), {}),
    "comfy.samplers.CFGGuider.sample": (
        (SELF, "noise", "latent", "sampler", "sigmas"),
        {"denoise_mask": 0, "callback": 0, "disable_pbar": 0, "seed": 0},
    ),
    "comfy.samplers.CFGGuider.set_cfg": ((SELF, 1.0), {}),
    "comfy.samplers.CFGGuider.set_conds": ((SELF, "positive", "negative"), {}),
    "comfy.samplers.KSamplerX0Inpaint": (("model_wrap", "sigmas"), {}),
    "comfy.samplers.KSamplerX0Inpaint.__call__": (
        (SELF, "x", "sigma"),
        {"denoise_mask": 0, "model_options": {}, "seed": 0},
    ),
    "comfy.samplers.Sampler": ((), {}),
    "comfy.samplers.Sampler.max_denoise": ((SELF, "model_wrap", "sigmas"), {}),
    "comfy.samplers.calculate_sigmas": (("model_sampling", "name", 4), {}),
    "comfy.sd.VAE": ((), {"sd": {}, "dtype": 0}),
    "comfy.supported_models_base.BASE": (({},), {}),
    "comfy.supported_models_base.BASE.set_inference_dtype": ((SELF, "dtype", None), {}),
    "comfy.utils.ProgressBar": ((10,), {}),
    "comfy.utils.ProgressBar.update_absolute": ((SELF, 1, 10), {}),
    "comfy_execution.graph_utils.ExecutionBlocker": (("why",), {}),
    "comfy_execution.utils.get_executing_context": ((), {}),
    "folder_paths.add_model_folder_path": (("name", "path"), {}),
    "folder_paths.get_filename_list": (("folder",), {}),
    "folder_paths.get_folder_paths": (("folder",), {}),
    "folder_paths.get_full_path": (("folder", "file"), {}),
    "folder_paths.get_input_directory": ((), {}),
    "folder_paths.get_output_directory": ((), {}),
    "folder_paths.get_save_image_path": (("prefix", "folder"), {}),
    "latent_preview.prepare_callback": (("model", 10), {}),
    "server.PromptServer.send_progress_text": ((SELF, "text", "node"), {}),
}
THERE = [
    "comfy.latent_formats.LatentFormat",
    "comfy.latent_formats.LatentFormat.latent_channels",
    "comfy.latent_formats.LatentFormat.latent_dimensions",
    "comfy.latent_formats.LatentFormat.latent_rgb_factors",
    "comfy.latent_formats.LatentFormat.spacial_downscale_ratio",
    "comfy.model_sampling.X0",
    "comfy.patcher_extension.WrappersMP.PREDICT_NOISE",
    "comfy.samplers.SCHEDULER_NAMES",
    "comfy.supported_models_base.BASE.latent_format",
    "comfy.supported_models_base.BASE.memory_usage_factor",
    "comfy.utils.PROGRESS_BAR_ENABLED",
    "folder_paths.models_dir",
]
WHERE_IT_EXISTS = {"comfy.model_patcher.CoreModelPatcher": "comfy.model_patcher.ModelPatcher"}
"""A core without it is served by the other, and both are called alike."""


def found(name):
    """The object of a dotted name; AttributeError names the first part that is gone."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError as error:
            if error.name is not None and name.startswith(error.name):
                continue
            raise
        return reduce(getattr, parts[count:], module)
    raise AttributeError(f"no module {parts[0]}")


def lacks(name, call=None):
    """A sentence on what this core lacks of a name that we rely on; "" where nothing is."""
    try:
        it = found(name)
    except AttributeError as error:
        return f"core has no {name} any more ({error}); nodes/host/ uses it"
    if call is not None:
        try:
            inspect.signature(it).bind(*call[0], **call[1])
        except TypeError as error:
            return f"core's {name}{inspect.signature(it)} cannot be called as nodes/host/ calls it: {error}"
    return ""


@pytest.mark.parametrize("name", [*CALLED, *THERE])
def test_core_still_has(name):
    said = lacks(name, CALLED.get(name))
    assert not said, said


@pytest.mark.parametrize(("name", "other"), WHERE_IT_EXISTS.items())
def test_core_still_has_one_of(name, other):
    said = lacks(other if lacks(name) else name, CALLED[other])
    assert not said, said


def test_what_is_gone_or_changed_is_said():
    assert "no comfy.samplers.CFGGuider.gone any more" in lacks("comfy.samplers.CFGGuider.gone")
    assert "no comfy.gone.thing any more" in lacks("comfy.gone.thing")
    assert "unexpected keyword argument 'other'" in lacks("comfy.samplers.CFGGuider", (("model",), {"other": 0}))


def names_used():
    """Dotted names of core in `nodes/host/`, the whole chain of each."""
    roots = ("comfy", "folder_paths", "latent_preview")
    for path in sorted((Path(PACK).resolve() / "nodes/host").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("comfy"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            chain, inner = [], node
            while isinstance(inner, ast.Attribute):
                chain.append(inner.attr)
                inner = inner.value
            if chain and isinstance(inner, ast.Name) and inner.id in roots:
                yield ".".join([inner.id, *reversed(chain)])


def test_the_list_is_whole():
    listed = {*CALLED, *THERE, *WHERE_IT_EXISTS}
    modules = {name.rpartition(".")[0] for name in listed}
    used = set(names_used())
    assert "comfy.samplers.KSamplerX0Inpaint" in used
    assert used - listed - modules == set(), "nodes/host/ uses more of core than is listed here"


def test_the_masked_denoiser_reads_its_latent_and_noise():
    """Set from outside, as core does it: nothing but their names says so."""
    latent, noise, mask = torch.full((1, 4, 2, 2), 3.0), torch.full((1, 4, 2, 2), 5.0), torch.zeros(1, 4, 2, 2)
    shown, asked = [], {}

    class Wrap:
        inner_model = property(lambda self: self)

        def __call__(self, x, sigma, model_options, seed):
            shown.append(x)
            return torch.zeros_like(x)

        def scale_latent_inpaint(self, *, noise, latent_image, **more):
            return noise + latent_image

    model = comfy.samplers.KSamplerX0Inpaint(Wrap(), torch.tensor([1.0, 0.0]))
    model.latent_image, model.noise = latent, noise
    options = {"denoise_mask_function": lambda sigma, mask, extra_options: asked.update(extra_options) or mask}
    out = model(0 * latent, torch.ones(1), denoise_mask=mask, model_options=options, seed=0)
    assert torch.equal(out, latent), "KSamplerX0Inpaint does not keep its latent_image outside a mask"
    assert torch.equal(shown[0], latent + noise), "KSamplerX0Inpaint does not show its noise outside a mask"
    assert torch.equal(asked["sigmas"], torch.tensor([1.0, 0.0])), "mask functions are not told the sigmas"


def test_core_calls_samplers_as_ours_expect():
    """By position: (model_wrap, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar)."""
    wanted = ["self", "model_wrap", "sigmas", "extra_args", "callback", "noise", "latent_image", "denoise_mask"]
    names = list(inspect.signature(comfy.samplers.KSAMPLER.sample).parameters)
    assert names == [*wanted, "disable_pbar"], "the arguments of core's own Sampler.sample have changed"
    callback = latent_preview.prepare_callback(gaussian_model("eps"), 3)
    assert len(inspect.signature(callback).parameters) == 4, "callbacks are not (step, denoised, x, steps) any more"


def test_a_sampler_sees_the_model_s_levels():
    """model_wrap.inner_model.model_sampling is where `EngineSampler.sample` takes the process from."""
    seen = []

    class Spy(comfy.samplers.Sampler):
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, *args, **kwargs):
            seen.append((model_wrap.inner_model.model_sampling, extra_args))
            return noise

    model = gaussian_model("eps")
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": [[torch.zeros(1, 1, 1), {}]]})
    guider.sample(torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8), Spy(), torch.tensor([1.0, 0.0]), seed=0)
    ((sampling, extra),) = seen
    assert sampling is model.get_model_object("model_sampling"), "model_wrap.inner_model is not the model any more"
    assert set(extra) <= {"model_options", "seed"}, "samplers are given more than KSamplerX0Inpaint takes"
    assert guider.model_patcher is model and isinstance(guider.model_patcher.model_options, dict)


def test_a_guider_s_prompts_and_evaluations_are_where_morphs_look():
    """`original_conds` is read and replaced in a copy; a wrapper in the options sees every evaluation."""
    guider = comfy.samplers.CFGGuider(gaussian_model("eps"))
    prompt = torch.zeros(1, 1, 1)
    guider.set_conds([[prompt, {"strength": 2.0}]], [[prompt, {}]])
    assert set(guider.original_conds) == {"positive", "negative"}, "a guider keeps its prompts elsewhere"
    (facts,), options = guider.original_conds["positive"], copy.deepcopy(guider.model_options)
    assert facts["cross_attn"] is prompt and facts["strength"] == 2.0
    asked = []

    def counted(execute, *args, **kwargs):
        asked.append(args[0].shape)
        return execute(*args, **kwargs)

    guider.model_options = comfy.model_patcher.create_model_options_clone(guider.model_options)
    kind = comfy.patcher_extension.WrappersMP.PREDICT_NOISE
    comfy.patcher_extension.add_wrapper_with_key(kind, "test", counted, guider.model_options, is_model_options=True)
    latent, sampler = torch.zeros(2, 4, 8, 8), comfy.samplers.sampler_object("euler")
    guider.sample(latent + 1, latent, sampler, torch.tensor([1.0, 0.5, 0.0]), seed=0)
    assert asked == [latent.shape] * 2
    assert guider.model_patcher.model_options == options, "the model's own options were changed"
    assert sampler.sampler_function.__name__ == "sample_euler", "samplers do not tell their names any more"


@pytest.mark.parametrize("family", [*FAMILIES, *RARE])
def test_a_model_s_sampling_has_what_a_process_needs(family):
    model = gaussian_model(family)
    sampling = model.get_model_object("model_sampling")
    for name in ("sigma_min", "sigma_max", "timestep", "sigma", "noise_scaling", "inverse_noise_scaling"):
        assert hasattr(sampling, name), f"{type(sampling).__mro__} has no {name} any more"
    one = torch.ones(1)
    inspect.signature(sampling.noise_scaling).bind(one, one, one, True)
    inspect.signature(sampling.inverse_noise_scaling).bind(one, one)
    for name in ("process_latent_in", "process_latent_out", "latent_format"):
        assert model.get_model_object(name) is not None
    assert model.model.model_config is not None


def test_hooks_and_the_node_at_work_are_read_by_these_names():
    group, hook = comfy.hooks.HookGroup(), comfy.hooks.Hook()
    group.add(hook)
    hook.hook_keyframe.add(comfy.hooks.HookKeyframe(strength=1.0))
    assert group.hooks == [hook] and len(hook.hook_keyframe.keyframes) == 1
    assert "node_id" in comfy_execution.utils.ExecutionContext._fields
    assert "clip_target" in vars(comfy.supported_models.SD15), "text models are told by their clip_target"
