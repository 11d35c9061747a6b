"""What evaluations of all families share: what is asked for, and where their reports go."""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax

from kimnet_jax.core.files import draft_of
from kimnet_jax.core.types import Decoding
from kimnet_jax.reporting import tables

_IN_NO_FILE_NAME = {ord(character): '_' for character in '[:/ '} | {ord(']'): None}


@dataclasses.dataclass(frozen=True)
class EvaluationRequest:
    """Attributes:
    out: folder for the report.
    protocol: `full`: every frame; `released`: what the released code of the network computes.
    split: None: the one of `config.dataset`, as for the others that are None.
    data_dir: where the built data set is.
    chain_length: frames after which the recursion begins anew, 0: the whole clip.
    decoding: how joints are read off the heatmaps.
    batch_size: clips side by side.
    predictions: .npz file for the poses of the split; None: they are not written.
    temporal_control: instead of the evaluation, compare the true past of the frames with others.
    seed: of draws.
    occlusion: joints hidden for a further row; None: no such row.
    calibration_clips: most training clips that the scores are calibrated on; 0: they are not.
    """

    out: pathlib.Path
    protocol: Literal['full', 'released'] = 'full'
    split: str | None = None
    data_dir: str | None = None
    chain_length: int | None = None
    decoding: Decoding | None = None
    batch_size: int | None = None
    predictions: pathlib.Path | None = None
    temporal_control: bool = False
    seed: int = 0
    occlusion: int | None = None
    calibration_clips: int = 50


def speaks() -> bool:
    """Whether this process prints and writes: of several that have the same to say, the first one."""
    return jax.process_index() == 0


def publish(out: pathlib.Path, name: str, report: Mapping[str, Any], as_text: Callable[[Mapping[str, Any]], str]) -> None:
    """Prints a report and writes it to a folder as `<name>.md` and `<name>.json`, if this process `speaks`."""
    if not speaks():
        return
    print(as_text(report))
    print('written:', *tables.write_report(out, file_name(name), report, as_text))


def publish_plot(out: pathlib.Path, name: str, plot: Callable[[], bytes]) -> None:
    """Writes the PNG that `plot` draws to a folder as `<name>.png`; without Matplotlib it says how to get it."""
    if not speaks():
        return
    try:
        picture = plot()
    except ImportError:
        print("no plot: it takes Matplotlib (pip install 'kimnet-jax[report]')", file=sys.stderr)
        return
    file = out / f'{file_name(name)}.png'
    with draft_of(file) as draft:
        draft.write_bytes(picture)
    print('written:', file)


def file_name(name: str) -> str:
    """The name of a report with nothing in it that file names should not have, and not too long."""
    return tables.short_name(name.translate(_IN_NO_FILE_NAME))
