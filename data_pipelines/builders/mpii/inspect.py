"""What `data_pipelines.doctor` says of a download of MPII, by the rules of its builder."""

import collections
import functools
import pathlib

from data_pipelines import download
from data_pipelines.builders.mpii import annotations, layout
from data_pipelines.builders.mpii.annotations import OUTSIDE, Person
from data_pipelines.builders.mpii.layout import Layout
from data_pipelines.findings import Check, Finding, Report, attempt
from data_pipelines.images import read_image
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.geometry import inside

OFFICIAL = {'train persons': 22_246, 'valid persons': 2_958}  # of SimpleBaseline's files


def inspect(root: pathlib.Path, scratch: pathlib.Path, pixels: bool) -> tuple[Report, list[Check]]:
    """See `data_pipelines.findings`. A check is one image with its persons, of the JSON files where they are there."""
    source = Layout(root, scratch)
    if source.has_json():
        (splits, findings), official = annotations.read_json(source.json_files()), OFFICIAL
    elif source.has_mat():
        (splits, findings), official = annotations.read_mat(source.mat_file()), {}
    else:
        raise InputError(f'{root}: no annotations there; expected {layout.INSTRUCTIONS}')
    persons = collections.defaultdict(list)
    for person in [person for split in splits.values() for person in split]:
        persons[person.image].append(person)
    images = source.folder(layout.IMAGES, lambda inner: inner.name in persons) if pixels else source.locate(layout.IMAGES)
    names = {inner.name for inner in download.names(images, layout.IMAGES)}
    folder = images if images.is_dir() else images / layout.IMAGES
    counts = {f'{split} persons': len(found) for split, found in splits.items()}
    checks: list[Check] = [
        functools.partial(_check, folder / image, image in names, found, pixels) for image, found in persons.items()
    ]
    return Report(findings, counts, official), checks


def _check(file: pathlib.Path, there: bool, persons: list[Person], pixels: bool) -> Report:
    findings: list[Finding] = []
    joints = sum(int(person.visible.sum()) for person in persons)
    if not there:
        findings.append(Finding('error', file.name, f'{file}: missing, and it has annotated persons'))
    elif pixels and (image := attempt(findings, file.name, read_image, file)):
        for person in persons:
            if outside := int((person.visible & ~inside(person.joints, image[1])).sum()):
                findings.append(Finding('warning', person.name, OUTSIDE, outside))
    return Report(findings, {'images': 1, 'annotated joints': joints})
