"""The images that released weights expect, and the first convolution made to take ours instead."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.image import MEAN, STD


class Pixels(NamedTuple):
    """Position i of an image is (p - mean[i]) / std[i] of the pixel value p, in [0, 1], of channel `order[i]` of R, G, B."""

    order: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


RELEASED = {  # by the name of the release
    'simplebaseline': Pixels((2, 1, 0), MEAN, STD),  # B, G, R with the statistics of R, G, B
    'rpstn': Pixels((2, 1, 0), (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),  # B, G, R in [0, 255]
    'bearpaw': Pixels((0, 1, 2), (0.4404, 0.4440, 0.4327), (1.0, 1.0, 1.0)),  # the mean over MPII taken off
    'unit': Pixels((0, 1, 2), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # princeton's hourglass, LSTM-PM
}
# network -> its convolutions of images, and the BatchNorm after one that has no bias; those that the entries have are meant
_STEMS = {
    'pose_resnet': (('conv1', 'bn1'),),
    'hrnet': (('conv1', 'bn1'),),
    'hourglass': (('conv1', ''), ('pre.0.conv', '')),
    'rpstn': (('pose_net.conv1', 'pose_net.bn1'), ('fea_ext.0', 'fea_ext.1')),
    'lstm_pm': (('conv1_convnet1', ''), ('conv1_convnet2', '')),
}
FOLDABLE = tuple(_STEMS)  # networks


def fold_pixels(entries: Mapping[str, np.ndarray], network: str, pixels: Pixels) -> dict[str, np.ndarray]:
    """A PyTorch state_dict for our images, from one for images of `pixels`.

    With x_i = (p_c - m_i) / s_i there, c = order[i], and y_c = (p_c - M_c) / S_c here, x_i = (S_c / s_i) y_c + (M_c - m_i) / s_i.
    So the kernel is permuted and scaled, and the constant, summed over the kernel, goes into the bias or, where there is none,
    into the running mean of the BatchNorm that follows. That is exact wherever the kernel lies inside the image. Around the image
    it sees zeros, and these stand for another colour: the image goes on with p_c = M_c here, with p_c = m_i there.

    Args:
        entries: the state_dict.
        network: one of `FOLDABLE`.
        pixels: what the weights expect.

    Raises:
        InputError: its first layer is not among the entries.
    """
    folded = dict(entries)
    order = list(pixels.order)
    mean, std = np.array(pixels.mean), np.array(pixels.std)
    for conv, norm in _STEMS[network]:
        if f'{conv}.weight' not in entries:
            continue
        kernel = entries[f'{conv}.weight'].astype(np.float64)
        ours = np.empty_like(kernel)
        ours[:, order] = kernel * (np.array(STD)[order] / std)[:, None, None]
        constant = np.einsum('oihw,i->o', kernel, (np.array(MEAN)[order] - mean) / std)
        shifted, sign = (f'{norm}.running_mean', -1) if norm else (f'{conv}.bias', 1)
        if shifted not in entries:
            raise InputError(f'{conv}.weight without {shifted}: it cannot be made to take other images')
        folded[f'{conv}.weight'] = ours.astype(np.float32)
        folded[shifted] = (entries[shifted] + sign * constant).astype(np.float32)
    return folded
