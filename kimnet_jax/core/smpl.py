"""SMPL's skeleton (Loper et al., SIGGRAPH Asia 2015): where rotations put its 24 joints. For NumPy and JAX (`xp`).

A rotation is six numbers (Zhou et al., CVPR 2019): the first two columns of its matrix, row by row (as in HANet).
"""

from types import ModuleType
from typing import NamedTuple

import numpy as np

from kimnet_jax.core.types import Array

NUM_JOINTS = 24


class Body(NamedTuple):
    """Attributes:
    rest: float32 [24, 3] the joints of the mean shape at rest, metres.
    shapes: float32 [24, 3, S] what each coefficient of the shape adds to them.
    parents: of each joint, one of those before it; -1 of the first, the pelvis.
    """

    rest: np.ndarray
    shapes: np.ndarray
    parents: tuple[int, ...]


def six_numbers(matrices: Array) -> Array:
    """Rotation matrices [..., 3, 3] as [..., 6]."""
    return matrices[..., :2].reshape(*matrices.shape[:-2], 6)


def rotation_matrices(six: Array, xp: ModuleType = np) -> Array:
    """The rotations nearest in the sense of Gram and Schmidt to any [..., 6], as matrices [..., 3, 3]."""
    columns = six.reshape(*six.shape[:-1], 3, 2)
    first = _unit(columns[..., 0], xp)
    second = columns[..., 1]
    second = _unit(second - (first * second).sum(-1, keepdims=True) * first, xp)
    return xp.stack([first, second, xp.cross(first, second)], -1)


def joint_positions(body: Body, poses: Array, shape: Array | None = None, xp: ModuleType = np) -> Array:
    """The joints that poses have (forward kinematics).

    Args:
        body: a person.
        poses: [..., 24, 6] the rotation of each joint relative to its parent's.
        shape: [..., S'] coefficients of the person's shape, no more than `body` has; None: the mean shape.
        xp: numpy or jax.numpy.

    Returns:
        [..., 24, 3] metres, from the pelvis.
    """
    rest = body.rest
    if shape is not None:
        rest = rest + xp.einsum('jcs,...s->...jc', body.shapes[..., : shape.shape[-1]], shape)
    turns, parents = rotation_matrices(poses, xp), np.array(body.parents)
    joints = np.array([0])  # all that are so many bones away from the pelvis
    whole = turns[..., joints, :, :]
    places = xp.zeros_like(whole[..., 0])
    found, order = [places], [joints]
    while len(children := np.flatnonzero(np.isin(parents, joints))):
        above = np.searchsorted(joints, parents[children])
        bones = rest[..., children, :] - rest[..., parents[children], :]
        places = places[..., above, :] + (whole[..., above, :, :] * bones[..., None, :]).sum(-1)
        first, second = whole[..., above, :, :], turns[..., children, :, :]
        whole = (first.reshape(-1, 3, 3) @ second.reshape(-1, 3, 3)).reshape(first.shape)  # XLA fails on more batch axes
        joints = children
        found.append(places)
        order.append(joints)
    return xp.concatenate(found, -2)[..., np.argsort(np.concatenate(order)), :]


def _unit(vectors: Array, xp: ModuleType) -> Array:
    return vectors / xp.sqrt(xp.maximum((vectors**2).sum(-1, keepdims=True), 1e-12))  # finite, and so are its gradients
