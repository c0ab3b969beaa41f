"""The denoising U-Net: reads a picture, a mask half coarse and half fine, and the step.

B batch, C channels, L positions. Module names are those of the published checkpoints, so that
their keys are ours. Source: Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic
Models", ICML 2021; Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS
2021; SegRefiner section 2.
"""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, group_norm, interpolate, scaled_dot_product_attention

RGB_MEAN = (123.675, 116.28, 103.53)  # ImageNet, 0..255 scale; SegRefiner section 3
RGB_STD = (58.395, 57.12, 57.375)
_NORM_GROUPS = 32  # openai/improved-diffusion:improved_diffusion/nn.py


@dataclass(frozen=True, kw_only=True)
class UNetSpec:
    """How wide, how deep, and where attention looks.

    Attributes:
        model_channels: width of the finest level; a multiple of 32.
        channel_mult: width of each level in `model_channels`; each level halves the size.
        num_res_blocks: residual blocks per level (one more on the way up).
        attention_strides: strides of the levels that have attention.
        num_heads: of the attention on the way down and in the middle.
        num_heads_upsample: of the attention on the way up; -1 takes `num_heads`.
        learn_time_embd: the step is looked up in a table; otherwise it is made of sines.
        use_scale_shift_norm: the step scales and shifts; otherwise it is added.
        dropout: in the residual blocks.
        num_timesteps: rows of the table.
        in_channels: RGB and the mask.
        out_channels: one logit of foreground.
    """

    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    num_res_blocks: int = 2
    attention_strides: tuple[int, ...] = (16, 32)
    num_heads: int = 4
    num_heads_upsample: int = -1
    learn_time_embd: bool = True
    use_scale_shift_norm: bool = False
    dropout: float = 0.0
    num_timesteps: int = 6
    in_channels: int = 4
    out_channels: int = 1

    @property
    def time_channels(self) -> int:
        """Channels of the step's embedding."""
        return 4 * self.model_channels

    @property
    def stride(self) -> int:
        """Height and width of the input must be multiples of this."""
        return 1 << (len(self.channel_mult) - 1)


class DenoisingUNet(nn.Module):
    """Predicts logits of the clean mask from RGB, the mask at step t, and t."""

    rgb_mean: Tensor
    rgb_std: Tensor

    def __init__(self, spec: UNetSpec) -> None:
        super().__init__()
        self.spec = spec
        width, embedded = spec.model_channels, spec.time_channels
        if spec.learn_time_embd:
            self.time_embed: nn.Module = nn.Embedding(spec.num_timesteps, embedded)
        else:
            self.time_embed = nn.Sequential(
                nn.Linear(width, embedded), nn.SiLU(), nn.Linear(embedded, embedded)
            )
        self.input_blocks, skip_channels = _way_down(spec)
        bottom = skip_channels[-1]
        self.middle_block = Steps(
            ResBlock(bottom, bottom, spec),
            AttentionBlock(bottom, spec.num_heads),
            ResBlock(bottom, bottom, spec),
        )
        self.output_blocks = _way_up(spec, skip_channels)
        self.out = nn.Sequential(
            Norm(width), nn.SiLU(), nn.Conv2d(width, spec.out_channels, 3, padding=1)
        )
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (RGB_MEAN, RGB_STD))
        self.register_buffer("rgb_mean", mean, persistent=False)
        self.register_buffer("rgb_std", std, persistent=False)

    def normalise(self, rgb_B3SS: Tensor) -> Tensor:
        """Brings RGB in 0..255 to mean 0 and deviation 1."""
        return (rgb_B3SS - self.rgb_mean) * (1 / self.rgb_std)

    def forward(self, input_B4SS: Tensor, step_B: Tensor) -> Tensor:
        """Returns `(B, 1, S, S)` logits.

        Args:
            input_B4SS: normalised RGB and a mask in [0, 1]; S is a multiple of `spec.stride`.
            step_B: int64 steps, 0 to `num_timesteps - 1`.
        """
        embedded = self.embed(step_B)
        x, skips = input_B4SS, []
        for block in self.input_blocks:
            x = block(x, embedded)
            skips.append(x)
        x = self.middle_block(x, embedded)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), embedded)
        logits: Tensor = self.out(x)
        return logits

    def freeze(self) -> None:
        """Trades the way back for speed: the same answer, but nothing can be trained any more."""
        self.eval().requires_grad_(False)
        after_norms = [self.out]
        for module in self.modules():
            if isinstance(module, ResBlock):
                after_norms += [module.in_layers, module.out_layers]
            elif isinstance(module, Upsample):
                module.freeze()
        for layer in itertools.chain(*after_norms):
            if isinstance(layer, nn.SiLU):
                layer.inplace = True

    def embed(self, step_B: Tensor) -> Tensor:
        """Returns `(B, 4 * model_channels)`."""
        if self.spec.learn_time_embd:
            looked_up: Tensor = self.time_embed(step_B)
            return looked_up
        made: Tensor = self.time_embed(embed_in_sines(step_B, self.spec.model_channels))
        return made


