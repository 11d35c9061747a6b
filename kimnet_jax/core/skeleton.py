"""Joint names, mirror pairs, limbs and report groups of each data set, as data."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from kimnet_jax.core.errors import InputError, some_of
from kimnet_jax.core.joint_names import GROUPS, HEADS, index_of
from kimnet_jax.core.json_files import parse_json

MOST_JOINTS = 1000


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """The joints of one data set. Two that differ in their names alone are equal.

    Attributes:
        name: the key in `SKELETONS`, or that of the user's own data set.
        joints: joint names in the order of the annotations; left and right are the person's own.
        flip_pairs: indices that change places when the image is mirrored.
        limbs: pairs of indices that an overlay connects.
        groups: report columns in the paper's order, each with the joints it averages; joints in no group enter mPCK only.
        torso: the two joints whose distance is the torso length (left shoulder, right hip); (0, 0): there is none.
        sigmas: of COCO's object keypoint similarity, one a joint; (): unknown.
    """

    name: str = dataclasses.field(compare=False)
    joints: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    limbs: tuple[tuple[int, int], ...]
    groups: tuple[tuple[str, tuple[int, ...]], ...]
    torso: tuple[int, int]
    sigmas: tuple[float, ...] = ()

    @property
    def num_joints(self) -> int:
        return len(self.joints)

    @property
    def has_torso(self) -> bool:
        return self.torso[0] != self.torso[1]

    @property
    def flip_order(self) -> tuple[int, ...]:
        """Where each joint of a mirrored image is found in the unmirrored order."""
        order = list(range(self.num_joints))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        return tuple(order)

    def described(self) -> str | dict[str, Any]:
        """What files store: the name of a known skeleton, or all of one's own; `get_skeleton` reads it."""
        if SKELETONS.get(self.name) == self or _UNNAMED.fullmatch(self.name):
            return self.name
        named = [self.joints[i] for i in self.torso] if self.has_torso else None
        return {
            'name': self.name,
            'joints': list(self.joints),
            'flip_pairs': [[self.joints[i] for i in pair] for pair in self.flip_pairs],
            'limbs': [[self.joints[i] for i in limb] for limb in self.limbs],
            'groups': {group: [self.joints[i] for i in members] for group, members in self.groups},
            'torso': named,
            'sigmas': list(self.sigmas) or None,
        }

    @property
    def text(self) -> str:
        """`described`, where only text can be stored."""
        described = self.described()
        return described if isinstance(described, str) else json.dumps(described)


def named_apart(one: Skeleton, other: Skeleton) -> tuple[str, str]:
    """What a message calls two skeletons that differ: known ones by their names; of one's own, what differs is told, too."""
    first, second = repr(one.name), repr(other.name)
    if one.name == other.name:
        second = f'another {second}'
    elif {one.name, other.name} <= SKELETONS.keys():
        return first, second
    if one.joints == other.joints:
        fields = [field.name for field in dataclasses.fields(Skeleton) if field.compare]
        return first, f'{second}, of other {next(name for name in fields if getattr(one, name) != getattr(other, name))}'
    if set(one.joints) == set(other.joints):
        return first, f'{second}, with the same joints in another order'

    def told(this: Skeleton, that: Skeleton) -> str:
        alone = [joint for joint in this.joints if joint not in that.joints]
        count = f'{this.num_joints} joint{"s" * (this.num_joints != 1)}'
        return f'{this.name!r} ({count}{", among them " * bool(alone)}{some_of(alone)})'

    return told(one, other), told(other, one)


