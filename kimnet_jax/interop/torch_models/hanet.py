"""HANet (Jin et al., WACV 2023) in PyTorch, with the keys of its released checkpoints and what they hold but never use."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from kimnet_jax.models.hanet import HANetConfig

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    'leaky_relu': functional.leaky_relu,
    'relu': functional.relu,
    'gelu': functional.gelu,
}


class _Layer(nn.Module):
    def __init__(self, features: int, config: HANetConfig):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(features, config.heads, config.dropout, batch_first=True)
        self.linear1 = nn.Linear(features, 4 * features)
        self.linear2 = nn.Linear(4 * features, features)
        self.norm1, self.norm2 = nn.LayerNorm(features), nn.LayerNorm(features)
        self.dropout = nn.Dropout(config.dropout)
        self.activation = _ACTIVATIONS[config.activation]
        self.pre_norm = config.pre_norm

    def before(self, norm: nn.Module, x: Tensor) -> Tensor:
        return norm(x) if self.pre_norm else x

    def add(self, norm: nn.Module, x: Tensor, part: Tensor) -> Tensor:
        x = x + self.dropout(part)
        return x if self.pre_norm else norm(x)

    def feed_forward(self, norm: nn.Module, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(self.activation(self.linear1(self.before(norm, x)))))


class EncoderLayer(_Layer):
    """[B, L, D] -> [B, L, D]; `mask` is added to the logits."""

    def forward(self, x: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        y = self.before(self.norm1, x)
        x = self.add(self.norm1, x, self.self_attn(y + position, y + position, y, attn_mask=mask, need_weights=False)[0])
        return self.add(self.norm2, x, self.feed_forward(self.norm2, x))


class DecoderLayer(_Layer):
    """[B, L, D] and memory [B, L, D] -> [B, L, D]; `mask` is added to the logits of the memory."""

    def __init__(self, features: int, config: HANetConfig):
        super().__init__(features, config)
        self.multihead_attn = nn.MultiheadAttention(features, config.heads, config.dropout, batch_first=True)
        self.norm3 = nn.LayerNorm(features)

    def forward(self, x: Tensor, memory: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        y = self.before(self.norm1, x)
        x = self.add(self.norm1, x, self.self_attn(y + position, y + position, y, need_weights=False)[0])
        y = self.before(self.norm2, x) + position
        mixed = self.multihead_attn(y, memory + position, memory, attn_mask=mask, need_weights=False)[0]
        x = self.add(self.norm2, x, mixed)
        return self.add(self.norm3, x, self.feed_forward(self.norm3, x))


class Stack(nn.Module):
    """Layers, and the norm after the last one where there is one."""

    def __init__(self, layers: list[nn.Module], norm: nn.Module | None = None):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.Identity() if norm is None else norm

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, *others)
        return self.norm(x)


class Transformer(nn.Module):
    """All of HANet's layers, under the name that its checkpoints give them."""

    def __init__(self, config: HANetConfig):
        super().__init__()
        channels, width = config.channels, config.width
        widths = [width << level for level in range(config.levels)]
        self.encoder_embed = nn.Linear(4 * channels, width)
        self.prev_v_embed, self.next_v_embed, self.acc_embed = (
            nn.Conv1d(channels, channels, 1, groups=channels) for _ in range(3)
        )
        self.encoder = nn.ModuleList([Stack([EncoderLayer(features, config)]) for features in widths])
        self.projection = nn.ModuleList([nn.Linear(features, 2 * features) for features in widths])  # the last is never used
        self.offset_refine = nn.ModuleList([nn.Conv1d(features, width, 1) for features in widths])
        if config.pre_norm:  # never used
            self.encoder_norm = nn.ModuleList([nn.LayerNorm(features) for features in widths])
        self.encoder_joints_embed = nn.Linear(width, channels)
        self.decoder_embed = nn.Conv1d(channels, width, 5, padding=2)
        self.motion_embed = nn.Linear(3 * channels + width, width)
        self.decoder = Stack([DecoderLayer(width, config) for _ in range(config.levels)], nn.LayerNorm(width))
        self.decoder_joints_embed = nn.Linear(width, channels)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)


class HANet(nn.Module):
    """Windows of poses [B, L, C] -> (final, refined), [B, L, C] each; no padding."""

    def __init__(self, config: HANetConfig):
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)

    def forward(self, poses: Tensor) -> tuple[Tensor, Tensor]:
        net, interval, length = self.transformer, self.config.interval, self.config.length
        unseen = torch.arange(length, device=poses.device) % interval != 0
        shown = (~unseen)[:, None].to(poses.dtype)
        seen = poses * shown
        previous = torch.cat([poses[:, :1], poses[:, :-1]], 1) * shown
        following = torch.cat([poses[:, 1:], poses[:, -1:]], 1) * shown

        flow = (previous + seen + following) / 3
        from_previous = _over_time(net.prev_v_embed, seen - previous)
        to_following = _over_time(net.next_v_embed, following - seen)
        acceleration = _over_time(net.acc_embed, (to_following - from_previous) ** 2)
        motion = torch.cat([from_previous, to_following, acceleration], -1)

        hidden = unseen | torch.eye(length, dtype=torch.bool, device=poses.device)
        mask = torch.zeros_like(hidden, dtype=poses.dtype).masked_fill(hidden, -math.inf)
        x = net.encoder_embed(torch.cat([flow, seen, previous, following], -1))
        offsets = []
        for level, offset in enumerate(net.offset_refine):
            x = net.projection[level - 1](x) if level else x
            x = net.encoder[level](x, _positions(length, x), mask)
            offsets.append(_over_time(offset, x))
        memory = torch.stack(offsets).mean(0)
        refined = net.encoder_joints_embed(memory) + seen

        known = refined[:, ::interval].mT
        interpolated = functional.interpolate(known, length, mode='linear', align_corners=True).mT
        memory = net.motion_embed(torch.cat([memory, motion], -1))
        masked = self.config.memory_mask == 'masked'
        memory_mask = torch.zeros_like(mask).masked_fill(unseen, -math.inf if masked else 1.0)
        x = _over_time(net.decoder_embed, interpolated)
        x = net.decoder(x, memory, _positions(length, x), memory_mask)
        return net.decoder_joints_embed(x) + interpolated, refined


def _over_time(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x.mT).mT


def _positions(length: int, like: Tensor) -> Tensor:
    count = like.shape[-1] // 2
    angle = torch.arange(length, dtype=torch.float64)[:, None] / (length - 1 + 1e-6) * 2 * math.pi
    angle = angle / 10000 ** (2 * torch.arange(count, dtype=torch.float64) / count)
    return torch.stack([angle.sin(), angle.cos()], -1).reshape(length, -1).to(like)
