"""RPSTN and its parts in PyTorch, with the keys of its released checkpoints."""

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional

from kimnet_jax.interop.torch_models.pose_resnet import PoseResNet
from kimnet_jax.models.pose_resnet import PoseResNetConfig
from kimnet_jax.models.rpstn import RPSTNConfig


def dynamic_conv(x: Tensor, kernels: Tensor) -> Tensor:
    """[B, C, h, w] and a kernel for every sample and channel [B, C, k, l] -> [B, C, h, w]."""
    k, l = kernels.shape[2:]  # noqa: E741
    x = functional.pad(x, (l // 2, l - 1 - l // 2, k // 2, k - 1 - k // 2))
    y = functional.conv2d(x.flatten(0, 1)[None], kernels.flatten(0, 1)[:, None], groups=x.shape[0] * x.shape[1])
    return y[0].unflatten(0, x.shape[:2])


class DKD(nn.Module):
    """(features of t, features of t+1, heatmaps of t) -> (heatmaps of t+1, kernels [B, D, k, l]); see `kimnet_jax.models.dkd`."""

    def __init__(self, num_joints: int, features: int, variant: str = 'intended'):
        super().__init__()
        self.variant = variant
        self.conv1x1_reduce_dim = nn.Conv2d(num_joints + features, features, 1)
        self.pose_conv1x1_V = nn.Conv2d(features, features, 1)
        self.pose_conv1x1_U = nn.Conv2d(features, num_joints, 1)
        self.bn: nn.Module = nn.BatchNorm2d(features)
        if variant == 'intended':
            self.bn = nn.ModuleList([nn.BatchNorm2d(features) for _ in range(3)])
        generator: list[nn.Module] = []
        for index in range(4):
            generator += [nn.Conv2d(features, features, 3, 1, 1 if index else 0), nn.BatchNorm2d(features)]
            generator += [nn.ReLU(), nn.MaxPool2d(2, 2)] if index < 3 else []
        self.dkd_param_adapter = nn.Sequential(*generator)

    def forward(self, features: Tensor, next_features: Tensor, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        heatmaps, kernels, _ = self.propagate(features, next_features, heatmaps)
        return heatmaps, kernels

    def propagate(self, features: Tensor, next_features: Tensor, heatmaps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bn = list(self.bn) if isinstance(self.bn, nn.ModuleList) else 3 * [self.bn]
        projected = bn[0](self.pose_conv1x1_V(next_features))
        kernels = self.dkd_param_adapter(bn[1](self.conv1x1_reduce_dim(torch.cat([heatmaps, features], 1))))
        filtered = dynamic_conv(projected, kernels)
        if self.variant != 'released_penn':
            filtered = bn[2](filtered)
        return self.pose_conv1x1_U(filtered), kernels, projected


class JRE(nn.Module):
    """The joint relation extractor, variants as in `kimnet_jax.models.relation_decoder`; the released have two idle layers."""

    def __init__(self, num_joints: int, variant: str = 'intended'):
        super().__init__()
        self.variant = variant
        self.g = nn.Conv2d(num_joints, num_joints, 1)
        self.W = nn.Sequential(nn.Conv2d(num_joints, num_joints, 1), nn.BatchNorm2d(num_joints))
        nn.init.zeros_(self.W[1].weight)  # type: ignore[arg-type]
        if variant != 'intended':
            self.theta = nn.Conv2d(num_joints, num_joints, 1)
            self.phi = nn.Conv2d(num_joints, num_joints, 1)

    def forward(self, heatmaps: Tensor) -> Tensor:
        x = heatmaps.flatten(2)
        y = torch.softmax(x @ x.mT, dim=1 if self.variant == 'released' else -1) @ self.g(heatmaps).flatten(2)
        if self.variant != 'intended':
            y = y.mT.contiguous()
        return heatmaps + self.W(y.view_as(heatmaps))


class JRPSP(DKD):
    """`DKD` and the relation of the joints after it."""

    def __init__(self, num_joints: int, features: int, variant: str = 'intended', decoder_variant: str = 'intended'):
        super().__init__(num_joints, features, variant)
        self.bn_u = nn.BatchNorm2d(num_joints)
        self.non_local_conv2d = JRE(num_joints, decoder_variant)

    def relate(self, heatmaps: Tensor) -> Tensor:
        return self.bn_u(self.non_local_conv2d(heatmaps))

    def propagate(self, features: Tensor, next_features: Tensor, heatmaps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heatmaps, kernels, projected = super().propagate(features, next_features, heatmaps)
        return self.relate(heatmaps if self.variant == 'intended' else self.bn_u(heatmaps)), kernels, projected

    def chain(self, initial: Tensor, features: Tensor) -> Tensor:
        """Initial heatmaps [B, J, h, w] of the first frame and features [B, T, D, h, w] of all -> heatmaps [B, T, J, h, w]."""
        heatmaps, carried = [self.relate(initial)], features[:, 0]
        for following in features[:, 1:].unbind(1):
            predicted, _, projected = self.propagate(carried, following, heatmaps[-1])
            heatmaps.append(predicted)
            carried = following if self.variant == 'intended' else projected
        return torch.stack(heatmaps, 1)


class RPSTN(JRPSP):
    """Images [B, T, 3, H, W] -> heatmaps [B, T, J, H/4, W/4]."""

    def __init__(self, config: RPSTNConfig):
        super().__init__(config.num_joints, config.features, config.variant, config.decoder_variant)
        encoder = PoseResNetConfig(config.encoder_depth, None, config.width, config.features)
        self.pose_net = PoseResNet(dataclasses.replace(encoder, depth=config.initializer_depth, num_joints=config.num_joints))
        net = PoseResNet(encoder)
        stages = (net.layer1, net.layer2, net.layer3, net.layer4)
        self.fea_ext = nn.Sequential(net.conv1, net.bn1, nn.ReLU(), net.maxpool, *stages, net.deconv_layers)

    def forward(self, frames: Tensor) -> Tensor:  # type: ignore[override]
        if self.variant == 'intended':
            features = self.fea_ext(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        else:  # in train mode with a frame's statistics each
            features = torch.stack([self.fea_ext(frame) for frame in frames.unbind(1)], 1)
        return self.chain(self.pose_net(frames[:, 0]), features)
