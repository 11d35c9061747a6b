"""LSP's persons, one an image: from `joints.mat`, whose pixels are taken to be 0-based."""

import pathlib
from collections.abc import Iterator

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import LSP
from kimnet_jax.data_pipelines import matlab
from kimnet_jax.data_pipelines.builders.lsp.layout import Extended, Layout
from kimnet_jax.data_pipelines.findings import Finding
from kimnet_jax.data_pipelines.persons import Person, Splits, box_around, held_out

J = LSP.num_joints
TRAINING = 1000  # the first images of the original LSP are to be trained on
FEW = 6
# What is left out or kept, as it is counted; to be read after a number.
NO_BOX = 'persons have no two annotated joints apart, so no box, and are left out'
FEW_JOINTS = f'persons have fewer than {FEW} annotated joints and are kept'
AT_ORIGIN = 'joints are marked as annotated, but at (0, 0), and are taken as not annotated'


def read_joints(file: pathlib.Path) -> np.ndarray:
    """float64 [N, 14, 3]: x, y, flag, as in the file, be that [14, 3, N] or [3, 14, N]. Raises `InputError`."""
    fields = matlab.read_fields(file, ('joints',))
    flags_first = fields['joints'].shape[:2] == (3, J)
    shape, order = ((3, J, 'N'), (2, 1, 0)) if flags_first else ((J, 3, 'N'), (2, 0, 1))
    joints = matlab.numbers(file, fields, 'joints', shape, 'joints; x, y and a flag; images; or the first two swapped')
    return joints.transpose(order).astype(np.float64)


def read_persons(source: Layout) -> tuple[Splits, list[Finding]]:
    """The persons of LSP Extended or of the original LSP.

    In LSP Extended, flag 1 means that the joint is annotated. In the original LSP all joints are annotated, and flag 1 means that
    the joint is hidden. The box is the extent of the annotated joints, widened. The original LSP has its official split, `train`
    and `test`; LSP Extended has none, so one of ten images is held out as `valid`.

    Raises:
        InputError: naming the file and the image: unreadable, of another shape, a joint is not finite, a flag is neither 0 nor 1,
            or a split has nobody.
    """
    file = source.joints_file()
    joints = read_joints(file)
    extended = isinstance(source, Extended)
    splits: Splits = {'train': [], 'valid' if extended else 'test': []}
    findings = []
    for number, (image, record) in enumerate(zip(source.images(len(joints)), joints, strict=True), 1):
        for found in _person(f'{file}: {image}', image, record, extended):
            if isinstance(found, Finding):
                findings.append(found)
            elif extended:
                splits['valid' if held_out(image) else 'train'].append(found)
            else:
                splits['train' if number <= TRAINING else 'test'].append(found)
    for split, persons in splits.items():
        if not persons:
            raise InputError(f'{file}: joints of {len(joints)} images, and nobody for split {split!r}')
    return splits, findings


def _person(where: str, image: str, record: np.ndarray, extended: bool) -> Iterator[Person | Finding]:
    """The person in a record [14, 3], unless there is no box; and what was found."""
    points, flags, name = record[:, :2], record[:, 2], pathlib.PurePosixPath(image).stem
    if not np.isin(flags, (0, 1)).all():
        raise InputError(f'{where}: flags other than 0 and 1')
    annotated = (flags == 1) if extended else np.ones(J, bool)
    bad = np.flatnonzero(annotated & ~np.isfinite(points).all(-1))
    if len(bad):
        raise InputError(f'{where}: {LSP.joints[bad[0]]!r} is not finite ({len(bad)} such joints)')
    at_origin = annotated & (points == 0).all(-1)
    if at_origin.any():
        yield Finding('warning', name, AT_ORIGIN, int(at_origin.sum()))
    annotated &= ~at_origin
    joints = matlab.single(np.where(annotated[:, None], points, 0))
    box = box_around(joints, annotated)
    if box is None:
        yield Finding('warning', name, NO_BOX)
        return
    if not np.isfinite(box).all():
        raise InputError(f'{where}: joints are too large')
    if annotated.sum() < FEW:
        yield Finding('warning', name, FEW_JOINTS)
    yield Person(image, name, joints, annotated, box)
