"""Joint angles and speeds of poses in the image plane."""

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.joint_names import index_of
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.types import Array

# the joint at the vertex -> the ends of the two segments that meet there, all of one side
ANGLES = {
    'elbow': ('shoulder', 'wrist'),
    'shoulder': ('elbow', 'hip'),
    'hip': ('shoulder', 'knee'),
    'knee': ('hip', 'ankle'),
}
SIDES = {'l': 'left', 'r': 'right'}


def joint_angles(joints: Array, skeleton: Skeleton) -> dict[str, np.ndarray]:
    """The angle between the two segments that meet at a joint (`ANGLES`), as seen in the image.

    180 degrees: the segments are one straight line, as elbow, hip and knee of a person who stands upright. 0 degrees: they lie on
    each other, as upper arm and trunk do at the shoulder when the arm hangs down. Unsigned.

    Args:
        joints: [T, J, 2] pixels.
        skeleton: of the joints.

    Returns:
        `l_elbow`, `r_elbow`, `l_shoulder`, ... -> degrees float64 [T]; NaN where a joint is missing (NaN) or a
            segment has no length.

    Raises:
        InputError: the skeleton lacks one of the joints.
    """
    index = index_of(skeleton.joints)
    result = {}
    for joint, ends in ANGLES.items():
        for side in SIDES:
            names = [f'{side}_{part}' for part in (ends[0], joint, ends[1])]
            if missing := [name for name in names if name not in index]:
                raise InputError(f'skeleton {skeleton.name!r} has no {missing[0]!r}; angles need shoulders, arms, hips and legs')
            a, vertex, b = (np.asarray(joints, np.float64)[:, index[name]] for name in names)
            u, v = a - vertex, b - vertex
            cross, dot = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0], (u * v).sum(-1)
            degenerate = ~(np.hypot(*u.T) * np.hypot(*v.T) > 0)
            result[f'{side}_{joint}'] = np.where(degenerate, np.nan, np.degrees(np.abs(np.arctan2(cross, dot))))
    return result


def speeds(joints: Array, times: Array) -> np.ndarray:
    """How fast joints move: central differences, one-sided in the first and last frame.

    Args:
        joints: [T, J, 2] pixels; T at least 2.
        times: [T], rising: seconds, or numbers of frames.

    Returns:
        float64 [T, J], pixels per second or per frame.
    """
    velocity = np.gradient(np.asarray(joints, np.float64), np.asarray(times, np.float64), axis=0)
    return np.hypot(velocity[..., 0], velocity[..., 1])
