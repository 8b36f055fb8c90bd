"""Tiny pipelines at random weights, built by diffusers itself and saved as it saves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

ROWS = 2


class Tiny(NamedTuple):
    """A network of theirs, its scheduler, what it is told, the shape of a sample, and how they call it."""

    part: str
    network: Any
    scheduler: Any
    condition: dict[str, Tensor]
    shape: tuple[int, ...]
    call: Callable[[Any, Tensor, Tensor], Tensor]

    def save(self, folder: Path) -> Path:
        self.network.save_pretrained(folder / self.part)
        self.scheduler.save_pretrained(folder / "scheduler")
        return folder


def _normal(*shape: int) -> Tensor:
    return torch.randn(ROWS, *shape, generator=torch.Generator().manual_seed(sum(shape)))


def _unet(scheduler: Any) -> Tiny:
    from diffusers import UNet2DModel

    net = UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=4,
    )  # fmt: skip
    return Tiny("unet", net, scheduler, {}, (3, 8, 8), lambda n, x, step: n(x, step).sample)


def ddpm() -> Tiny:
    from diffusers import DDIMScheduler

    return _unet(DDIMScheduler(clip_sample=False))


def v_cosine() -> Tiny:
    from diffusers import DDIMScheduler

    return _unet(DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False, timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    ))  # fmt: skip


def stable_diffusion() -> Tiny:
    from diffusers import DDIMScheduler, UNet2DConditionModel

    net = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=12, attention_head_dim=2,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    context = _normal(5, 12)
    return Tiny("unet", net, scheduler, {"context": context}, (4, 8, 8),
                lambda n, x, step: n(x, step, encoder_hidden_states=context).sample)  # fmt: skip


def stable_diffusion_xl() -> Tiny:
    from diffusers import EulerDiscreteScheduler, UNet2DConditionModel

    net = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=12, attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=4, projection_class_embeddings_input_dim=32, transformer_layers_per_block=(1, 2),
    )  # fmt: skip
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    )
    context, pooled, sizes = _normal(5, 12), _normal(8), torch.tensor([[64.0, 64, 0, 0, 64, 64]] * ROWS)
    told = {"text_embeds": pooled, "time_ids": sizes}
    return Tiny("unet", net, scheduler, {"context": context, "pooled": pooled, "sizes": sizes}, (4, 8, 8),
                lambda n, x, step: n(x, step, encoder_hidden_states=context, added_cond_kwargs=told).sample)  # fmt: skip


def dit() -> Tiny:
    from diffusers import DDIMScheduler, DiTTransformer2DModel

    net = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8, patch_size=2,
        num_embeds_ada_norm=1000, norm_num_groups=4,
    )  # fmt: skip
    label = torch.tensor([3, 7])
    return Tiny("transformer", net, DDIMScheduler(clip_sample=False), {"label": label}, (4, 8, 8),
                lambda n, x, step: n(x, timestep=step, class_labels=label).sample[:, :4])  # fmt: skip


def pixart() -> Tiny:
    from diffusers import DDIMScheduler, PixArtTransformer2DModel

    net = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8, patch_size=2,
        cross_attention_dim=16, caption_channels=12, use_additional_conditions=False,
    )  # fmt: skip
    context = _normal(5, 12)
    none = {"resolution": None, "aspect_ratio": None}
    return Tiny("transformer", net, DDIMScheduler(clip_sample=False), {"context": context}, (4, 8, 8), lambda n, x, step: n(
        x, encoder_hidden_states=context, timestep=step, added_cond_kwargs=none).sample[:, :4])  # fmt: skip


def stable_diffusion_3() -> Tiny:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

    net = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, caption_projection_dim=16, pooled_projection_dim=8, pos_embed_max_size=8,
    )  # fmt: skip
    context, pooled = _normal(5, 12), _normal(8)
    return Tiny("transformer", net, FlowMatchEulerDiscreteScheduler(shift=3.0), {"context": context, "pooled": pooled},
                (4, 8, 8), lambda n, x, step: n(
        x, encoder_hidden_states=context, pooled_projections=pooled, timestep=step).sample)  # fmt: skip


def flux() -> Tiny:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    net = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=12, pooled_projection_dim=8, guidance_embeds=True, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0, base_image_seq_len=256)
    context, pooled, strength = _normal(5, 12), _normal(8), torch.full((ROWS,), 3.5)

    def call(n: Any, x: Tensor, step: Tensor) -> Tensor:
        ids = FluxPipeline._prepare_latent_image_ids(ROWS, 4, 4, "cpu", torch.float32)
        packed = FluxPipeline._pack_latents(x, ROWS, 4, 8, 8)
        answer = n(
            hidden_states=packed, timestep=step / 1000, guidance=strength, pooled_projections=pooled,
            encoder_hidden_states=context, txt_ids=torch.zeros(5, 3), img_ids=ids,
        ).sample  # fmt: skip
        found: Tensor = FluxPipeline._unpack_latents(answer, 64, 64, 8)
        return found

    return Tiny(
        "transformer", net, scheduler, {"context": context, "pooled": pooled, "guidance": strength}, (4, 8, 8), call
    )


def sana() -> Tiny:
    from diffusers import FlowMatchEulerDiscreteScheduler, SanaTransformer2DModel

    net = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=2, num_cross_attention_heads=2,
        cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=12, sample_size=8, patch_size=1,
    )  # fmt: skip
    context = _normal(5, 12)
    return Tiny("transformer", net, FlowMatchEulerDiscreteScheduler(shift=3.0), {"context": context}, (4, 8, 8),
                lambda n, x, step: n(x, encoder_hidden_states=context, timestep=step).sample)  # fmt: skip


EVERY = {each.__name__: each for each in (
    ddpm, v_cosine, stable_diffusion, stable_diffusion_xl, dit, pixart, stable_diffusion_3, flux, sana,
)}  # fmt: skip


def made(name: str, seed: int = 0) -> Tiny:
    """One of them, its weights a function of its name and the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(name) + 100 * seed)
        found = EVERY[name]()
        for weight in found.network.parameters():  # what begins at nought would hide mistakes
            if not bool(weight.any()):
                torch.nn.init.normal_(weight, std=0.05)
    found.network.eval().requires_grad_(False)
    return found


def finest(one: Tiny) -> Any:
    """Their sampler that stops at every step of training."""
    from diffusers import DDIMScheduler

    if "FlowMatch" in type(one.scheduler).__name__:
        return one.scheduler
    return DDIMScheduler.from_config(
        one.scheduler.config, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True
    )


@torch.no_grad()
def theirs(one: Tiny, z: Tensor, steps: int, scheduler: Any = None) -> Tensor:
    """Their sampler from this noise."""
    import math

    scheduler = scheduler or one.scheduler
    if getattr(scheduler.config, "use_dynamic_shifting", False):
        c = scheduler.config
        mu = c.base_shift + (c.max_shift - c.base_shift) * (16 - c.base_image_seq_len) / (
            c.max_image_seq_len - c.base_image_seq_len
        )
        scheduler.set_timesteps(sigmas=[1 - i * (1 - 1 / steps) / (steps - 1) for i in range(steps)], mu=mu)
    else:
        scheduler.set_timesteps(steps)
    x = z * float(getattr(scheduler, "init_noise_sigma", 1.0)) if hasattr(scheduler, "init_noise_sigma") else z
    for step in scheduler.timesteps:
        shown = scheduler.scale_model_input(x, step) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(one.call(one.network, shown, step.expand(len(x))), step, x, return_dict=False)[0]
    assert math.isfinite(float(x.abs().max()))
    return x
