"""Finding people in a frame: OpenCV's built-in detector, or a detector in an ONNX file."""

import pathlib
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import require_file
from kimnet_jax.core.image import opencv

HOG = 'hog'
Layout = Literal['yolov8', 'yolov5', 'yolox', 'rtmdet', 'end2end']
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
LEAST = 0.4  # score
_STRIDES = (8, 16, 32)  # of the grids of YOLOX and YOLOv5
_PAD = 114  # grey, as all of these were trained with
_OVERLAP = 0.5  # of two boxes of one person, where the file does not choose itself
_RTMDET_MEAN = np.array([103.53, 116.28, 123.675], np.float32)  # B G R
_RTMDET_STD = np.array([57.375, 57.12, 58.395], np.float32)


class Detections(NamedTuple):
    """People in a frame.

    Attributes:
        boxes: float32 [N, 4], x0, y0, x1, y1 pixels.
        scores: float32 [N], the surest first.
    """

    boxes: np.ndarray
    scores: np.ndarray


class Detector(Protocol):
    """Finds people."""

    def __call__(self, image: np.ndarray) -> Detections:
        """The people in a frame uint8 [H, W, 3] RGB."""


def open_detector(name: str, layout: Layout | None = None, least: float = LEAST) -> Detector:
    """A detector by its name: `hog`, or the path of an ONNX file (`OnnxDetector`, also for the rest). Raises `InputError`."""
    if name == HOG:
        if layout is not None:
            raise InputError(f'--detect_layout={layout}: is of ONNX files; leave it out with --detect={HOG}')
        return HogDetector()
    if not name.endswith('.onnx'):
        raise InputError(f'--detect={name}: give {HOG}, or an ONNX file of a detector (its name ends in .onnx)')
    return OnnxDetector(pathlib.Path(name), layout, least)


class HogDetector:
    """OpenCV's detector of people who stand or walk, seen whole (Dalal and Triggs, CVPR 2005); needs no file.

    It finds neither people who sit or bend nor those of whom the frame shows a part; a detector in an ONNX file does.
    """

    SIDE = 640  # pixels of the frame's longer side: its windows are 64 by 128
    _MARGIN = (0.25, 0.125)  # share of a window beside and above the person, 16 of its pixels
    _LEAST = 0.5  # of its linear classifier; on first frames of JHMDB 4 of 10 are found then, and 1 false one in 6 frames

    def __init__(self) -> None:
        """Raises `InputError` where OpenCV is without it."""
        cv2 = opencv()
        if not hasattr(cv2, 'HOGDescriptor'):
            raise InputError(f'--detect={HOG}: OpenCV {cv2.__version__} lacks it; pip install opencv-contrib-python-headless')
        self._hog = cv2.HOGDescriptor()
        self._hog.setSVMDetector(cv2.HOGDescriptor_getDefaultPeopleDetector())

    def __call__(self, image: np.ndarray) -> Detections:
        """The people in a frame uint8 [H, W, 3] RGB; a score is the distance from the classifier's plane."""
        scale = self.SIDE / max(image.shape[:2])
        size = (max(64, round(image.shape[1] * scale)), max(128, round(image.shape[0] * scale)))
        factors = np.tile([size[0] / image.shape[1], size[1] / image.shape[0]], 2)
        found, scores = self._hog.detectMultiScale(opencv().resize(image, size), winStride=(8, 8), padding=(8, 8), scale=1.05)
        windows = np.asarray(found, np.float32).reshape(-1, 4)
        margin = windows[:, 2:] * self._MARGIN
        corners = np.concatenate([windows[:, :2] + margin, windows[:, :2] + windows[:, 2:] - margin], 1)
        boxes = (corners + 0.5) / factors - 0.5
        return best_of(boxes, np.asarray(scores, np.float32).reshape(-1), self._LEAST)


