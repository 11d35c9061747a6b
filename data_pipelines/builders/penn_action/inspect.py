"""What `kimnet doctor` says of a download of Penn Action, by the rules of its builder."""

import functools
import pathlib
from collections.abc import Sequence

from kimnet_jax.core.skeleton import PENN_ACTION
from kimnet_jax.data_pipelines import sides
from kimnet_jax.data_pipelines.builders.penn_action import layout
from kimnet_jax.data_pipelines.builders.penn_action.labels import read_label
from kimnet_jax.data_pipelines.builders.penn_action.layout import Layout
from kimnet_jax.data_pipelines.findings import Check, Finding, Report, attempt
from kimnet_jax.data_pipelines.images import read_image


def inspect(root: pathlib.Path, scratch: pathlib.Path, pixels: bool) -> tuple[Report, list[Check]]:
    """See `data_pipelines.findings`. A check is one label with its frames."""
    source, findings = Layout(root, scratch), list[Finding]()
    files = source.labels()
    frames = attempt(findings, str(root), source.folder if pixels else source.locate, layout.FRAMES)
    if frames is None:  # the labels can be checked without
        return Report(findings, {'images': 0}, layout.OFFICIAL), [functools.partial(_check, file) for file in files.values()]
    images = layout.image_names(frames)
    folder = frames if frames.is_dir() else frames / layout.FRAMES
    findings += [Finding('error', clip, text) for clip, text in layout.unmatched(files, images).items()]
    report = Report(findings, {'images': sum(map(len, images.values()))}, layout.OFFICIAL)
    return report, [functools.partial(_check, file, folder / clip, images.get(clip, []), pixels) for clip, file in files.items()]


def _check(file: pathlib.Path, folder: pathlib.Path = pathlib.Path(), names: Sequence[str] = (), pixels: bool = False) -> Report:
    findings: list[Finding] = []
    label = attempt(findings, file.stem, read_label, file)
    if label is None:
        return Report(findings)
    findings += [Finding('warning', file.stem, what, count) for what, count in label.mended.items()]
    expected = layout.frame_names(len(label.joints))
    if names:
        attempt(findings, file.stem, layout.require_frames, str(folder), names, len(expected))
    for name in expected if pixels else ():
        if name in names:
            attempt(findings, file.stem, read_image, folder / name, label.image_size, layout.SIZE_SOURCE)
    return Report(
        findings,
        {
            'clips': 1,
            f'{label.split} clips': 1,
            'frames': len(expected),
            'visible joints': int(label.visible.sum()),
        }
        | sides.count_sides(label.view, label.joints, label.visible, PENN_ACTION),
    )
