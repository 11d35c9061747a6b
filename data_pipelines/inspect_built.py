"""What `kimnet doctor` says of a data set that is built: every byte by its checksum, every record by the tables."""

import functools
import pathlib

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.image import decode_image
from kimnet_jax.data_pipelines import checksums, clip_source, schema
from kimnet_jax.data_pipelines.builders import BUILDERS, import_builder, stored_config
from kimnet_jax.data_pipelines.findings import Check, Finding, Report, attempt


def built_folders(dataset: str, root: pathlib.Path) -> list[pathlib.Path]:
    """The folders of the data sets that NAME[/CONFIG] stands for below a `data_dir`, or `root`, where it is such a folder."""
    name, _, config = dataset.partition('/')
    if name not in BUILDERS:
        return []
    configs = [config, stored_config(import_builder(name), config)] if config else ['*']
    places = [place for one in dict.fromkeys(configs) for place in sorted(root.glob(f'{name}/{one}/*.*.*/dataset_info.json'))]
    return [mark.parent for mark in (root / 'dataset_info.json', *places) if mark.exists()]


def inspect_built(folder: pathlib.Path, pixels: bool) -> tuple[Report, list[Check]]:
    """As the `inspect` of a download (`data_pipelines.findings`); a check is one clip."""
    findings: list[Finding] = []
    damages = attempt(findings, str(folder), lambda: list(checksums.damages(folder, in_full=lambda name: True)))
    findings += [Finding('error', str(folder), damage) for damage in damages or ()]
    if findings:  # what else there would be to say follows from these
        return Report(findings), []
    built = attempt(findings, str(folder), clip_source.read_built, folder)
    if built is None:
        return Report(findings), []
    checks: list[Check] = []
    numbers = {split: info.num_examples for split, info in built.splits.items()}
    for split in filter(numbers.get, numbers):
        clips = clip_source.open_built(folder, split)
        checks += [functools.partial(_check, clips, index, pixels) for index in range(len(clips))]
    counts = {'clips' if split == schema.SHARED else f'{split} clips': number for split, number in numbers.items()}
    return Report(findings, counts), checks


def _check(clips: clip_source.ClipSource, index: int, pixels: bool) -> Report:
    example = clips[index]
    clips.check_records(index)
    if not pixels:
        return Report([], {'frames': len(example['frames'])})
    for number, frame in enumerate(example['frames']):
        place = f'{clips.folder}: clip {example["clip"]!r}, frame {number}'
        size = decode_image(frame, place).shape[:2]
        if size != tuple(example['image_size']):
            raise InputError(f'{place}: {size[1]}x{size[0]} pixels, its record says {tuple(example["image_size"][::-1])}')
    return Report([], {'frames': len(example['frames'])})
