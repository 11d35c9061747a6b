"""LSTM Pose Machines in PyTorch, with the keys of the port github.com/HowieMa/lstm_pm_pytorch, and `kmm` of our own."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from kimnet_jax.interop.torch_models.kmm import KMM
from kimnet_jax.models.lstm_pm import LSTMPMConfig, centre_map


class LSTMPM(nn.Module):
    """Images [B, T, 3, H, W] and centre map [B, 1, H, W] -> heatmaps [B, T, J, h, w]; see `kimnet_jax.models.lstm_pm`."""

    def __init__(self, config: LSTMPMConfig):
        super().__init__()
        joints, width, features, memory = config.num_joints, config.width, config.features, config.memory
        self.released = config.variant == 'released'
        trunk = [(3, width, 9), (width, width, 9), (width, width, 9), (width, features, 5)]
        wide = 4 * width
        self._add('conv{}_convnet1', [*trunk, (features, wide, 9), (wide, wide, 1), (wide, joints, 1)])
        self._add('conv{}_convnet2', trunk)
        channels = joints + features + 1
        hidden = channels if config.temporal == 'kmm' else memory
        generator = [(hidden, width, 11), (width, width, 11), (width, width, 11), (width, width, 1), (width, joints, 1)]
        self._add('Mconv{}_convnet3', generator)
        self.kmm = KMM(joints, features) if config.temporal == 'kmm' else None
        if self.kmm is None:
            self._add_lstm(channels, memory)

    def _add_lstm(self, channels: int, memory: int) -> None:
        for gate in 'gifo':
            self.add_module(f'conv_{gate}x_lstm', nn.Conv2d(channels, memory, 3, 1, 1))
            self.add_module(f'conv_{gate}h_lstm', nn.Conv2d(memory, memory, 3, 1, 1, bias=False))
        for gate in 'gio' if self.released else '':
            self.add_module(f'conv_{gate}x_lstm0', nn.Conv2d(channels, memory, 3, 1, 1))
        if not self.released:
            with torch.no_grad():
                self.get_submodule('conv_fx_lstm').bias.add_(1)  # type: ignore[operator]

    def _add(self, name: str, sizes: list[tuple[int, int, int]]) -> None:
        for index, (features_in, features_out, kernel) in enumerate(sizes, 1):
            self.add_module(name.format(index), nn.Conv2d(features_in, features_out, kernel, 1, kernel // 2))

    def forward(self, frames: Tensor, centre: Tensor | None = None) -> Tensor:
        return self.all_maps(frames, centre)[:, 1:]

    def all_maps(self, frames: Tensor, centre: Tensor | None = None) -> Tensor:
        """As the port returns them, with the first frame's initial heatmaps before the others: [B, T + 1, J, h, w]."""
        if centre is None:
            middle = torch.tensor(centre_map(*frames.shape[-2:]).tolist(), dtype=frames.dtype, device=frames.device)
            centre = middle.permute(2, 0, 1).expand(len(frames), -1, -1, -1)
        centre = functional.avg_pool2d(centre, 9, 8)
        features = self._trunk(frames.flatten(0, 1), 'convnet2').unflatten(0, frames.shape[:2])
        x = self._layers(self._trunk(frames[:, 0], 'convnet1'), 'conv{}_convnet1', range(5, 8))
        heatmaps, memory = [x], None
        for t, seen in enumerate(features.unbind(1)):
            pose = heatmaps[-1]
            if self.kmm is not None and t:
                pose, _ = self.kmm(features[:, t - 1], seen, pose)
            x = torch.cat([pose, seen, centre], 1)
            if self.kmm is None:
                memory = self._remember(memory, x)
                x = memory[1]
            heatmaps.append(self._layers(x, 'Mconv{}_convnet3', range(1, 6)))
        return torch.stack(heatmaps, 1)

    def _trunk(self, x: Tensor, net: str) -> Tensor:
        for index in range(1, 4):
            x = functional.max_pool2d(torch.relu(self._conv(f'conv{index}_{net}', x)), 3, 2)
        return torch.relu(self._conv(f'conv4_{net}', x))

    def _layers(self, x: Tensor, name: str, indices: range) -> Tensor:
        for index in indices[:-1]:
            x = torch.relu(self._conv(name.format(index), x))
        return self._conv(name.format(indices[-1]), x)

    def _remember(self, memory: tuple[Tensor, Tensor] | None, x: Tensor) -> tuple[Tensor, Tensor]:
        if memory is None and self.released:
            g, i, o = (self._conv(f'conv_{gate}x_lstm0', x) for gate in 'gio')
            cell = torch.tanh(torch.tanh(g) * torch.sigmoid(i))
            return cell, torch.sigmoid(o) * cell
        gates = [self._conv(f'conv_{gate}x_lstm', x) for gate in 'gifo']
        if memory is not None:
            gates = [a + self._conv(f'conv_{gate}h_lstm', memory[1]) for a, gate in zip(gates, 'gifo', strict=True)]
        g, i, f, o = gates
        cell = torch.sigmoid(i) * torch.tanh(g) + (torch.sigmoid(f) * memory[0] if memory is not None else 0)
        return cell, torch.sigmoid(o) * torch.tanh(cell)

    def _conv(self, name: str, x: Tensor) -> Tensor:
        return self.get_submodule(name)(x)