def make_skeleton(
    name: str,
    joints: Any,
    *,
    flip_pairs: Any = None,
    limbs: Any = None,
    groups: Any = None,
    torso: Any = None,
    sigmas: Any = None,
) -> Skeleton:
    """A skeleton of one's own. What is None comes from the names of the joints, where they tell it; there are no limbs then.

    Args:
        name: of the skeleton.
        joints: their names.
        flip_pairs: pairs of names.
        limbs: pairs of names.
        groups: name -> names of joints.
        torso: the names of two joints; an empty list: there is none.
        sigmas: positive numbers, one a joint, or by the names of all joints.

    Raises:
        InputError: naming the field.
    """
    if not isinstance(name, str) or not name:
        raise InputError(f'name is {name!r}, expected a text')
    if not isinstance(joints, list | tuple) or not all(isinstance(joint, str) and joint.strip() for joint in joints):
        raise InputError('joints: expected a list of names')
    if not 1 <= len(joints) <= MOST_JOINTS:
        raise InputError(f'joints: {len(joints)} of them, expected 1 to {MOST_JOINTS}')
    repeated = sorted({joint for joint in joints if joints.count(joint) > 1})
    if repeated:
        raise InputError(f'joints: {some_of(repeated)} more than once')
    index = {joint: i for i, joint in enumerate(joints)}
    by_name = index_of(joints)

    def one(joint: Any, field: str) -> int:
        if not isinstance(joint, str) or joint not in index:
            raise InputError(f'{field}: {joint!r} is none of the joints {some_of(joints)}')
        return index[joint]

    def pairs(value: Any, field: str) -> tuple[tuple[int, int], ...]:
        if not isinstance(value, list | tuple) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
            raise InputError(f'{field}: expected a list of pairs of joints')
        found = tuple((one(a, field), one(b, field)) for a, b in value)
        same = [joints[a] for a, b in found if a == b]
        if same:
            raise InputError(f'{field}: {same[0]!r} is paired with itself')
        return found

    flips = _flips(by_name) if flip_pairs is None else pairs(flip_pairs, 'flip_pairs')
    flipped = [i for pair in flips for i in pair]
    if len(set(flipped)) < len(flipped):
        raise InputError('flip_pairs: a joint is in two pairs')
    if torso is None:
        ends = [by_name[end] for end in ('l_shoulder', 'r_hip') if end in by_name]
    elif isinstance(torso, list | tuple) and len(torso) in (0, 2):
        ends = [one(joint, 'torso') for joint in torso]
    else:
        raise InputError('torso: expected two joints, left shoulder and right hip, or none')
    return Skeleton(
        name=name,
        joints=tuple(joints),
        flip_pairs=flips,
        limbs=() if limbs is None else pairs(limbs, 'limbs'),
        groups=_groups_of(by_name) if groups is None else _own_groups(groups, one),
        torso=(ends[0], ends[1]) if len(ends) == 2 else (0, 0),
        sigmas=() if sigmas is None else _sigmas_of(sigmas, joints),
    )


def _flips(by_name: Mapping[str, int]) -> tuple[tuple[int, int], ...]:
    found = []
    for joint, i in by_name.items():
        other = by_name.get({'l': 'r', 'r': 'l'}.get(joint[:1], '') + joint[1:], -1) if joint[1:2] == '_' else -1
        if other > i:
            found.append((i, other))
    return tuple(found)


