"""Where the records of a run go: `metrics.jsonl` always, TensorBoard's event files and Weights & Biases by choice."""

import json
import math
import os
import pathlib
import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import write_text
from kimnet_jax.core.image import encode_jpeg

KINDS = ('train', 'eval', 'goodput')  # of records
_QUALITY = 85  # of TensorBoard's images, as JPEG: there are some after every evaluation


class Writer:
    """Takes the records of a run; what a kind of file has no place for, it leaves out.

    A resumed run goes on in what is there, from `step` on; `evaluated`: that step's evaluation stands.
    """

    def __init__(self, workdir: pathlib.Path, *, step: int, evaluated: bool, config: Mapping[str, Any]):
        """`config`: all fields of the run."""

    @staticmethod
    def load() -> None:
        """Imports the library that it takes; raises `ImportError`."""

    def scalars(self, kind: str, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """A record; `kind` is one of `KINDS`. Values can be NaN or infinite."""

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Images by name, uint8 [H, W, 3]."""

    def text(self, name: str, text: str) -> None:
        """A text in Markdown, of the run as a whole."""

    def close(self) -> None:
        """Writes everything out."""


class JsonLines(Writer):
    """`metrics.jsonl`, a record a line; values that are not finite are null."""

    def __init__(self, workdir: pathlib.Path, *, step: int, evaluated: bool, config: Mapping[str, Any]):
        self._file = workdir / 'metrics.jsonl'
        _truncate(self._file, step, evaluated)

    def scalars(self, kind: str, step: int, epoch: float, values: Mapping[str, float]) -> None:
        record: dict[str, Any] = {'kind': kind, 'step': step, 'epoch': round(epoch, 4)}
        record |= {key: value if math.isfinite(value) else None for key, value in values.items()}
        with self._file.open('a') as file:
            file.write(json.dumps(record) + '\n')


class TensorBoard(Writer):
    """Event files in `tensorboard/`, with images and texts."""

    @staticmethod
    def load() -> None:
        _import_tensorboardx()

    def __init__(self, workdir: pathlib.Path, *, step: int, evaluated: bool, config: Mapping[str, Any]):
        self._events = _import_tensorboardx().SummaryWriter(
            str(workdir / 'tensorboard'),
            purge_step=step + 1,
            flush_secs=10,
            filename_suffix=f'.step{step}',  # the rest of a name is the second of its beginning
        )

    def scalars(self, kind: str, step: int, epoch: float, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            if math.isfinite(value):
                self._events.add_scalar(f'{kind}/{key}', value, step)

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        for name, image in images.items():  # encoded here: tensorboardX would need Pillow
            height, width = image.shape[:2]
            encoded = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encode_jpeg(image, _QUALITY))
            self._events.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=encoded)]), step)

    def text(self, name: str, text: str) -> None:
        self._events.add_text(name, text, 0)

    def close(self) -> None:
        self._events.close()


def _import_tensorboardx() -> Any:
    """The module, without PyTorch: where that is installed it would be imported, for a second, to recognise its tensors."""
    hidden = 'torch' not in sys.modules
    if hidden:
        sys.modules['torch'] = None  # type: ignore[assignment]  # Python's mark of a module that cannot be imported
    try:
        import tensorboardX
    finally:
        if hidden:
            del sys.modules['torch']
    return tensorboardX


class WeightsAndBiases(Writer):
    """A run of W&B in `wandb/`, offline (`wandb sync` uploads it) unless the environment sets WANDB_MODE.

    Its curves are over `step`. A resumed run goes on under its old id.
    """

    @staticmethod
    def load() -> None:
        import wandb  # noqa: F401

    def __init__(self, workdir: pathlib.Path, *, step: int, evaluated: bool, config: Mapping[str, Any]):
        import wandb

        folder = workdir / 'wandb'
        folder.mkdir(exist_ok=True)
        if not (folder / 'id').exists():
            write_text(folder / 'id', uuid.uuid4().hex)
        self._run = wandb.init(
            project=os.environ.get('WANDB_PROJECT', 'kimnet_jax'),
            name=workdir.resolve().name,
            id=(folder / 'id').read_text(),
            dir=workdir,
            resume='allow',
            mode=os.environ.get('WANDB_MODE', 'offline'),
            config=dict(config),
            settings=wandb.Settings(console='off'),  # it would take the terminal from the progress bar
        )
        self._run.define_metric('*', step_metric='step')

    def scalars(self, kind: str, step: int, epoch: float, values: Mapping[str, float]) -> None:
        finite = {f'{kind}/{key}': value for key, value in values.items() if math.isfinite(value)}
        self._run.log({'step': step, 'epoch': epoch, **finite})

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        from wandb import Image

        if images:
            self._run.log({'step': step, **{name: Image(image) for name, image in images.items()}})

    def close(self) -> None:
        self._run.finish()


# name in `config.train.writers` -> its class, what is to be installed for it
_KNOWN: dict[str, tuple[type[Writer], str]] = {
    'tensorboard': (TensorBoard, 'tensorboardX'),
    'wandb': (WeightsAndBiases, '"kimnet-jax[wandb]"'),
}


def parse_writers(text: str) -> tuple[str, ...]:
    """The names in a text such as `tensorboard,wandb`; none of ''. Raises `InputError` naming `config.train.writers`."""
    names = tuple(name.strip() for name in text.split(',')) if text else ()
    if unknown := [name for name in names if name not in _KNOWN]:
        known = ', '.join(_KNOWN)
        raise InputError(f'config.train.writers={text!r}: there is no {unknown[0]!r}; known: {known}, separated by commas')
    return tuple(dict.fromkeys(names))


def check_installed(names: Sequence[str]) -> None:
    """Raises `InputError` saying what to install, where a writer cannot be imported."""
    for name in names:
        kind, package = _KNOWN[name]
        try:
            kind.load()
        except ImportError as error:
            raise InputError(f'config.train.writers: {name} cannot be imported ({error}): pip install {package}') from error


def open_writers(
    names: Sequence[str], workdir: pathlib.Path, *, step: int, evaluated: bool, config: Mapping[str, Any]
) -> list[Writer]:
    """`metrics.jsonl` and the writers named; the arguments are those of `Writer`."""
    kinds: list[type[Writer]] = [JsonLines, *(_KNOWN[name][0] for name in names)]
    return [kind(workdir, step=step, evaluated=evaluated, config=config) for kind in kinds]


def _truncate(file: pathlib.Path, step: int, evaluated: bool) -> None:
    """Drops what an interrupted run wrote after `step`, and the evaluation of that step unless it stands."""
    if not file.exists():
        return
    kept = []
    for line in file.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # a line that a killed run was writing
            continue
        if record['step'] < step or (record['step'] == step and (record['kind'] != 'eval' or evaluated)):
            kept.append(line + '\n')
    write_text(file, ''.join(kept))
