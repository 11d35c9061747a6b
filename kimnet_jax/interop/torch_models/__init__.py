"""The networks of `kimnet_jax.models` in PyTorch: what parity is measured against, and the same networks for users of PyTorch.

A twin takes the same config as our network. Its layout is PyTorch's (images [B, C, H, W], a clip's [B, T, C, H, W]), its keys are
those of the public release where there is one, and its initial values are PyTorch's own: it gets its weights from elsewhere.
"""

from kimnet_jax.interop.torch_models.dkd import DKD
from kimnet_jax.interop.torch_models.dkd_net import DKDNet
from kimnet_jax.interop.torch_models.hanet import HANet
from kimnet_jax.interop.torch_models.hourglass import Hourglass
from kimnet_jax.interop.torch_models.hrnet import HRNet
from kimnet_jax.interop.torch_models.kimnet import KIMNet
from kimnet_jax.interop.torch_models.kmm import KMM, KMMTransfer
from kimnet_jax.interop.torch_models.lstm_pm import LSTMPM
from kimnet_jax.interop.torch_models.pose_resnet import PoseResNet
from kimnet_jax.interop.torch_models.relation_decoder import RelationDecoder
from kimnet_jax.interop.torch_models.rpstn import JRE, JRPSP, RPSTN

__all__ = [
    'DKD',
    'JRE',
    'JRPSP',
    'KMM',
    'LSTMPM',
    'RPSTN',
    'DKDNet',
    'HANet',
    'HRNet',
    'Hourglass',
    'KIMNet',
    'KMMTransfer',
    'PoseResNet',
    'RelationDecoder',
]
