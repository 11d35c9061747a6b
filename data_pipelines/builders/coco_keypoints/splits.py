"""Which clips are trained on: by share, by list or by annotation file, all clips of a video together."""

import fnmatch
import pathlib
import re
import zlib
from collections.abc import Mapping, Sequence

from kimnet_jax.core.errors import InputError, some_of
from kimnet_jax.core.files import read_text
from kimnet_jax.data_pipelines.builders.coco_keypoints.clips import Clip
from kimnet_jax.data_pipelines.builders.coco_keypoints.settings import FILE, REST, SplitRule
from kimnet_jax.data_pipelines.findings import Finding

SHARES: Mapping[str, SplitRule] = {'train': 0.8, 'test': 0.2}
IN_NO_SPLIT = 'videos or images are in no split and are left out'  # to be read after a number
_NAMES = {'train': 'train', 'training': 'train', 'val': 'valid', 'valid': 'valid', 'validation': 'valid', 'test': 'test'}
Splits = dict[str, list[Clip]]


def choose(clips: Sequence[Clip], rules: Mapping[str, SplitRule], root: pathlib.Path) -> tuple[Splits, str, list[Finding]]:
    """The clips of each split, in their order, the sentence that says how they were chosen, and what was left out.

    Raises:
        InputError: a split has no clip, a group is in two splits, or a list names what is not there.
    """
    groups = list(dict.fromkeys(clip.group for clip in clips))
    if not groups:
        raise InputError(f'{root}: no person with joints in any image')
    by_file = {source: of_file(source, root) for source in dict.fromkeys(clip.frames[0][0].source for clip in clips)}
    if not rules and len(set(by_file.values())) > 1 and '' not in by_file.values():
        splits: Splits = {name: [] for name in dict.fromkeys(by_file.values())}
        for clip in clips:
            splits[by_file[clip.frames[0][0].source]].append(clip)
        return splits, 'Splits by annotation file: ' + ', '.join(splits), []
    told = '' if rules else f', by a checksum of its name; {FILE} can say otherwise'
    rules = rules or SHARES
    shares = {name: rule for name, rule in rules.items() if isinstance(rule, int | float)}
    if shares:
        chosen = _by_share(groups, shares, root)
        words = 'Splits by share of videos or images: ' + ', '.join(f'{name} {share:.0%}' for name, share in shares.items())
    else:
        chosen = _by_list(clips, groups, rules, root)
        words = f'Splits as {FILE} lists them'
    splits = {name: [clip for clip in clips if chosen.get(clip.group) == name] for name in rules}
    left = [group for group in groups if group not in chosen]
    return splits, words + told, [Finding('warning', group, IN_NO_SPLIT) for group in left]


def of_file(source: pathlib.Path, root: pathlib.Path) -> str:
    """The split that an annotation file or its folder is named after; '': none."""
    for name in (source.stem, source.parent.name if source.parent != root else ''):
        words = [_NAMES[word] for word in re.findall('[a-z]+', name.lower()) if word in _NAMES]
        if words:
            return words[-1]
    return ''


def _by_share(groups: Sequence[str], shares: Mapping[str, float], root: pathlib.Path) -> dict[str, str]:
    if len(groups) < len(shares):
        raise InputError(
            f'{root}: {len(groups)} videos or images with persons are too few for the splits {", ".join(shares)}; '
            f'label more, or set fewer splits in {FILE}'
        )
    ranked = sorted(groups, key=lambda group: (zlib.crc32(group.encode()), group))
    counts = [max(round(share * len(groups)), 1) for share in shares.values()]
    while sum(counts) > len(groups):
        counts[counts.index(max(counts))] -= 1
    if sum(shares.values()) > 1 - 1e-9:  # of what rounding leaves, the largest share gets more
        counts[counts.index(max(counts))] += len(groups) - sum(counts)
    names = [name for name, count in zip(shares, counts, strict=True) for _ in range(count)]
    return dict(zip(ranked, names, strict=False))


def _by_list(clips: Sequence[Clip], groups: Sequence[str], rules: Mapping[str, SplitRule], root: pathlib.Path) -> dict[str, str]:
    chosen: dict[str, str] = {}
    images = {image.name: clip.group for clip in clips for image, _ in clip.frames}
    files: dict[pathlib.Path, set[str]] = {}
    for clip in clips:
        files.setdefault(clip.frames[0][0].source, set()).add(clip.group)
    for split, rule in rules.items():
        if rule == REST:
            continue
        place = f'{root / FILE}: splits.{split}'
        found: set[str] = set()
        if isinstance(rule, str) and rule.endswith('.json'):
            found = next((of_file for file, of_file in files.items() if str(file).endswith(f'/{rule}')), set())
            if not found:
                raise InputError(f'{place}: no annotation file {rule} with persons; there are {some_of([f.name for f in files])}')
        else:
            for pattern in _listed(rule, root, place):
                matching = {group for group in groups if fnmatch.fnmatchcase(group, pattern)}
                matching |= {group for image, group in images.items() if fnmatch.fnmatchcase(image, pattern)}
                if not matching:
                    raise InputError(f'{place}: no video or image {pattern!r} with persons; there are {some_of(groups)}')
                found |= matching
        for group in sorted(found):
            if group in chosen:
                raise InputError(f'{place}: {group!r} is in {chosen[group]!r}, too')
            chosen[group] = split
    rest = next((split for split, rule in rules.items() if rule == REST), None)
    if rest:
        chosen |= {group: rest for group in groups if group not in chosen}
    empty = [split for split in rules if split not in chosen.values()]
    if empty:
        raise InputError(f'{root / FILE}: splits.{empty[0]}: no clip is left for it')
    return chosen


def _listed(rule: SplitRule, root: pathlib.Path, place: str) -> list[str]:
    """Names, with `*` and `?`, of a list or of a file with one a line."""
    if isinstance(rule, list):
        return rule
    assert isinstance(rule, str)
    if not rule.endswith('.txt') or pathlib.PurePath(rule).is_absolute() or '..' in pathlib.PurePath(rule).parts:
        raise InputError(f'{place} is {rule!r}: expected an annotation file (.json), a list (.txt) in {root}, or {REST!r}')
    names = [line.strip() for line in read_text(root / rule).splitlines() if line.strip()]
    if not names:
        raise InputError(f'{root / rule}: no name in it')
    return names
