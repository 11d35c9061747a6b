"""What `data_pipelines.doctor` says of a download of LSP or LSP Extended, or of both, by the rules of their builder."""

import pathlib

from kimnet_jax.core.errors import InputError
from kimnet_jax.data_pipelines.builders.lsp import annotations, layout
from kimnet_jax.data_pipelines.findings import Check, Finding, Report
from kimnet_jax.data_pipelines.persons import IMAGES, make_checks

OFFICIAL = {
    'extended': {'extended train persons': 9_037, 'extended valid persons': 963},
    'original': {'original train persons': 1_000, 'original test persons': 1_000},
}


def inspect(root: pathlib.Path, scratch: pathlib.Path, pixels: bool) -> tuple[Report, list[Check]]:
    """See `data_pipelines.findings`. A check is one image with its person."""
    findings: list[Finding] = []
    counts: dict[str, int] = {}
    official: dict[str, int] = {}
    checks: list[Check] = []
    for config, kind in layout.LAYOUTS.items():
        source = kind(root, scratch)
        if source.find(IMAGES):
            splits, found = annotations.read_persons(source)
            findings += found
            counts |= {f'{config} {split} persons': len(persons) for split, persons in splits.items()}
            official |= OFFICIAL[config]
            checks += make_checks(source, splits, pixels)
    if not official:
        raise InputError(f'{root}: no {IMAGES} there; expected {layout.INSTRUCTIONS}')
    return Report(findings, counts, official), checks
