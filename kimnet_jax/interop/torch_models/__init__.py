"""The networks of `kimnet_jax.models` in PyTorch: what parity is measured against, and the same networks for users of PyTorch.

A twin takes the same config as our network. Its layout is PyTorch's (images [B, C, H, W], a clip's [B, T, C, H, W]), its keys are
those of the public release where there is one, and its initial values are PyTorch's own: it gets its weights from elsewhere.
"""

from kimnet_jax.interop.torch_models.kimnet import KMM, KIMNet, RelationDecoder
from kimnet_jax.interop.torch_models.pose_resnet import PoseResNet

__all__ = ['KMM', 'KIMNet', 'PoseResNet', 'RelationDecoder']
