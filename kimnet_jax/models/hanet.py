"""HANet: refinement of pose sequences (Jin et al., "Kinematic-aware Hierarchical Attention Network for Human Pose Estimation in
Videos", WACV 2023, arXiv 2211.15868), after its released code."""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype

from kimnet_jax.core.config import check_ranges
from kimnet_jax.core.sequence import interpolate, sampled_frames
from kimnet_jax.models.layers import CHANNELS, keys

Array = jax.Array
MemoryMask = Literal['masked', 'released']
Activation = Literal['leaky_relu', 'relu', 'gelu']
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {  # with PyTorch's slope and PyTorch's exact gelu
    'leaky_relu': nnx.leaky_relu,
    'relu': nnx.relu,
    'gelu': lambda x: nnx.gelu(x, approximate=False),
}
_EXPANSION = 4  # of the feed-forward networks
_xavier = nnx.initializers.xavier_uniform()


@dataclasses.dataclass(frozen=True)
class HANetConfig:
    """Attributes:
    channels: C, coordinates of a frame: joints * 2, joints * 3, or 24 * 6 (SMPL's rotations).
    interval: N, every N-th frame is sampled.
    window: Q, intervals of a window, which has L = N * Q + 1 frames.
    width: d, features of the first encoder level and of the decoder; even, and a multiple of `heads`.
    levels: of the encoder, each twice as wide as the one before; layers of the decoder.
    heads: of every attention.
    dropout: rate, on attention weights and on what a layer adds.
    activation: of the feed-forward networks.
    pre_norm: LayerNorm before what a layer adds, not after it.
    memory_mask: `masked` hides the frames that were not sampled from the decoder's attention to the encoder's output;
        `released` adds 1 to their logits instead, the effect of an integer mask in the PyTorch that the release ran on.
    """

    channels: int = 30
    interval: int = 5
    window: int = 2
    width: int = 64
    levels: int = 3
    heads: int = 4
    dropout: float = 0.0
    activation: Activation = 'leaky_relu'
    pre_norm: bool = False
    memory_mask: MemoryMask = 'masked'

    def __post_init__(self) -> None:
        check_ranges('model', self, channels=(1, 100_000), interval=(1, 1000), window=(1, 1000), width=CHANNELS, levels=(1, 10))
        check_ranges('model', self, heads=(1, 1024), dropout=(0, 0.99))

    @property
    def length(self) -> int:
        """L, frames of a window."""
        return self.interval * self.window + 1


PRESETS = {
    'small': HANetConfig(interval=3, window=4, pre_norm=True),  # reads every frame, see docs/refine.md
    'tiny': HANetConfig(interval=2, window=2, width=8, levels=1),  # for tests
    'jhmdb_2d': HANetConfig(width=256, levels=5),  # this one and those below: the release's
    'h36m_3d': HANetConfig(51, window=20, levels=5, pre_norm=True),
    'pw3d': HANetConfig(42, window=20, width=128, levels=5, pre_norm=True),
    'aist_smpl': HANetConfig(144, interval=10, window=10, width=32, levels=5),
}


class Refinement(NamedTuple):
    """Poses [B, L, C] float32: `final` of the decoder, `refined` of the encoder (meant at the sampled frames only)."""

    final: Array
    refined: Array


