"""Files of SMPL's body model, which a user brings: its licence allows nobody to pass it on."""

import pathlib
from typing import Any

import numpy as np

from kimnet_jax.core.array_files import dense, read_npz, read_pickle
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.smpl import NUM_JOINTS, Body

_FIELDS = ('v_template', 'shapedirs', 'J_regressor', 'kintree_table')


def read_body(path: pathlib.Path) -> Body:
    """The skeleton of a model: `SMPL_NEUTRAL.npz`, or the `.pkl` as it is handed out (chumpy and SciPy are not imported).

    Nothing in the file is ever run. Raises `InputError` naming the file and what is wrong.
    """
    if path.suffix not in ('.npz', '.pkl'):
        raise InputError(f'{path}: SMPL models come as .npz or .pkl')
    found = read_npz(path) if path.suffix == '.npz' else read_pickle(path)
    if not isinstance(found, dict):
        raise InputError(f'{path}: holds a {type(found).__name__}, no SMPL model')
    template, directions, regressor, tree = (_array(found, field, path) for field in _FIELDS)
    vertices = len(template)
    shapes = (template.shape, directions.shape[:2], regressor.shape, tree.shape)
    if shapes != ((vertices, 3), (vertices, 3), (NUM_JOINTS, vertices), (2, NUM_JOINTS)) or directions.ndim != 3:
        given = ', '.join(f'{field} {list(shape)}' for field, shape in zip(_FIELDS, shapes, strict=True))
        raise InputError(f'{path}: not a model of SMPL, which has {NUM_JOINTS} joints: {given}')
    parents = (-1, *(int(parent) for parent in tree[0, 1:]))
    if any(not 0 <= parent < joint for joint, parent in enumerate(parents[1:], 1)):
        raise InputError(f'{path}: kintree_table: the parent of each joint must come before it: {list(parents)}')
    rest, offsets = regressor @ template, np.einsum('jv,vcs->jcs', regressor, directions)
    return Body(rest.astype(np.float32), offsets.astype(np.float32), parents)


def _array(found: dict[str, Any], field: str, path: pathlib.Path) -> np.ndarray:
    if field not in found:
        raise InputError(f'{path}: no {field!r} in it, so no SMPL model; it has {", ".join(map(str, found)) or "nothing"}')
    try:
        array = dense(found[field])
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, MemoryError) as error:
        raise InputError(f'{path}: {field} cannot be read ({error}); save the model as .npz of plain arrays') from error
    if not np.isfinite(array).all():
        raise InputError(f'{path}: {field} is not finite')
    return array
