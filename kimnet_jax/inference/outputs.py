"""What is written for a video: overlay, JSON, CSV and COCO keypoints, record by record, and all at once or not at all."""

import contextlib
import csv
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import IO, Any, Protocol

import numpy as np

from kimnet_jax.core.calibration import WITHIN
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import make_folder, place_together, require_free, work_folder
from kimnet_jax.core.image import opencv
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.sources import Source
from kimnet_jax.core.video import DEFAULT_RATE, Frame, image_files
from kimnet_jax.inference.people import FramePose
from kimnet_jax.inference.video import draw_poses
from kimnet_jax.inference.video_writer import VideoWriter

SUFFIXES = {'overlay': '.overlay.mp4', 'json': '.json', 'csv': '.csv', 'coco': '.coco.json'}
_QUIT = (27, ord('q'))  # Escape
LINES, WINDOW = 'jsonl', 'window'  # to standard output, to the screen


def output_stems(videos: Sequence[Source], folder: pathlib.Path, suffixes: Iterable[str]) -> list[str]:
    """The names without suffix of each video's outputs. Raises `InputError` where one file would overwrite another."""
    written: dict[pathlib.Path, str] = {}
    suffixes = list(suffixes)
    for video in videos:
        for suffix in suffixes:
            file = (folder / f'{video.stem}{suffix}').resolve()
            if file in written:
                raise InputError(
                    f'{written[file]} and {video.name} would both be written to {file}; run them one by one with different --out'
                )
            written[file] = video.name
    for video in videos:
        if video.path is not None and video.path.resolve() in written:
            other = written[video.path.resolve()]
            raise InputError(f'{video.name} would be overwritten by the output of {other}; choose another --out')
    return [video.stem for video in videos]


class Writer(Protocol):
    """Writes one file, or several that belong together."""

    def write(self, frame: Frame, poses: Sequence[FramePose]) -> None:
        """Adds a frame and the poses of its people."""

    def finish(self) -> None:
        """After the last."""


OpenWriter = Callable[[pathlib.Path, Mapping[str, Any]], Writer]  # (the file, what is known of the video) -> its writer


