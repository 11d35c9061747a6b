"""Files in DeciWatch's layout, and a body model like SMPL's, made up."""

import pathlib

import numpy as np
from scipy.spatial.transform import Rotation

LENGTHS = (4, 6)
PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)  # SMPL's


def objects(values: list) -> np.ndarray:
    """An array of arrays."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def image_names(lengths=LENGTHS, prefix: str = 'clip') -> np.ndarray:
    return objects(
        [np.array([f'/data/Rename_Images/jump/{prefix}{i}/{t:05d}.png' for t in range(n)]) for i, n in enumerate(lengths)]
    )


def joint_files(folder: pathlib.Path, *, dims: int = 2, joints: int = 15, flat: bool = True, lengths=LENGTHS, prefix='clip'):
    """(estimates, truth, the true joints [T, J, D] of each clip); the estimates are 1 more everywhere."""
    rng = np.random.default_rng(0)
    true = [rng.uniform(0, 200, (n, joints, dims)) for n in lengths]
    names = image_names(lengths, prefix)
    shape = (lambda pose: pose.reshape(len(pose), -1)) if flat else (lambda pose: pose)
    extra = {
        'bbox': objects([np.tile([10.0, 20.0, 110.0, 220.0], (n, 1)) for n in lengths]),
        'imgshape': objects([np.array([240, 320, 3])] * len(lengths)),
    }
    detected, truth = folder / f'{prefix}_detected.npz', folder / f'{prefix}_gt.npz'
    np.savez(truth, imgname=names, **{f'joints_{dims}d': objects([shape(p) for p in true])}, **(extra if dims == 2 else {}))
    np.savez(detected, imgname=names, **{f'joints_{dims}d': objects([shape(p + 1) for p in true])})
    return detected, truth, true


def rotation_files(folder: pathlib.Path, *, lengths=LENGTHS, prefix='clip', noise: float = 0.1):
    """(estimates, truth) of SMPL's rotations, axis-angle; people move smoothly, their estimates do not."""
    rng = np.random.default_rng(len(lengths))
    true = [0.3 * np.sin(np.linspace(0, 2, n)[:, None] + rng.uniform(0, 6, 72)) for n in lengths]
    found = [pose + rng.normal(0, noise, pose.shape) for pose in true]
    shapes = objects([np.tile(rng.normal(0, 1, 10), (n, 1)) for n in lengths])
    detected, truth = folder / f'{prefix}_detected.npz', folder / f'{prefix}_gt.npz'
    names, joints = image_names(lengths, prefix), objects([np.zeros((n, 14 * 3)) for n in lengths])  # they come with joints, too
    np.savez(truth, imgname=names, pose=objects(true), shape=shapes, joints_3d=joints)
    np.savez(detected, imgname=names, pose=objects(found), shape=shapes, joints_3d=joints)
    return detected, truth


def body_arrays(vertices: int = 30) -> dict[str, np.ndarray]:
    """A body of few vertices, with the arrays of SMPL's files."""
    rng = np.random.default_rng(1)
    regressor = rng.uniform(0, 1, (24, vertices)) * (rng.random((24, vertices)) < 0.2) + np.eye(24, vertices)
    tree = np.array([PARENTS, range(24)]).astype(np.uint32)  # the pelvis has 2**32 - 1
    return {
        'v_template': rng.normal(0, 0.5, (vertices, 3)),
        'shapedirs': rng.normal(0, 0.05, (vertices, 3, 10)),
        'J_regressor': regressor / regressor.sum(1, keepdims=True),
        'kintree_table': tree,
        'weights': np.zeros((vertices, 24)),
    }


def body_file(folder: pathlib.Path) -> pathlib.Path:
    np.savez(folder / 'SMPL_NEUTRAL.npz', **body_arrays())
    return folder / 'SMPL_NEUTRAL.npz'


def matrices(vectors: np.ndarray) -> np.ndarray:
    """[..., 3] axis-angle -> [..., 3, 3], by SciPy."""
    return Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(*vectors.shape, 3)
