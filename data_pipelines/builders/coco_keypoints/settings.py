"""`dataset.toml` and `skeleton.toml` of one's own data: what annotation files do not tell, or tell otherwise than wanted."""

import dataclasses
import pathlib
import re
import tomllib
from collections.abc import Mapping
from typing import Any, Literal, get_args

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import read_text
from kimnet_jax.core.skeleton import SKELETONS, Skeleton, make_skeleton

FILE, SKELETON_FILE = 'dataset.toml', 'skeleton.toml'
REST = 'rest'  # in the place of a list: the clips of no other split
SKELETON_FIELDS = ('joints', 'flip_pairs', 'limbs', 'groups', 'torso', 'sigmas')
Rule = Literal['auto', 'video_id', 'folder', 'number', 'none']
SplitRule = float | str | list[str]  # a share; a file, of annotations or with a list, or `REST`; a list of names


@dataclasses.dataclass(frozen=True)
class Settings:
    """Attributes:
    clips: what makes images a clip; `auto`: the first of `video_id`, `folder` and `number` that the annotations have.
    category: the name of the category whose keypoints are wanted; '': the only one that has some.
    pixel_centre: where the centre of the first pixel lies in the files: 0.0 as in COCO, 0.5 where the corner of the image is 0.
    first_frame: number of the first frame of a video.
    splits: name -> how it is chosen; {}: by file where files are named after splits, else 80 % train and 20 % test.
    skeleton: fields of the skeleton that are not taken from the annotations.
    """

    clips: Rule = 'auto'
    category: str = ''
    pixel_centre: float = 0.0
    first_frame: int = 0
    splits: Mapping[str, SplitRule] = dataclasses.field(default_factory=dict)
    skeleton: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def read_settings(root: pathlib.Path) -> Settings:
    """The settings in `root`; the defaults where it has no such file. Raises `InputError` naming file and field."""
    file, skeleton_file = root / FILE, root / SKELETON_FILE
    fields = _read_toml(file) if file.exists() else {}
    known = [field.name for field in dataclasses.fields(Settings)]
    for name in fields:
        if name not in known:
            raise InputError(f'{file}: {name!r} is no field; known: {", ".join(known)}')
    if skeleton_file.exists():
        if 'skeleton' in fields:
            raise InputError(f'{skeleton_file}: {FILE} has a skeleton, too; leave one of them out')
        fields['skeleton'] = _read_toml(skeleton_file)
    place = skeleton_file if skeleton_file.exists() else file
    skeleton = fields.get('skeleton', {})
    if not isinstance(skeleton, dict):
        raise InputError(f'{file}: skeleton is {skeleton!r}, expected a table')
    _check_fields(skeleton, place)
    if fields.get('clips', 'auto') not in get_args(Rule):
        raise InputError(f'{file}: clips is {fields["clips"]!r}; choose one of {", ".join(get_args(Rule))}')
    if not isinstance(fields.get('category', ''), str):
        raise InputError(f'{file}: category is {fields["category"]!r}, expected a text')
    if fields.get('pixel_centre', 0.0) not in (0.0, 0.5):
        raise InputError(f'{file}: pixel_centre is {fields["pixel_centre"]!r}, expected 0.0 or 0.5')
    first = fields.get('first_frame', 0)
    if type(first) is not int or first not in (0, 1):
        raise InputError(f'{file}: first_frame is {first!r}, expected 0 or 1')
    if 'splits' in fields:
        _check_splits(file, fields['splits'])
    return Settings(**fields)


def own_skeleton(name: str, fields: Mapping[str, Any]) -> Skeleton:
    """The known skeleton that has these joints in this order, unless more than joints and limbs is given; or one's own.

    Raises `InputError` naming the field.
    """
    joints = fields.get('joints')
    if not isinstance(joints, list):
        raise InputError('joints: expected a list of names')
    if not set(fields) - {'joints', 'limbs'}:
        for known in SKELETONS.values():
            if [*known.joints] == joints:
                return known
    name = f'{name}_joints' if name in SKELETONS or name.startswith('points') else name
    return make_skeleton(name, **fields)


def read_skeleton(file: pathlib.Path) -> Skeleton:
    """What a file such as `skeleton.toml` describes, under the name of the file. Raises `InputError` naming file and field."""
    fields = _read_toml(file)
    _check_fields(fields, file)
    try:
        return own_skeleton(file.stem, fields)
    except InputError as error:
        raise InputError(f'{file}: {error}') from error


def _check_fields(skeleton: Mapping[str, Any], place: pathlib.Path) -> None:
    for name in skeleton:
        if name not in SKELETON_FIELDS:
            raise InputError(f'{place}: {name!r} is no field of a skeleton; known: {", ".join(SKELETON_FIELDS)}')


def _read_toml(file: pathlib.Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(file))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f'{file}: not valid TOML ({error})') from error


def _check_splits(file: pathlib.Path, splits: Any) -> None:
    if not isinstance(splits, dict) or not splits:
        raise InputError(f'{file}: splits: expected a table, such as train = 0.8 and test = 0.2')
    shares = []
    for name, rule in splits.items():
        if not re.fullmatch(r'[A-Za-z]\w*', name, re.ASCII) or name == 'all':
            raise InputError(f'{file}: splits: {name!r} is no name of a split; use letters, digits and _')
        if isinstance(rule, int | float) and not isinstance(rule, bool):
            if not 0 < rule <= 1:
                raise InputError(f'{file}: splits.{name} is {rule}: a share must be above 0, and 1 at most')
            shares.append(rule)
        elif not isinstance(rule, str) and not (isinstance(rule, list) and rule and all(isinstance(one, str) for one in rule)):
            raise InputError(f'{file}: splits.{name}: expected a share, a file, {REST!r} or a list of names of clips')
    if shares and len(shares) < len(splits):
        raise InputError(f'{file}: splits: some are shares and others are not; a list can be completed by {REST!r}')
    if sum(shares) > 1 + 1e-9:
        raise InputError(f'{file}: splits: the shares add up to {sum(shares):g}, more than 1')
    if [*splits.values()].count(REST) > 1:
        raise InputError(f'{file}: splits: two of them are {REST!r}')
