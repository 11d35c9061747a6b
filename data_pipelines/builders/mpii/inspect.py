"""What `data_pipelines.doctor` says of a download of MPII, by the rules of its builder."""

import pathlib

from kimnet_jax.core.errors import InputError
from kimnet_jax.data_pipelines.builders.mpii import annotations, layout
from kimnet_jax.data_pipelines.builders.mpii.layout import Layout
from kimnet_jax.data_pipelines.findings import Check, Report
from kimnet_jax.data_pipelines.persons import make_checks

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
    counts = {f'{split} persons': len(persons) for split, persons in splits.items()}
    return Report(findings, counts, official), make_checks(source, splits, pixels)
