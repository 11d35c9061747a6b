"""Joint names, mirror pairs, limbs and report groups of each data set, as data."""

import dataclasses
import re

from kimnet_jax.core.errors import InputError


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """The joints of one data set.

    Attributes:
        name: the key in `SKELETONS`.
        joints: joint names in the order of the annotations; left and right are the person's own.
        flip_pairs: indices that change places when the image is mirrored.
        limbs: pairs of indices that an overlay connects.
        groups: report columns in the paper's order, each with the joints it averages; joints in no group enter mPCK only.
        torso: the two joints whose distance is the torso length (left shoulder, right hip).
    """

    name: str
    joints: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    limbs: tuple[tuple[int, int], ...]
    groups: tuple[tuple[str, tuple[int, ...]], ...]
    torso: tuple[int, int]

    @property
    def num_joints(self) -> int:
        return len(self.joints)

    @property
    def flip_order(self) -> tuple[int, ...]:
        """Where each joint of a mirrored image is found in the unmirrored order."""
        order = list(range(self.num_joints))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        return tuple(order)


def _skeleton(name: str, joints: str, limbs: str, head: str) -> Skeleton:
    names = tuple(joints.split())
    index = {joint: i for i, joint in enumerate(names)}
    parts = ('shoulder', 'elbow', 'wrist', 'hip', 'knee', 'ankle')
    groups: list[tuple[str, tuple[int, ...]]] = [('Head', (index[head],))]
    groups += [(p.capitalize(), tuple(i for i, n in enumerate(names) if n.endswith(f'_{p}'))) for p in parts]
    flips = []
    for i, joint in enumerate(names):
        side, _, part = joint.partition('_')
        other = {'l': 'r', 'r': 'l'}.get(side, '') + '_' + part
        if index.get(other, -1) > i:
            flips.append((i, index[other]))
    pairs = [limb.split('-') for limb in limbs.split()]
    return Skeleton(
        name=name,
        joints=names,
        flip_pairs=tuple(flips),
        limbs=tuple((index[a], index[b]) for a, b in pairs),
        groups=tuple(groups),
        torso=(index['l_shoulder'], index['r_hip']),
    )


_LIMBS = (
    'l_shoulder-r_shoulder l_hip-r_hip l_shoulder-l_elbow l_elbow-l_wrist r_shoulder-r_elbow r_elbow-r_wrist '
    'l_hip-l_knee l_knee-l_ankle r_hip-r_knee r_knee-r_ankle'
)

# The release names these columns from the observer's side, 'left shoulder' first: what is left in the image of a person who faces
# the camera. Every other data set, and the joints here, go by the person's own left and right; see docs/data.md.
PENN_ACTION = _skeleton(
    'penn_action',
    'head r_shoulder l_shoulder r_elbow l_elbow r_wrist l_wrist r_hip l_hip r_knee l_knee r_ankle l_ankle',
    f'head-l_shoulder head-r_shoulder l_shoulder-l_hip r_shoulder-r_hip {_LIMBS}',
    head='head',
)
JHMDB = _skeleton(
    'jhmdb',
    'neck belly face r_shoulder l_shoulder r_hip l_hip r_elbow l_elbow r_knee l_knee r_wrist l_wrist r_ankle l_ankle',
    f'face-neck neck-belly neck-l_shoulder neck-r_shoulder belly-l_hip belly-r_hip {_LIMBS}',
    head='face',
)
MPII = _skeleton(
    'mpii',
    'r_ankle r_knee r_hip l_hip l_knee l_ankle pelvis thorax upper_neck head_top '
    'r_wrist r_elbow r_shoulder l_shoulder l_elbow l_wrist',
    f'head_top-upper_neck upper_neck-thorax thorax-pelvis thorax-l_shoulder thorax-r_shoulder pelvis-l_hip pelvis-r_hip {_LIMBS}',
    head='head_top',
)
LSP = _skeleton(
    'lsp',
    'r_ankle r_knee r_hip l_hip l_knee l_ankle r_wrist r_elbow r_shoulder l_shoulder l_elbow l_wrist neck head_top',
    f'head_top-neck neck-l_shoulder neck-r_shoulder l_shoulder-l_hip r_shoulder-r_hip {_LIMBS}',
    head='head_top',
)
SMPL = _skeleton(
    'smpl',
    'pelvis l_hip r_hip spine1 l_knee r_knee spine2 l_ankle r_ankle spine3 l_foot r_foot '
    'neck l_collar r_collar head l_shoulder r_shoulder l_elbow r_elbow l_wrist r_wrist l_hand r_hand',
    f'pelvis-spine1 spine1-spine2 spine2-spine3 spine3-neck neck-head spine3-l_collar spine3-r_collar l_collar-l_shoulder '
    f'r_collar-r_shoulder pelvis-l_hip pelvis-r_hip l_ankle-l_foot r_ankle-r_foot l_wrist-l_hand r_wrist-r_hand {_LIMBS}',
    head='head',
)
SKELETONS = {skeleton.name: skeleton for skeleton in (PENN_ACTION, JHMDB, MPII, LSP, SMPL)}


def get_skeleton(name: str) -> Skeleton:
    """The skeleton of that name; `points<J>` is J joints of which nothing is known. Raises `InputError` with the known names."""
    if re.fullmatch(r'points[0-9]{1,4}', name):
        joints = tuple(f'point{i}' for i in range(int(name.removeprefix('points'))))
        return Skeleton(name, joints, flip_pairs=(), limbs=(), groups=(), torso=(0, 0))
    if name not in SKELETONS:
        raise InputError(f'unknown skeleton {name!r}; known: {", ".join(sorted(SKELETONS))}')
    return SKELETONS[name]
