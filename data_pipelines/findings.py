"""What a check of a download finds: shown by `kimnet doctor`, and by builders as notes on what they mended.

A data set that is downloaded has `builders/<name>/inspect.py` with one function,

    inspect(root: pathlib.Path, scratch: pathlib.Path, pixels: bool) -> tuple[Report, list[Check]]

which takes the folder that is given to a build as --manual_dir, an existing folder for what has to be unpacked (the caller
removes it), and whether to decode every frame. It returns what there is to say of the download as a whole, and the checks, one a
clip (or an image), which the doctor runs in threads. Neither stops at the first finding (`attempt`); where one is left by an
`InputError`, that is the finding. The doctor writes the names of unpacked files as their place in the archive.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias, TypeVar

from kimnet_jax.core.errors import InputError

NAMES_SHOWN = 12
T = TypeVar('T')


@dataclasses.dataclass(frozen=True)
class Finding:
    """One kind of thing in one place.

    Attributes:
        level: `error`: a build refuses it; `warning`: a build mends it or leaves it as it is.
        place: the clip, file or folder.
        text: what it is; of a warning, the same words in every place, so that they can be counted together, and to be read after
            the count: 'frames with an empty box, ...'; of an error, the whole message.
        count: how many there are in this place.
    """

    level: Literal['error', 'warning']
    place: str
    text: str
    count: int = 1


@dataclasses.dataclass(frozen=True)
class Report:
    """What one check found.

    Attributes:
        findings: in any order.
        counts: 'clips', 'frames', ... -> how many; the doctor adds those of all checks up.
        official: those of the whole release, for some of `counts`; the doctor warns where they differ.
    """

    findings: list[Finding] = dataclasses.field(default_factory=list)
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    official: Mapping[str, int] = dataclasses.field(default_factory=dict)


Check: TypeAlias = Callable[[], Report]


def attempt(findings: list[Finding], place: str, function: Callable[..., T], *args: Any) -> T | None:
    """What the function returns; None where it raised an `InputError`, which is added to the findings."""
    try:
        return function(*args)
    except InputError as error:
        findings.append(Finding('error', place, str(error)))
        return None


def summarise(findings: Iterable[Finding]) -> list[str]:
    """One line for each text: the sum of its counts, the text, and the places."""
    groups: dict[str, list[Finding]] = collections.defaultdict(list)
    for finding in findings:
        groups[finding.text].append(finding)
    return [f'{sum(f.count for f in group)} {text}: {_names({f.place for f in group})}' for text, group in groups.items()]


def _names(places: set[str]) -> str:
    more = f', ... ({len(places)} in all)' if len(places) > NAMES_SHOWN else ''
    return ', '.join(sorted(places)[:NAMES_SHOWN]) + more