class Steps(nn.Sequential):
    """A sequence in which residual blocks are also told the step."""

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:  # type: ignore[override]
        """Hands the embedding to whoever wants it."""
        for module in self:
            x = module(x, embedded) if isinstance(module, ResBlock) else module(x)
        return x


class Norm(nn.GroupNorm):
    """Group norm that sums in float32 whatever comes in."""

    def __init__(self, channels: int) -> None:
        super().__init__(_NORM_GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps shape and dtype."""
        if x.dtype == torch.float32:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            if x.device.type == "cpu":  # its kernel takes half floats and sums in float32
                return group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
            normed = group_norm(x.float(), self.num_groups, self.weight, self.bias, self.eps)
            return normed.to(x.dtype)


class ResBlock(nn.Module):
    """Two 3x3 convolutions, with the step coming in between them, around which the input passes."""

    def __init__(self, channels_in: int, channels_out: int, spec: UNetSpec) -> None:
        super().__init__()
        self.uses_scale_shift = spec.use_scale_shift_norm
        self.in_layers = nn.Sequential(
            Norm(channels_in), nn.SiLU(), nn.Conv2d(channels_in, channels_out, 3, padding=1)
        )
        told = 2 * channels_out if self.uses_scale_shift else channels_out
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(spec.time_channels, told))
        self.out_layers = nn.Sequential(
            Norm(channels_out),
            nn.SiLU(),
            nn.Dropout(spec.dropout),
            nn.Conv2d(channels_out, channels_out, 3, padding=1),
        )
        self.skip_connection: nn.Module = nn.Identity()
        if channels_in != channels_out:
            self.skip_connection = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Returns `(B, channels_out, H, W)`."""
        h = self.in_layers(x)
        told = self.emb_layers(embedded)[..., None, None]
        if self.uses_scale_shift:
            scale, shift = told.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h.add_(told))
        summed: Tensor = h.add_(self.skip_connection(x))
        return summed


class AttentionBlock(nn.Module):
    """Self-attention over all positions; each head owns one run of q, k and v channels."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = Norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape."""
        flat = x.flatten(2)
        qkv = self.qkv(self.norm(flat)).unflatten(1, (self.num_heads, 3, -1))
        q, k, v = qkv.transpose(-1, -2).unbind(dim=2)  # (B, heads, L, channels of a head)
        seen = scaled_dot_product_attention(q, k, v).transpose(-1, -2).flatten(1, 2)
        summed: Tensor = flat + self.proj_out(seen)
        return summed.view_as(x)


class Downsample(nn.Module):
    """Halves height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `(B, C, H/2, W/2)`."""
        halved: Tensor = self.op(x)
        return halved