class PoseOutputs:
    """The output files of one video; they appear in their folder together when the `with` block ends without an error.

    Until then they grow in a hidden folder beside, which goes in any case. Memory does not grow with the video.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        stem: str,
        kinds: Sequence[str],
        *,
        video: Source,
        skeleton: Skeleton,
        model: Mapping[str, Any],
        joint_score: float,
        calibrated: bool = False,
        others: Mapping[str, OpenWriter] | None = None,
    ):
        """Describes what to write.

        Args:
            folder: where to; made if need be.
            stem: the files' names without suffix.
            kinds: keys of `SUFFIXES` and `others`, `LINES` or `WINDOW`.
            video: where the frames come from.
            skeleton: the joints' names and limbs.
            model: goes into the JSON files as it is, e.g. the model's name and the checkpoint's step.
            joint_score: joints of a smaller score are left out of the overlay, and are `1` (not visible) in COCO's terms.
            calibrated: the poses have probabilities.
            others: writers of other files, by what follows `stem` in their names.
        """
        self._others = others or {}
        self._calibrated = calibrated
        self._folder, self._stem, self._kinds, self._video = folder, stem, tuple(kinds), video
        self._skeleton, self._model, self._joint_score = skeleton, dict(model), joint_score
        self._writers: list[Writer] = []

    def __enter__(self) -> 'PoseOutputs':
        self._place = contextlib.ExitStack()
        self._files = contextlib.ExitStack()
        if not self._writes_files:
            return self
        make_folder(self._folder)
        require_free(
            self._folder / f'{self._stem}{SUFFIXES[kind]}' for kind in self._kinds if kind in SUFFIXES
        )  # not after hours
        self._hidden = self._place.enter_context(work_folder(self._folder, self._stem))
        return self

    @property
    def closed(self) -> bool:
        """Whether the user has closed the window: no more frames are wanted."""
        return any(isinstance(writer, _WindowWriter) and writer.closed for writer in self._writers)

    @property
    def _writes_files(self) -> bool:
        return not set(self._kinds) <= {LINES, WINDOW}

    def write(self, frame: Frame, poses: Sequence[FramePose]) -> None:
        """Adds a frame and the poses of its people to every file."""
        if not self._writers:
            rows, columns = frame.image.shape[:2]
            rate = self._video.stated_rate() or DEFAULT_RATE
            about = {'video': self._video.name, 'width': columns, 'height': rows, 'rate': rate, **self._model}
            about |= {'probabilities_within': f'{WITHIN} torso lengths'} if self._calibrated else {}
            self._writers = [self._open(kind, about) for kind in self._kinds]
        for writer in self._writers:
            writer.write(frame, poses)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            with self._files:
                if error is None:
                    for writer in self._writers:
                        writer.finish()
            if error is None and self._writes_files:
                drafts = [file for file in sorted(self._hidden.rglob('*')) if file.is_file()]
                for folder in {file.parent for file in drafts} - {self._hidden}:
                    make_folder(self._folder / folder.relative_to(self._hidden))
                place_together({file: self._folder / file.relative_to(self._hidden) for file in drafts})
        except OSError as late:
            if error is None:
                raise _named(late, self._folder) from None
        finally:
            self._place.close()
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):  # that is of standard output
            _named(error, self._folder)

    def _open(self, kind: str, about: dict[str, Any]) -> Writer:
        if kind == LINES:
            return _LinesWriter(self._video.name)
        if kind == WINDOW:
            return _WindowWriter(self._video.name, self._skeleton, self._joint_score)
        path = self._hidden / f'{self._stem}{SUFFIXES.get(kind, kind)}'
        if kind in self._others:
            return self._others[kind](path, about)
        if kind == 'overlay':
            file = self._files.enter_context(path.open('wb'))
            return _OverlayWriter(file, about['rate'], self._skeleton, self._joint_score)
        text = self._files.enter_context(path.open('w', encoding='utf-8', errors='surrogateescape', newline=''))
        if kind == 'json':
            return _JsonWriter(text, about, self._skeleton)
        if kind == 'csv':
            return _CsvWriter(text, self._skeleton, self._calibrated)
        folder = self._video.path
        names = [file.name for file in image_files(folder)] if folder is not None and folder.is_dir() else None
        return _CocoWriter(text, about, self._skeleton, self._joint_score, self._stem, names)


def _named(error: OSError, folder: pathlib.Path) -> OSError:
    if error.filename is None:  # a write knows no name
        error.filename = str(folder)
    return error


def _numbers(values: np.ndarray, digits: int = 2) -> list:
    """Nested lists of short numbers; a hundredth of a pixel is beyond what any model tells."""
    return np.round(np.asarray(values, np.float64), digits).tolist()


class _OverlayWriter:
    def __init__(self, file: IO[bytes], rate: float, skeleton: Skeleton, joint_score: float):
        self._video, self._skeleton, self._joint_score = VideoWriter(file, rate), skeleton, joint_score

    def write(self, frame: Frame, poses: Sequence[FramePose]) -> None:
        self._video.write(draw_poses(frame.image, poses, self._skeleton, self._joint_score), frame.time)

    def finish(self) -> None:
        self._video.finish()


class _LinesWriter:
    """To standard output, a line for each person in each frame, at once."""

    def __init__(self, video: str):
        self._video = video

    def write(self, frame: Frame, poses: Sequence[FramePose]) -> None:
        for pose in poses:
            print(json.dumps({'video': self._video, **record_of(pose)}, allow_nan=False), flush=True)

    def finish(self) -> None:
        """There is no end to write."""


class _WindowWriter:
    """Shows the overlay as it comes; the keys q and Escape, or its cross, close it."""

    def __init__(self, video: str, skeleton: Skeleton, joint_score: float):
        self._title, self._skeleton, self._joint_score = f'{video} - q to quit', skeleton, joint_score
        self._shown = self.closed = False

    def write(self, frame: Frame, poses: Sequence[FramePose]) -> None:
        if self.closed:
            return
        cv2 = opencv()
        try:
            if self._shown and cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1:
                self.closed = True
                return
            cv2.imshow(self._title, draw_poses(frame.image, poses, self._skeleton, self._joint_score)[..., ::-1])
            self.closed = cv2.waitKey(1) & 0xFF in _QUIT
        except cv2.error as error:
            raise InputError(
                f'--outputs={WINDOW}: this OpenCV has no windows, or there is no screen; pip install opencv-contrib-python '
                'in the place of opencv-contrib-python-headless'
            ) from error
        self._shown = True

    def finish(self) -> None:
        with contextlib.suppress(opencv().error):
            opencv().destroyWindow(self._title)


class _JsonWriter:
    """`{"about": {...}, "frames": [...], "frame_count": N}`, one line for each person in each frame."""

    def __init__(self, file: IO[str], about: dict[str, Any], skeleton: Skeleton):
        self._file, self._count, self._separator = file, 0, ''
        about = {**about, 'skeleton': skeleton.described(), 'joints': skeleton.joints}
        file.write(f'{{"about": {json.dumps(about)},\n"frames": [')

    def write(self, frame: Frame, poses: Sequence[FramePose]) -> None:
        for pose in poses:
            self._file.write(f'{self._separator}\n{json.dumps(record_of(pose), allow_nan=False)}')
            self._separator = ','
        self._count += 1

    def finish(self) -> None:
        self._file.write(f'\n],\n"frame_count": {self._count}}}\n')


def record_of(pose: FramePose) -> dict[str, Any]:
    """A pose as JSON files have it."""
    record = {
        'frame': pose.frame,
        'time': round(pose.time, 6),
        'id': pose.id,
        'score': round(pose.score, 4),
        'lost': pose.lost,
        'box': _numbers(pose.box),
        'joints': _numbers(pose.joints),
        'scores': _numbers(pose.scores, 4),
    }
    record |= {} if pose.probabilities is None else {'probabilities': _numbers(pose.probabilities, 4)}
    record |= {'interpolated': True} if pose.interpolated else {}
    return record | ({'damaged': True} if pose.damaged else {})


class _CsvWriter:
    """One row for each person in each frame: `_COLUMNS`, x, y and score of each joint, whether it is damaged, probabilities."""

    _COLUMNS = ('frame', 'time', 'id', 'score', 'lost', 'x0', 'y0', 'x1', 'y1')

    def __init__(self, file: IO[str], skeleton: Skeleton, calibrated: bool):
        self._rows = csv.writer(file, lineterminator='\n')
        joints = [f'{joint}_{part}' for joint in skeleton.joints for part in ('x', 'y', 'score')]
        probabilities = [f'{joint}_probability' for joint in skeleton.joints] if calibrated else []
        self._rows.writerow([*self._COLUMNS, *joints, 'damaged', *probabilities])

    def write(self, frame: Frame, poses: Sequence[FramePose]) -> None:
        for pose in poses:
            points, scores = _numbers(pose.joints), _numbers(pose.scores, 4)
            joints = [n for point, score in zip(points, scores, strict=True) for n in (*point, score)]
            time = round(pose.time, 6)
            about = [pose.frame, time, pose.id, round(pose.score, 4), int(pose.lost), *_numbers(pose.box)]
            probabilities = [] if pose.probabilities is None else _numbers(pose.probabilities, 4)
            self._rows.writerow([*about, *joints, int(pose.damaged), *probabilities])

    def finish(self) -> None:
        """A table has no end to write."""


class _CocoWriter:
    """COCO's keypoint annotations; the frames are its images, listed at the end, where their number is known."""

    def __init__(
        self,
        file: IO[str],
        about: dict[str, Any],
        skeleton: Skeleton,
        joint_score: float,
        stem: str,
        names: list[str] | None,
    ):
        self._file, self._about, self._joint_score, self._stem, self._names = file, about, joint_score, stem, names
        self._frames = self._annotations = 0
        category = {
            'id': 1,
            'name': 'person',
            'supercategory': 'person',
            'keypoints': skeleton.joints,
            'skeleton': [[a + 1, b + 1] for a, b in skeleton.limbs],
        }
        file.write(f'{{"info": {json.dumps(about)},\n"categories": [{json.dumps(category)}],\n"annotations": [')

    def write(self, frame: Frame, poses: Sequence[FramePose]) -> None:
        for pose in poses:
            self._annotate(pose)
        self._frames += 1

    def _annotate(self, pose: FramePose) -> None:
        x0, y0, x1, y1 = _numbers(pose.box)
        seen = np.where(pose.scores >= self._joint_score, 2, 1)
        annotation = {
            'id': self._annotations + 1,
            'image_id': pose.frame,
            'category_id': 1,
            'track_id': pose.id,
            'iscrowd': 0,
            'bbox': _numbers(np.array([x0, y0, x1 - x0, y1 - y0])),
            'area': round((x1 - x0) * (y1 - y0), 2),
            'score': round(pose.score, 4),
            'num_keypoints': len(seen),
            'keypoints': [n for point, v in zip(_numbers(pose.joints), seen.tolist(), strict=True) for n in (*point, v)],
        }
        annotation |= {} if pose.probabilities is None else {'probabilities': _numbers(pose.probabilities, 4)}
        self._file.write((',\n' if self._annotations else '\n') + json.dumps(annotation, allow_nan=False))
        self._annotations += 1

    def finish(self) -> None:
        self._file.write('\n],\n"images": [')
        for frame in range(self._frames):
            image = {
                'id': frame,
                'file_name': self._names[frame] if self._names else f'{self._stem}/{frame:06d}.png',
                'width': self._about['width'],
                'height': self._about['height'],
            }
            self._file.write((',\n' if frame else '\n') + json.dumps(image))
        self._file.write('\n]}\n')