class Attention(nnx.Module):
    """Multi-head attention with PyTorch's packed weights; logits and softmax in float32.

    `jax.nn.dot_product_attention` has no dropout, and gives a query that may see nothing a mean instead of zeros.
    """

    def __init__(self, features: int, heads: int, *, dropout: float, dtype: Dtype, rngs: nnx.Rngs):
        self.heads, self.dtype = heads, dtype
        self.in_proj_kernel = nnx.Param(_xavier(rngs.params(), (features, 3 * features), jnp.float32))  # of queries, keys, values
        self.in_proj_bias = nnx.Param(jnp.zeros(3 * features))
        self.out_proj = nnx.Linear(features, features, kernel_init=_xavier, dtype=dtype, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)

    def __call__(
        self, queries: Array, keys: Array, values: Array, allowed: Array, bias: Array | float = 0.0, rngs: nnx.Rngs | None = None
    ) -> Array:
        """[B, L, D] three times -> [B, L, D].

        Args:
            queries, keys, values: before their projections.
            allowed: bool, broadcasts to [B, queries, keys]; a query that may see nothing gets zeros.
            bias: broadcasts likewise, added to the logits.
            rngs: for dropout.
        """
        b, length, features = queries.shape
        kernels = jnp.split(self.in_proj_kernel[...].astype(self.dtype), 3, axis=1)
        biases = jnp.split(self.in_proj_bias[...].astype(self.dtype), 3)
        q, k, v = (
            (x.astype(self.dtype) @ kernel + shift).reshape(b, -1, self.heads, features // self.heads)
            for x, kernel, shift in zip((queries, keys, values), kernels, biases, strict=True)
        )
        logits = jnp.einsum('bqhd,bkhd->bhqk', q, k, preferred_element_type=jnp.float32) * (features // self.heads) ** -0.5
        logits = logits + jnp.atleast_2d(bias)[..., None, :, :]
        allowed = allowed[..., None, :, :]
        weights = jax.nn.softmax(jnp.where(allowed, logits, jnp.finfo(jnp.float32).min), axis=-1)
        weights = self.dropout(jnp.where(allowed, weights, 0.0), rngs=rngs)
        mixed = jnp.einsum('bhqk,bkhd->bqhd', weights.astype(self.dtype), v)
        return self.out_proj(mixed.reshape(b, length, features))


class _Layer(nnx.Module):
    """What encoder and decoder layers share."""

    def __init__(self, features: int, config: HANetConfig, *, dtype: Dtype, rngs: nnx.Rngs):
        self.self_attn = Attention(features, config.heads, dropout=config.dropout, dtype=dtype, rngs=rngs)
        self.linear1 = _linear(features, _EXPANSION * features, dtype=dtype, rngs=rngs)
        self.linear2 = _linear(_EXPANSION * features, features, dtype=dtype, rngs=rngs)
        self.norm1, self.norm2 = _layer_norm(features, rngs=rngs), _layer_norm(features, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout)
        self.activation = _ACTIVATIONS[config.activation]
        self.pre_norm = config.pre_norm

    def add(self, x: Array, norm: nnx.LayerNorm, part: Callable[[Array], Array], rngs: nnx.Rngs | None) -> Array:
        """`x` and what `part` makes of it; the sum stays float32."""
        if self.pre_norm:
            return x + self.dropout(part(norm(x)), rngs=rngs)
        return norm(x + self.dropout(part(x), rngs=rngs))

    def feed_forward(self, x: Array, rngs: nnx.Rngs | None) -> Array:
        """[B, L, D] -> [B, L, D]."""
        return self.linear2(self.dropout(self.activation(self.linear1(x)), rngs=rngs))


class EncoderLayer(_Layer):
    """Self-attention and feed-forward; positions enter queries and keys, not values."""

    def __call__(self, x: Array, position: Array, allowed: Array, rngs: nnx.Rngs | None = None) -> Array:
        """[B, L, D] -> [B, L, D]."""
        x = self.add(x, self.norm1, lambda y: self.self_attn(y + position, y + position, y, allowed, rngs=rngs), rngs)
        return self.add(x, self.norm2, lambda y: self.feed_forward(y, rngs), rngs)


class DecoderLayer(_Layer):
    """Self-attention, attention to the memory, feed-forward."""

    def __init__(self, features: int, config: HANetConfig, *, dtype: Dtype, rngs: nnx.Rngs):
        super().__init__(features, config, dtype=dtype, rngs=rngs)
        self.norm3 = _layer_norm(features, rngs=rngs)
        self.multihead_attn = Attention(features, config.heads, dropout=config.dropout, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Array,
        memory: Array,
        position: Array,
        allowed: Array,
        memory_allowed: Array,
        memory_bias: Array,
        rngs: nnx.Rngs | None = None,
    ) -> Array:
        """[B, L, D] and memory [B, L, D] -> [B, L, D]."""

        def attend(y: Array) -> Array:
            return self.multihead_attn(y + position, memory + position, memory, memory_allowed, memory_bias, rngs)

        x = self.add(x, self.norm1, lambda y: self.self_attn(y + position, y + position, y, allowed, rngs=rngs), rngs)
        x = self.add(x, self.norm2, attend, rngs)
        return self.add(x, self.norm3, lambda y: self.feed_forward(y, rngs), rngs)


class ChannelScale(nnx.Module):
    """A scale and a bias for each channel, with the shapes of PyTorch's depthwise Conv1d of width 1."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(_xavier(rngs.params(), (1, 1, channels), jnp.float32))
        self.bias = nnx.Param(_uniform(1)(rngs.params(), (channels,), jnp.float32))

    def __call__(self, x: Array) -> Array:
        """[..., C] -> [..., C]."""
        return x * self.kernel[...][0, 0] + self.bias[...]


class HANet(nnx.Module):
    """Keypoint kinematics, hierarchical encoder with an offset of each level, decoder; `model.eval()` turns dropout off."""

    def __init__(self, config: HANetConfig, *, dtype: Dtype = jnp.float32, rngs: nnx.Rngs):
        """`dtype`: of the matrix products; parameters, sums, norms, softmax and poses stay float32.

        Raises:
            ValueError: naming the field, on a value that does not fit.
        """
        _check(config)
        self.config, self.dtype, rngs = config, dtype, keys(rngs)
        channels, width = config.channels, config.width
        widths = [width << level for level in range(config.levels)]
        self.encoder_embed = _linear(4 * channels, width, dtype=dtype, rngs=rngs)
        self.prev_v_embed = ChannelScale(channels, rngs=rngs)
        self.next_v_embed = ChannelScale(channels, rngs=rngs)
        self.acc_embed = ChannelScale(channels, rngs=rngs)
        self.encoder = nnx.List([EncoderLayer(features, config, dtype=dtype, rngs=rngs) for features in widths])
        self.projection = nnx.List([_linear(features, 2 * features, dtype=dtype, rngs=rngs) for features in widths[:-1]])
        self.offset_refine = nnx.List([_conv(features, width, 1, dtype=dtype, rngs=rngs) for features in widths])
        self.encoder_joints_embed = _linear(width, channels, dtype=dtype, rngs=rngs)
        self.decoder_embed = _conv(channels, width, 5, dtype=dtype, rngs=rngs)
        self.motion_embed = _linear(3 * channels + width, width, dtype=dtype, rngs=rngs)
        self.decoder = nnx.List([DecoderLayer(width, config, dtype=dtype, rngs=rngs) for _ in range(config.levels)])
        self.decoder_norm = _layer_norm(width, rngs=rngs)
        self.decoder_joints_embed = _linear(width, channels, dtype=dtype, rngs=rngs)

    def __call__(self, poses: Array, mask: Array | None = None, *, rngs: nnx.Rngs | None = None) -> Refinement:
        """Refines windows of a pose sequence.

        Args:
            poses: [B, L, C] normalised coordinates, L = `config.length`.
            mask: bool [B, L], False where a frame is padding: it is read nowhere, and what comes out for it means nothing.
                Default: no padding.
            rngs: for dropout, in training.

        Returns:
            final and refined poses [B, L, C] float32.

        Raises:
            ValueError: the poses have another shape.
        """
        config = self.config
        if poses.ndim != 3 or poses.shape[1:] != (config.length, config.channels):
            raise ValueError(f'poses of shape {poses.shape}, expected [B, {config.length} frames, {config.channels} coordinates]')
        mask = jnp.ones(poses.shape[:2], bool) if mask is None else mask
        sampled = sampled_frames(mask, config.interval, jnp)
        poses = jnp.where(mask[..., None], poses.astype(jnp.float32), 0.0)
        seen, motion, features = self._kinematics(poses, mask, sampled)

        memory = self._encode(features, sampled, rngs)
        refined = self.encoder_joints_embed(memory).astype(jnp.float32) + seen
        interpolated = interpolate(refined, sampled, jnp) * mask[..., None]

        memory = self.motion_embed(jnp.concatenate([memory, motion], -1)).astype(jnp.float32)
        decoded = self.decoder_embed(interpolated).astype(jnp.float32)
        position = _positions(config.length, config.width)
        everywhere = mask[:, None, :]
        memory_allowed = sampled[:, None, :] if config.memory_mask == 'masked' else everywhere
        memory_bias = (~sampled[:, None, :]).astype(jnp.float32)  # says nothing where these frames are hidden
        for layer in self.decoder:
            decoded = layer(decoded, memory, position, everywhere, memory_allowed, memory_bias, rngs)
        final = self.decoder_joints_embed(self.decoder_norm(decoded)).astype(jnp.float32) + interpolated
        return Refinement(final, refined)

    def _kinematics(self, poses: Array, mask: Array, sampled: Array) -> tuple[Array, Array, Array]:
        """(sampled poses [B, L, C], motion [B, L, 3C], embedding [B, L, d]); a sampled frame's neighbours are read too."""
        edge = jnp.zeros_like(mask[:, :1])
        before = jnp.concatenate([edge, mask[:, :-1]], 1)[..., None]
        after = jnp.concatenate([mask[:, 1:], edge], 1)[..., None]
        shown = sampled[..., None]
        seen = jnp.where(shown, poses, 0.0)
        previous = jnp.where(shown, jnp.where(before, jnp.roll(poses, 1, 1), poses), 0.0)
        following = jnp.where(shown, jnp.where(after, jnp.roll(poses, -1, 1), poses), 0.0)
        flow = (previous + seen + following) / 3
        features = self.encoder_embed(jnp.concatenate([flow, seen, previous, following], -1)).astype(jnp.float32)
        from_previous, to_following = self.prev_v_embed(seen - previous), self.next_v_embed(following - seen)
        acceleration = self.acc_embed((to_following - from_previous) ** 2)
        return seen, jnp.concatenate([from_previous, to_following, acceleration], -1), features

    def _encode(self, x: Array, sampled: Array, rngs: nnx.Rngs | None) -> Array:
        """The mean of all levels' offsets, [B, L, d] float32. A frame attends to the other sampled frames, never to itself."""
        length = x.shape[1]
        allowed = sampled[:, None, :] & ~np.eye(length, dtype=bool)
        offsets = []
        for level, (layer, offset) in enumerate(zip(self.encoder, self.offset_refine, strict=True)):
            if level:
                x = self.projection[level - 1](x).astype(jnp.float32)
            x = layer(x, _positions(length, x.shape[-1]), allowed, rngs)
            offsets.append(offset(x).astype(jnp.float32))
        return jnp.mean(jnp.stack(offsets), 0)


def _positions(length: int, features: int) -> Array:
    """Sines (even channels) and cosines (odd ones) of the position in the window, float32 [L, D]."""
    angle = np.arange(length)[:, None] / (length - 1 + 1e-6) * 2 * np.pi
    count = features // 2
    angle = angle / 10000 ** (2 * np.arange(count) / count)
    return jnp.asarray(np.stack([np.sin(angle), np.cos(angle)], -1).reshape(length, features), jnp.float32)


def _check(config: HANetConfig) -> None:
    choices = {'activation': tuple(_ACTIVATIONS), 'memory_mask': ('masked', 'released')}
    for name, allowed in choices.items():
        if getattr(config, name) not in allowed:
            raise ValueError(f'HANet {name} {getattr(config, name)!r}: choose one of {", ".join(allowed)}')
    if config.width % 2 or config.width % config.heads:
        raise ValueError(f'HANet width {config.width}: must be even and a multiple of heads {config.heads}')


def _uniform(fan_in: int) -> nnx.Initializer:
    """PyTorch's default for biases."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32, out_sharding=None: jax.random.uniform(key, shape, dtype, -bound, bound)


def _linear(features_in: int, features_out: int, *, dtype: Dtype, rngs: nnx.Rngs) -> nnx.Linear:
    bias_init = _uniform(features_in)
    return nnx.Linear(features_in, features_out, kernel_init=_xavier, bias_init=bias_init, dtype=dtype, rngs=rngs)


def _conv(features_in: int, features_out: int, kernel: int, *, dtype: Dtype, rngs: nnx.Rngs) -> nnx.Conv:
    """Over time, on [B, L, C], with zeros at both ends."""
    return nnx.Conv(
        features_in,
        features_out,
        (kernel,),
        padding=((kernel // 2, kernel // 2),),
        kernel_init=_xavier,
        bias_init=_uniform(kernel * features_in),
        dtype=dtype,
        rngs=rngs,
    )


def _layer_norm(features: int, *, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(features, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