class Upsample(nn.Module):
    """Doubles height and width by repeating pixels, and convolves.

    A 3x3 kernel sees only 2x2 different pixels after the doubling. Once frozen, the taps that see
    the same pixel are added up, and the convolution runs before the doubling, with one kernel for
    each of the 2x2 pixels to come: 4 taps each where there were 9.
    """

    merged: Tensor | None

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.register_buffer("merged", None, persistent=False)

    def freeze(self) -> None:
        """Adds up the taps: `(4C, C, 2, 2)`, the pixels to come in the order of reading."""
        halves = [merge_taps(half, dim=3) for half in merge_taps(self.conv.weight.detach(), dim=2)]
        kernels = torch.cat([kernel for half in halves for kernel in half])
        self.merged = kernels.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `(B, C, 2H, 2W)`."""
        if self.merged is None:
            doubled: Tensor = self.conv(interpolate(x, scale_factor=2.0, mode="nearest"))
            return doubled
        assert self.conv.bias is not None
        height, width = x.shape[-2:]
        parts = conv2d(x, self.merged, self.conv.bias.repeat(4), padding=1)
        parts = parts.view(len(x), 2, 2, -1, height + 1, width + 1)
        woven = parts.new_empty(len(x), height, 2, width, 2, parts.shape[3])
        for row in (0, 1):
            for column in (0, 1):
                part = parts[:, row, column, :, row : row + height, column : column + width]
                woven[:, :, row, :, column] = part.permute(0, 2, 3, 1)
        woven = woven.view(len(x), 2 * height, 2 * width, -1)
        return woven.permute(0, 3, 1, 2)


def merge_taps(kernel: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Merges three taps into two, for the first and for the second pixel of a doubled one."""
    first, middle, last = (kernel.narrow(dim, i, 1) for i in range(3))
    return torch.cat([first, middle + last], dim), torch.cat([first + middle, last], dim)


def embed_in_sines(step_B: Tensor, channels: int) -> Tensor:
    """Embeds steps as cosines and sines of falling frequency: `(B, channels)` float32.

    Source: Vaswani et al., "Attention Is All You Need", 2017; openai/improved-diffusion.
    """
    half = channels // 2
    falling = torch.arange(half, dtype=torch.float32, device=step_B.device) / half
    angles = step_B[:, None].float() * torch.exp(-math.log(10000.0) * falling)
    embedded = torch.cat([angles.cos(), angles.sin()], dim=1)
    return nn.functional.pad(embedded, (0, channels - 2 * half))


def _way_down(spec: UNetSpec) -> tuple[nn.ModuleList, list[int]]:
    """Returns the encoder and the channels of each of its outputs."""
    channels = spec.model_channels
    blocks = [Steps(nn.Conv2d(spec.in_channels, channels, 3, padding=1))]
    given = [channels]
    for level, factor in enumerate(spec.channel_mult):
        for _ in range(spec.num_res_blocks):
            wider = factor * spec.model_channels
            layers: list[nn.Module] = [ResBlock(channels, wider, spec)]
            if 2**level in spec.attention_strides:
                layers.append(AttentionBlock(wider, spec.num_heads))
            blocks.append(Steps(*layers))
            channels = wider
            given.append(channels)
        if level < len(spec.channel_mult) - 1:
            blocks.append(Steps(Downsample(channels)))
            given.append(channels)
    return nn.ModuleList(blocks), given


def _way_up(spec: UNetSpec, skip_channels: list[int]) -> nn.ModuleList:
    heads = spec.num_heads if spec.num_heads_upsample == -1 else spec.num_heads_upsample
    skips, channels, blocks = list(skip_channels), skip_channels[-1], []
    for level, factor in reversed(list(enumerate(spec.channel_mult))):
        for i in range(spec.num_res_blocks + 1):
            narrower = factor * spec.model_channels
            layers: list[nn.Module] = [ResBlock(channels + skips.pop(), narrower, spec)]
            if 2**level in spec.attention_strides:
                layers.append(AttentionBlock(narrower, heads))
            if level and i == spec.num_res_blocks:
                layers.append(Upsample(narrower))
            blocks.append(Steps(*layers))
            channels = narrower
    return nn.ModuleList(blocks)
