"""Files of tracks, as trackers and annotation tools write them."""

import json

import numpy as np
import pytest

from kimnet_jax.core.errors import InputError
from kimnet_jax.inference.tracks import read_tracks

EXPECTED = {0: {3: [10, 20, 49, 99], 4: [100, 20, 139, 99]}, 2: {3: [12, 20, 51, 99]}}


def agree(found, expected=EXPECTED) -> None:
    assert {frame: list(people) for frame, people in found.items()} == {frame: list(people) for frame, people in expected.items()}
    for frame, people in expected.items():
        for person, box in people.items():
            np.testing.assert_allclose(found[frame][person], box)


def test_motchallenge_counts_from_one(tmp_path):
    (tmp_path / 't.txt').write_text(
        '1,3,11,21,40,80,0.9,-1,-1,-1\n1,4,101,21,40,80,1,-1,-1,-1\n\n3,3,13.0,21,40,80,0.7,-1,-1,-1\n'
    )
    agree(read_tracks(tmp_path / 't.txt'))


def test_of_ground_truth_pedestrians_alone(tmp_path):
    rows = ['1,3,11,21,40,80,1,1,1.0', '1,4,101,21,40,80,1,1,0.5', '1,5,101,21,40,80,0,1,1', '2,6,101,21,40,80,1,3,1']
    (tmp_path / 'gt.txt').write_text('\n'.join([*rows, '3,3,13,21,40,80,1,1,1']))
    agree(read_tracks(tmp_path / 'gt.txt'))


RESULTS = [
    {'image_id': 0, 'track_id': 3, 'category_id': 1, 'bbox': [10, 20, 39, 79], 'score': 0.9},
    {'image_id': 0, 'track_id': 4, 'category_id': 1, 'bbox': [100, 20, 39, 79], 'score': 0.9},
    {'image_id': 2, 'track_id': 3, 'category_id': 1, 'bbox': [12, 20, 39, 79], 'score': 0.9},
]


def test_coco_results(tmp_path):
    (tmp_path / 't.json').write_text(json.dumps(RESULTS))
    agree(read_tracks(tmp_path / 't.json'))


def test_coco_annotations_in_the_order_of_the_images(tmp_path):
    annotations = [record | {'image_id': 700 + 10 * record['image_id']} for record in RESULTS]
    images = [{'id': 720}, {'id': 700}, {'id': 710}]
    (tmp_path / 't.json').write_text(json.dumps({'images': images, 'annotations': annotations}))
    agree(read_tracks(tmp_path / 't.json'))


def test_what_predict_writes(tmp_path):
    frames = [{'frame': t, 'id': i, 'box': box, 'joints': []} for t, people in EXPECTED.items() for i, box in people.items()]
    (tmp_path / 't.json').write_text(json.dumps({'about': {}, 'frames': frames, 'frame_count': 3}))
    agree(read_tracks(tmp_path / 't.json'))
    rows = [','.join(map(str, [t, 0.1, i, 0.5, 0, *box])) for t, people in EXPECTED.items() for i, box in people.items()]
    (tmp_path / 't.csv').write_text('\n'.join(['frame,time,id,score,lost,x0,y0,x1,y1', *rows]) + '\n')
    agree(read_tracks(tmp_path / 't.csv'))


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 't: no tracks in it'),
        ('[]', 't: no tracks in it'),
        ('1,3,11,21\n', 't: line 1: 4 columns; MOTChallenge has frame, id, left'),
        ('0,3,11,21,40,80\n', 't: line 1: frame 0; MOTChallenge counts frames from 1'),
        ('1,3,11,21,40,80\n1,3,11,21,40,80\n', 't: line 2: id 3 is twice in frame 0'),
        ('1,-1,11,21,40,80,0.9,-1,-1,-1\n', 't: line 1: id -1 says that nobody is tracked; .*--detect'),
        ('1,3,11,21,40,nan\n', 't: line 1: a number is not finite'),
        ('1,3,11,21,40,x\n', 't: line 1: not a number'),
        ('1.5,3,11,21,40,80\n', 't: line 1: frame 1.5 is no whole number'),
        ('1,3,11,21,0.5,80\n', 't: line 1: the box is empty or not finite'),
        ('frame,id,x,y\n', "t: no column 'x0'"),
        ('frame,id,x0,y0,x1,y1\n0,1,2,3\n', 't: line 2: 4 columns, the header has 6'),
        ('{"a": 1}', "t: neither 'frames' .* nor COCO's 'annotations'"),
        ('[{"image_id": 0, "bbox": [1, 2, 3, 4]}]', "t: entry 0: no field 'track_id'; .*--detect"),
        ('[{"image_id": 0, "track_id": 1, "bbox": [1, 2, 3]}]', 't: entry 0: bbox is .*expected four numbers'),
        ('[{"image_id": 0, "track_id": true, "bbox": [1, 2, 3, 4]}]', 't: entry 0: not a number'),
        ('[5]', "t: entry 0: '5', expected an object"),
        ('{"images": [{"id": "a"}], "annotations": []}', "t: field 'images', entry 0: id is 'a'"),
        (
            '{"images": [{"id": 4}], "annotations": [{"image_id": 5, "track_id": 1, "bbox": [1, 2, 3, 4]}]}',
            '5 is not in',
        ),
        ('{"frames": [{"frame": 0, "box": [1, 2, 3, 4]}]}', "t: field 'frames', entry 0: no field 'id'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    (tmp_path / 't').write_text(text)
    with pytest.raises(InputError, match=message):
        read_tracks(tmp_path / 't')