class OnnxDetector:
    """A detector in an ONNX file, run by onnxruntime (`pip install "kimnet-jax[detect]"`)."""

    def __init__(self, path: pathlib.Path, layout: Layout | None = None, least: float = LEAST):
        """Opens the file.

        Args:
            path: the file. Its only input is [1, 3, H, W]; sizes it leaves open are 640.
            layout: what its outputs are:

                - `yolov8` [1, 4 + classes, N]: centre, size, score of each class (Ultralytics YOLOv8, YOLO11);
                - `yolov5` [1, N, 5 + classes]: centre, size, objectness, score of each class (YOLOv5, YOLOv7);
                - `yolox` the same on YOLOX's grids, decoded or not;
                - `rtmdet` [1, N, 5] corners and score, and labels [1, N] (MMDeploy's files of RTMDet);
                - `end2end` [1, N, 6] corners, score, class (YOLOv10, YOLO26, or exports with NMS).

                None: by their shapes.
            least: people of a smaller score are left out.

        Raises:
            InputError: onnxruntime is missing, or the file is damaged or no such detector.
        """
        require_file(path, 'ONNX file of a detector')
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError(f'{path}: needs onnxruntime; install it with pip install "kimnet-jax[detect]"') from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # its errors are raised anyway
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=onnxruntime.get_available_providers())
        except Exception as error:  # onnxruntime's own kinds
            raise InputError(f'{path}: not an ONNX file that onnxruntime opens ({_first_line(error)})') from error
        self._path, self._least, self._layout = path, least, layout
        inputs = self._session.get_inputs()
        shape = inputs[0].shape if inputs else []
        if len(inputs) != 1 or len(shape) != 4 or shape[1] not in (3, 'channels', None):
            raise InputError(f'{path}: inputs {[list(one.shape) for one in inputs]}; a detector takes one image [1, 3, H, W]')
        self._input = inputs[0].name
        self._float16 = inputs[0].type == 'tensor(float16)'
        self._size = tuple(side if isinstance(side, int) and side > 0 else 640 for side in shape[2:])

    def __call__(self, image: np.ndarray) -> Detections:
        """The people in a frame uint8 [H, W, 3] RGB. Raises `InputError` where the file's outputs are of no known layout."""
        rows, columns = self._size
        scale = min(rows / image.shape[0], columns / image.shape[1])
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        layout = self._layout or self._guess()
        centred = layout in ('yolov8', 'yolov5', 'end2end')
        left, top = ((columns - size[0]) // 2, (rows - size[1]) // 2) if centred else (0, 0)
        canvas = np.full((rows, columns, 3), _PAD, np.uint8)
        canvas[top : top + size[1], left : left + size[0]] = opencv().resize(image, size)
        boxes, scores = _read(self._run(canvas, layout), layout, self._size, str(self._path))
        factors = np.tile([size[0] / image.shape[1], size[1] / image.shape[0]], 2)
        boxes = (boxes - np.tile([left, top], 2)) / factors - 0.5  # corners are edges, ours are centres of pixels
        kept = best_of(boxes, scores, self._least)
        limit = np.tile([image.shape[1] - 1, image.shape[0] - 1], 2)
        return Detections(np.clip(kept.boxes, 0, limit).astype(np.float32), kept.scores)

    def _run(self, canvas: np.ndarray, layout: str) -> Sequence[np.ndarray]:
        data = canvas.astype(np.float32)
        if layout in ('yolov8', 'yolov5', 'end2end'):
            data /= 255
        else:
            data = data[..., ::-1]  # trained on OpenCV's order
        if layout == 'rtmdet':
            data = (data - _RTMDET_MEAN) / _RTMDET_STD
        batch = np.ascontiguousarray(data.transpose(2, 0, 1)[None]).astype(np.float16 if self._float16 else np.float32)
        try:
            return [np.asarray(output) for output in self._session.run(None, {self._input: batch})]
        except Exception as error:
            raise InputError(f'{self._path}: cannot be run ({_first_line(error)})') from error

    def _guess(self) -> Layout:
        outputs = self._run(np.full((*self._size, 3), _PAD, np.uint8), 'yolov8')
        shapes = [output.shape for output in outputs]
        self._layout = _layout_of(shapes, self._size)
        if self._layout is None:
            raise InputError(
                f'{self._path}: outputs of shapes {[list(shape) for shape in shapes]}, which are no layout that is known; '
                f'say with --detect_layout which of {", ".join(LAYOUTS)} it is'
            )
        return self._layout


def best_of(boxes: np.ndarray, scores: np.ndarray, least: float) -> Detections:
    """Non-maximum suppression: of boxes [N, 4] that overlap the surest, of a score [N] of `least` or more."""
    boxes, scores = np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(scores, np.float32)
    sound = np.isfinite(boxes).all(-1) & (boxes[:, 2:] > boxes[:, :2]).all(-1) & (scores >= least)
    boxes, scores = boxes[sound], scores[sound]
    if not len(boxes):
        return Detections(boxes, scores)
    corners_and_sizes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    kept = np.asarray(opencv().dnn.NMSBoxes(corners_and_sizes.tolist(), scores.tolist(), 0.0, _OVERLAP), int).reshape(-1)
    return Detections(boxes[kept], scores[kept])


def _layout_of(shapes: Sequence[tuple[int, ...]], size: tuple[int, ...]) -> Layout | None:
    if len(shapes) >= 2 and len(shapes[0]) == 3 and shapes[0][2] == 5 and shapes[1] == shapes[0][:2]:
        return 'rtmdet'
    if len(shapes) != 1 or len(shapes[0]) != 3 or shapes[0][0] != 1:
        return None
    _, n, fields = shapes[0]
    cells = sum((size[0] // stride) * (size[1] // stride) for stride in _STRIDES)
    if fields == cells and n >= 5:
        return 'yolov8'
    if n == cells and fields >= 6:
        return 'yolox'
    if n == 3 * cells and fields >= 6:
        return 'yolov5'
    return 'end2end' if fields == 6 else None


def _read(outputs: Sequence[np.ndarray], layout: str, size: tuple[int, ...], source: str) -> tuple[np.ndarray, np.ndarray]:
    """Corners [N, 4] in pixels of the input and the scores [N] of people, who are the first class of COCO."""
    first = np.asarray(outputs[0], np.float32)
    try:
        if layout == 'rtmdet':
            people = np.asarray(outputs[1])[0] == 0
            return first[0, people, :4], first[0, people, 4]
        if layout == 'end2end':
            people = first[0, :, 5] == 0
            return first[0, people, :4], first[0, people, 4]
        if layout == 'yolov8':
            rows = first[0].T
            best = rows[:, 4:].argmax(1) == 0
            return _corners(rows[best, :4]), rows[best, 4]
        rows = first[0]
        if layout == 'yolox' and np.abs(rows[:, 2:4]).max(initial=0) < 20:  # logarithms, not yet pixels
            rows = _decoded(rows, size)
        best = rows[:, 5:].argmax(1) == 0
        return _corners(rows[best, :4]), rows[best, 4] * rows[best, 5]
    except (IndexError, ValueError) as error:
        shapes = [list(output.shape) for output in outputs]
        raise InputError(f'{source}: outputs of shapes {shapes} are not of layout {layout!r} ({error})') from error


def _decoded(rows: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """YOLOX's raw outputs [N, 5 + classes] in pixels: offsets from the cells of three grids, and logarithms of sizes."""
    cells, strides = [], []
    for stride in _STRIDES:
        y, x = np.mgrid[: size[0] // stride, : size[1] // stride]
        cells.append(np.stack([x, y], -1).reshape(-1, 2))
        strides.append(np.full((len(cells[-1]), 1), stride))
    grid, scale = np.concatenate(cells), np.concatenate(strides)
    return np.concatenate([(rows[:, :2] + grid) * scale, np.exp(rows[:, 2:4]) * scale, rows[:, 4:]], 1)


def _corners(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([rows[:, :2] - rows[:, 2:] / 2, rows[:, :2] + rows[:, 2:] / 2], 1)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
