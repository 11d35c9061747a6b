"""Detectors in tiny ONNX files, OpenCV's own, and the people whom they find in a video."""

import numpy as np
import pytest
import scipy.io
from dots import draw, filmed, person

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.video import read_frames
from kimnet_jax.inference.detected import AssociationConfig, DetectedPeople
from kimnet_jax.inference.detection import Detections, HogDetector, OnnxDetector, best_of, open_detector
from kimnet_jax.inference.predictor import predict_poses
from kimnet_jax.inference.tracking import overlap

onnx = pytest.importorskip('onnx')
SIDE = 64
CELLS = 8 * 8 + 4 * 4 + 2 * 2
# two people, one found twice, and someone of another class, in pixels of the input: x0, y0, x1, y1, score, class
FOUND = [
    (8, 16, 24, 56, 0.9, 0),
    (9, 17, 25, 56, 0.6, 0),
    (40, 20, 56, 60, 0.8, 0),
    (2, 2, 30, 30, 0.95, 1),
    (5, 5, 20, 40, 0.2, 0),
]


def write_onnx(path, outputs, shape=(1, 3, SIDE, SIDE)) -> None:
    """A network that gives constants, plus nothing from the image."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, infos = [], []
    image = helper.make_tensor_value_info('images', TensorProto.FLOAT, shape)
    nodes.append(helper.make_node('ReduceMean', ['images'], ['mean'], keepdims=0))
    nodes.append(helper.make_node('Mul', ['mean', 'zero'], ['nothing']))
    constants = [numpy_helper.from_array(np.float32(0), 'zero')]
    for i, value in enumerate(outputs):
        constants.append(numpy_helper.from_array(value, f'value{i}'))
        kind = TensorProto.FLOAT if value.dtype == np.float32 else TensorProto.INT64
        if kind == TensorProto.FLOAT:
            nodes.append(helper.make_node('Add', [f'value{i}', 'nothing'], [f'output{i}']))
        else:
            nodes.append(helper.make_node('Identity', [f'value{i}'], [f'output{i}']))
        infos.append(helper.make_tensor_value_info(f'output{i}', kind, value.shape))
    graph = helper.make_graph(nodes, 'detector', [image], infos, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)], ir_version=8)
    onnx.save(model, str(path))


def centred(row) -> list[float]:
    x0, y0, x1, y1 = row[:4]
    return [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]


def yolov8() -> list[np.ndarray]:
    rows = np.zeros((CELLS, 6), np.float32)
    for i, row in enumerate(FOUND):
        rows[5 * i, :4], rows[5 * i, 4 + row[5]] = centred(row), row[4]
    return [rows.T[None].copy()]


def yolov5(cells: int = 3 * CELLS) -> list[np.ndarray]:
    rows = np.zeros((cells, 7), np.float32)
    for i, row in enumerate(FOUND):
        rows[5 * i, :4], rows[5 * i, 4], rows[5 * i, 5 + row[5]] = centred(row), row[4], 1
    return [rows[None]]


def yolox_raw() -> list[np.ndarray]:
    """As YOLOX exports it: offsets from the cells of grids of 8, 16 and 32 pixels, and logarithms."""
    rows = np.zeros((CELLS, 7), np.float32)
    for i, row in enumerate(FOUND):
        x, y, width, height = centred(row)
        column, line = i, 3  # of the first grid
        rows[line * 8 + column, :4] = [x / 8 - column, y / 8 - line, np.log(width / 8), np.log(height / 8)]
        rows[line * 8 + column, 4], rows[line * 8 + column, 5 + row[5]] = row[4], 1
    return [rows[None]]


def rtmdet() -> list[np.ndarray]:
    rows = np.array(FOUND, np.float32)
    return [rows[None, :, :5].copy(), rows[None, :, 5].astype(np.int64)]


def end2end() -> list[np.ndarray]:
    return [np.array(FOUND, np.float32)[None]]


LAYOUTS = {
    'yolov8': yolov8,
    'yolov5': yolov5,
    'yolox': yolox_raw,
    'yolox decoded': lambda: yolov5(CELLS),
    'rtmdet': rtmdet,
    'end2end': end2end,
}


@pytest.mark.parametrize('name', LAYOUTS)
@pytest.mark.parametrize('told', [True, False])
@pytest.mark.parametrize('size', [(128, 128), (64, 128), (256, 128)])
def test_people_come_back_in_pixels_of_the_frame(tmp_path, name, told, size):
    write_onnx(tmp_path / 'd.onnx', LAYOUTS[name]())
    layout = name.split()[0]
    found = OnnxDetector(tmp_path / 'd.onnx', layout if told else None)(np.zeros((*size, 3), np.uint8))
    scale = SIDE / max(size)
    left, top = [(SIDE - side * scale) / 2 for side in size[::-1]] if layout in ('yolov8', 'yolov5', 'end2end') else (0, 0)
    for box, score, row in zip(found.boxes, found.scores, [FOUND[0], FOUND[2]], strict=True):
        expected = (np.array(row[:4]) - [left, top, left, top]) / scale - 0.5
        np.testing.assert_allclose(box, np.clip(expected, 0, [size[1] - 1, size[0] - 1] * 2), atol=1e-3)
        assert score == pytest.approx(row[4], abs=1e-6)


def test_what_the_network_sees(tmp_path):
    """A grey frame in each of the ways in which the networks were trained."""
    seen = {}
    frame = np.full((64, 64, 3), [200, 100, 50], np.uint8)
    for layout in ('yolov8', 'yolox', 'rtmdet'):
        write_onnx(tmp_path / 'd.onnx', LAYOUTS[layout]())
        detector = OnnxDetector(tmp_path / 'd.onnx', layout)

        class Session:
            def run(self, names, feed, layout=layout, session=detector._session):
                seen[layout] = feed['images']
                return session.run(names, feed)

        detector._session = Session()
        detector(frame)
    np.testing.assert_allclose(seen['yolov8'][0, :, 5, 5], np.array([200, 100, 50]) / 255, rtol=1e-6)
    np.testing.assert_allclose(seen['yolox'][0, :, 5, 5], [50, 100, 200])
    expected = (np.array([50, 100, 200]) - [103.53, 116.28, 123.675]) / [57.375, 57.12, 58.395]
    np.testing.assert_allclose(seen['rtmdet'][0, :, 5, 5], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ('outputs', 'message'),
    [
        ([np.zeros((1, 10), np.float32)], r'outputs of shapes \[\[1, 10\]\], which are no layout that is known; .*yolov8'),
        ([np.zeros((1, 7, 9), np.float32)], 'which are no layout that is known'),
    ],
)
def test_other_outputs_are_named(tmp_path, outputs, message):
    write_onnx(tmp_path / 'd.onnx', outputs)
    with pytest.raises(InputError, match=message):
        OnnxDetector(tmp_path / 'd.onnx')(np.zeros((64, 64, 3), np.uint8))


def test_a_layout_that_is_not_the_files(tmp_path):
    write_onnx(tmp_path / 'd.onnx', end2end())
    with pytest.raises(InputError, match="are not of layout 'rtmdet'"):
        OnnxDetector(tmp_path / 'd.onnx', 'rtmdet')(np.zeros((64, 64, 3), np.uint8))


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('no.onnx', None, 'no such ONNX file'),
        ('text.onnx', b'hello', 'not an ONNX file that onnxruntime opens'),
        ('yolo.pt', b'', 'give hog, or an ONNX file'),
    ],
)
def test_what_is_no_detector(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_detector(str(tmp_path / name))


def test_an_input_that_is_no_image(tmp_path):
    write_onnx(tmp_path / 'd.onnx', end2end(), shape=(1, SIDE))
    with pytest.raises(InputError, match=r'a detector takes one image \[1, 3, H, W\]'):
        OnnxDetector(tmp_path / 'd.onnx')


def test_best_of():
    boxes = [[0, 0, 10, 20], [1, 0, 11, 20], [30, 0, 40, 20], [5, 5, 5, 9], [np.nan, 0, 1, 1]]
    found = best_of(np.array(boxes), np.array([0.5, 0.9, 0.6, 1, 1]), 0.4)
    np.testing.assert_array_equal(found.boxes, [[1, 0, 11, 20], [30, 0, 40, 20]])
    assert best_of(np.zeros((0, 4)), np.zeros(0), 0.4).boxes.shape == (0, 4)


def test_hog_finds_real_people(shared_dir):
    """Golfers stand, seen whole: in every tenth frame of six clips it finds 14 of 24; it is no better than its age."""
    hits = []
    for path in sorted((shared_dir / 'data/jhmdb/ReCompress_Videos/golf').glob('*.avi'))[:6]:
        masks = scipy.io.loadmat(shared_dir / f'data/jhmdb/puppet_mask/golf/{path.stem}/puppet_mask.mat')['part_mask']
        for t, frame in enumerate(read_frames(path)):
            if t % 10 == 0 and t < masks.shape[2]:
                rows, columns = np.nonzero(masks[..., t])
                truth = np.array([columns.min(), rows.min(), columns.max(), rows.max()])
                hits.append(any(overlap(box, truth) > 0.3 for box in HogDetector()(frame.image).boxes))
    assert np.mean(hits) > 0.4


SIZE = (121, 400)


def seen_at(*places):
    boxes = np.array([[x - 20, y - 28, x + 20, y + 28] for x, y in places], np.float32).reshape(-1, 4)
    return Detections(boxes, np.ones(len(boxes), np.float32))


def scene(*places):
    frame = draw(None, SIZE)
    for place in places:
        image = draw(place, SIZE)
        frame = np.where(image != draw(None, SIZE), image, frame)
    return frame


class Oracle:
    """Finds the people where they are, in the order of the frames it is asked for."""

    def __init__(self, places):
        self.places, self.calls = places, 0

    def __call__(self, image):
        self.calls += 1
        return seen_at(*next(self.places))


def test_people_are_followed_between_detections_and_keep_their_numbers(predictor):
    walks = [((40 + 5 * t, 60), (360 - 5 * t, 60)) for t in range(12)]
    oracle = Oracle(iter(walks[::4]))
    people = DetectedPeople(oracle, config=AssociationConfig(every=4))
    found = list(predict_poses(predictor, filmed(scene(*places) for places in walks), people))
    assert oracle.calls == 3
    for t, (_, poses) in enumerate(found):
        assert [pose.id for pose in poses] == [1, 2]
        for pose, place in zip(poses, walks[t], strict=True):
            np.testing.assert_allclose(pose.joints, person(place), atol=1.2)


def test_who_goes_and_comes_back_soon_is_known_again(predictor):
    """Away for half a second: the same number; for two seconds: a new one."""
    there = [True] * 5 + [False] * 10 + [True] * 5 + [False] * 50 + [True] * 5
    places = [[(100, 60)] if here else [] for here in there]
    people = DetectedPeople(Oracle(iter(places)), config=AssociationConfig(every=1))
    found = [[pose.id for pose in poses] for _, poses in predict_poses(predictor, filmed(scene(*p) for p in places), people)]
    assert found[:5] == [[1]] * 5
    assert found[10] == []
    assert found[15:20] == [[1]] * 5
    assert found[70:] == [[2]] * 5


def test_who_is_not_there_goes(predictor):
    """A false alarm has no pose, and is followed for three frames only."""
    people = DetectedPeople(Oracle(iter([[(100, 60)]] + [[]] * 9)), config=AssociationConfig(every=1))
    found = [len(poses) for _, poses in predict_poses(predictor, filmed([scene()] * 10), people)]
    assert found == [1, 1, 1] + [0] * 7


def test_two_boxes_of_one_person_become_one(predictor):
    places = [[(100, 60), (104, 60)]] + [[(100, 60)]] * 5
    people = DetectedPeople(Oracle(iter(places)), config=AssociationConfig(every=1))
    found = [[pose.id for pose in poses] for _, poses in predict_poses(predictor, filmed([scene((100, 60))] * 6), people)]
    assert found[0] == [1, 2]
    assert found[1:] == [[1]] * 5
