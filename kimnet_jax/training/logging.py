"""What a run tells: metrics.jsonl, TensorBoard event files, the progress bar. Only the first process writes."""

import json
import math
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import tqdm

from kimnet_jax.core.files import write_text
from kimnet_jax.core.image import encode_jpeg

_QUALITY = 85  # of TensorBoard's images, as JPEG: there are some after every evaluation
SHOWN = {'loss': '.2e', 'pck': '.3f', 'final_error': '.2e'}  # of a step's metrics, beside the progress bar


class RunLog:
    """The records of a run; a resumed run goes on as if it had never stopped.

    Train records hold means since the record before; `window` is what has been summed since then and travels in checkpoints.
    """

    def __init__(self, workdir: pathlib.Path, *, step: int, evaluated: bool, window: dict[str, float], total: int, every: int):
        """Drops the records that an interrupted run wrote after `step`; `evaluated`: that step's evaluation stands."""
        self.window = dict(window)
        self._every = every
        self._main = jax.process_index() == 0
        self._began, self._frames = time.perf_counter(), 0
        if not self._main:
            return
        import tensorboardX  # which imports torch where that is installed

        self._file = workdir / 'metrics.jsonl'
        _truncate(self._file, step, evaluated)
        self._events = tensorboardX.SummaryWriter(
            str(workdir / 'tensorboard'),
            purge_step=step + 1,
            flush_secs=10,
            filename_suffix=f'.step{step}',  # the rest of a name is the second of its beginning
        )
        self._bar = tqdm.tqdm(total=total, initial=step, unit='step', disable=None, dynamic_ncols=True)

    def train(self, step: int, epoch: float, values: dict[str, float], frames: int) -> None:
        """Adds the metrics of one step; writes a record every `every` steps."""
        for key, value in values.items():
            self.window[key] = self.window.get(key, 0.0) + value
        self.window['steps'] = self.window.get('steps', 0) + 1
        self._frames += frames
        rate = self._frames / max(time.perf_counter() - self._began, 1e-9)
        if self._main:
            self._bar.update(1)
            shown = {key: f'{values[key]:{form}}' for key, form in SHOWN.items() if key in values}
            self._bar.set_postfix({'frames_per_s': f'{rate:.0f}', **shown}, refresh=False)
        if step % self._every == 0:
            count = self.window.pop('steps')
            means = {key: value / count for key, value in self.window.items()}
            self.window.clear()
            self._write('train', step, epoch, means | {'frames_per_second': rate})
            self.restart_clock()

    def evaluation(self, step: int, epoch: float, values: dict[str, float]) -> None:
        """Writes the record of an evaluation."""
        self._write('eval', step, epoch, values)

    def images(self, step: int, draw: Callable[[], Mapping[str, np.ndarray]]) -> None:
        """Writes images (name -> uint8 [H, W, 3]) to TensorBoard; only the process that writes draws them."""
        if not self._main:
            return
        from tensorboardX.proto.summary_pb2 import Summary

        for name, image in draw().items():  # encoded here: tensorboardX would need Pillow
            height, width = image.shape[:2]
            encoded = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encode_jpeg(image, _QUALITY))
            self._events.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=encoded)]), step)

    def text(self, name: str, text: str) -> None:
        """Writes a text in Markdown to TensorBoard, as of step 0."""
        if self._main:
            self._events.add_text(name, text, 0)

    def restart_clock(self) -> None:
        """Leaves the time until now (compilation, an evaluation) out of the frame rate."""
        self._began, self._frames = time.perf_counter(), 0

    def say(self, text: str) -> None:
        """A line for the user, above the progress bar."""
        if self._main:
            tqdm.tqdm.write(text)

    def close(self) -> None:
        """Writes everything out."""
        if self._main:
            self._events.close()
            self._bar.close()

    def _write(self, kind: str, step: int, epoch: float, values: dict[str, float]) -> None:
        if not self._main:
            return
        record: dict[str, Any] = {'kind': kind, 'step': step, 'epoch': round(epoch, 4)}
        record |= {key: value if math.isfinite(value) else None for key, value in values.items()}
        with self._file.open('a') as file:
            file.write(json.dumps(record) + '\n')
        for key, value in values.items():
            if math.isfinite(value):
                self._events.add_scalar(f'{kind}/{key}', value, step)


def _truncate(file: pathlib.Path, step: int, evaluated: bool) -> None:
    if not file.exists():
        return
    kept = []
    for line in file.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # a line that a killed run was writing
            continue
        if record['step'] < step or (record['step'] == step and (record['kind'] == 'train' or evaluated)):
            kept.append(line + '\n')
    write_text(file, ''.join(kept))