def _groups_of(by_name: Mapping[str, int]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    heads = [by_name[head] for head in HEADS if head in by_name][:1]
    found = [('Head', tuple(heads))]
    for part in GROUPS:
        members = sorted(by_name[f'{side}_{part}'] for side in 'lr' if f'{side}_{part}' in by_name)
        found.append((part.capitalize(), tuple(members)))
    return tuple((group, members) for group, members in found if members)


def _own_groups(groups: Any, one: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
    if not isinstance(groups, Mapping) or not all(isinstance(members, list | tuple) and members for members in groups.values()):
        raise InputError('groups: expected a list of joints for each name of a group')
    return tuple((str(group), tuple(one(joint, f'groups.{group}') for joint in members)) for group, members in groups.items())


def _sigmas_of(sigmas: Any, joints: Sequence[str]) -> tuple[float, ...]:
    if isinstance(sigmas, Mapping):
        if set(sigmas) != set(joints):
            raise InputError(f'sigmas: expected one for each of the {len(joints)} joints')
        sigmas = [sigmas[joint] for joint in joints]
    good = isinstance(sigmas, list | tuple) and len(sigmas) == len(joints)
    if not good or not all(type(sigma) in (int, float) and 0 < sigma < math.inf for sigma in sigmas):
        raise InputError(f'sigmas: expected {len(joints)} positive numbers, one for each joint')
    return tuple(map(float, sigmas))


def _skeleton(name: str, joints: str, limbs: str, sigmas: Sequence[float] | None = None) -> Skeleton:
    return make_skeleton(name, joints.split(), limbs=[limb.split('-') for limb in limbs.split()], sigmas=sigmas)


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
)
JHMDB = _skeleton(
    'jhmdb',
    'neck belly face r_shoulder l_shoulder r_hip l_hip r_elbow l_elbow r_knee l_knee r_wrist l_wrist r_ankle l_ankle',
    f'face-neck neck-belly neck-l_shoulder neck-r_shoulder belly-l_hip belly-r_hip {_LIMBS}',
)
MPII = _skeleton(
    'mpii',
    'r_ankle r_knee r_hip l_hip l_knee l_ankle pelvis thorax upper_neck head_top '
    'r_wrist r_elbow r_shoulder l_shoulder l_elbow l_wrist',
    f'head_top-upper_neck upper_neck-thorax thorax-pelvis thorax-l_shoulder thorax-r_shoulder pelvis-l_hip pelvis-r_hip {_LIMBS}',
)
LSP = _skeleton(
    'lsp',
    'r_ankle r_knee r_hip l_hip l_knee l_ankle r_wrist r_elbow r_shoulder l_shoulder l_elbow l_wrist neck head_top',
    f'head_top-neck neck-l_shoulder neck-r_shoulder l_shoulder-l_hip r_shoulder-r_hip {_LIMBS}',
)
SMPL = _skeleton(
    'smpl',
    'pelvis l_hip r_hip spine1 l_knee r_knee spine2 l_ankle r_ankle spine3 l_foot r_foot '
    'neck l_collar r_collar head l_shoulder r_shoulder l_elbow r_elbow l_wrist r_wrist l_hand r_hand',
    f'pelvis-spine1 spine1-spine2 spine2-spine3 spine3-neck neck-head spine3-l_collar spine3-r_collar l_collar-l_shoulder '
    f'r_collar-r_shoulder pelvis-l_hip pelvis-r_hip l_ankle-l_foot r_ankle-r_foot l_wrist-l_hand r_wrist-r_hand {_LIMBS}',
)
COCO = _skeleton(
    'coco',
    'nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist '
    'left_hip right_hip left_knee right_knee left_ankle right_ankle',
    'left_ankle-left_knee left_knee-left_hip right_ankle-right_knee right_knee-right_hip left_hip-right_hip '
    'left_shoulder-left_hip right_shoulder-right_hip left_shoulder-right_shoulder left_shoulder-left_elbow '
    'right_shoulder-right_elbow left_elbow-left_wrist right_elbow-right_wrist left_eye-right_eye nose-left_eye nose-right_eye '
    'left_eye-left_ear right_eye-right_ear left_ear-left_shoulder right_ear-right_shoulder',
    # of pycocotools' COCOeval
    sigmas=[
        *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062),
        *(0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
    ],
)
# The columns of the release's files, which follow COCO's; the ears were never annotated.
POSETRACK = _skeleton(
    'posetrack',
    'nose head_bottom head_top left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist '
    'left_hip right_hip left_knee right_knee left_ankle right_ankle',
    'head_top-nose nose-head_bottom head_bottom-left_shoulder head_bottom-right_shoulder left_shoulder-left_hip '
    f'right_shoulder-right_hip {_LIMBS.replace("l_", "left_").replace("r_", "right_")}',
)
SKELETONS = {skeleton.name: skeleton for skeleton in (PENN_ACTION, JHMDB, MPII, LSP, SMPL, COCO, POSETRACK)}
_UNNAMED = re.compile(r'points[0-9]{1,4}')
_FIELDS = ('name', 'joints', 'flip_pairs', 'limbs', 'groups', 'torso', 'sigmas')


def get_skeleton(stored: str | Mapping[str, Any]) -> Skeleton:
    """The skeleton of that name, or the one that `Skeleton.described` or `Skeleton.text` describes.

    `points<J>` is J joints of which nothing is known. Raises `InputError` with the known names, or naming the field.
    """
    described: Any = stored
    if isinstance(stored, str) and stored.startswith('{'):
        described = parse_json(stored, 'skeleton')
    if isinstance(described, Mapping):
        odd = [name for name in _FIELDS if name not in described] + [name for name in described if name not in _FIELDS]
        if odd:
            raise InputError(f'skeleton: {odd[0]!r} is {"missing" if odd[0] in _FIELDS else "no field of a skeleton"}')
        fields = {key: described[key] for key in _FIELDS[2:]}
        if described['name'] in SKELETONS or _UNNAMED.fullmatch(str(described['name'])):
            raise InputError(f'skeleton: {described["name"]!r} is the name of another one')
        try:
            return make_skeleton(described['name'], described['joints'], **fields | {'torso': fields['torso'] or []})
        except InputError as error:
            raise InputError(f'skeleton: {error}') from error
    if isinstance(described, str) and _UNNAMED.fullmatch(described):
        joints = tuple(f'point{i}' for i in range(int(described.removeprefix('points'))))
        return Skeleton(described, joints, flip_pairs=(), limbs=(), groups=(), torso=(0, 0))
    if not isinstance(described, str) or described not in SKELETONS:
        raise InputError(f'unknown skeleton {described!r}; known: {", ".join(sorted(SKELETONS))}')
    return SKELETONS[described]
