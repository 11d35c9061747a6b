"""The doctor: what it finds in sound and damaged downloads, what it says, writes and returns; and that builds agree with it."""

import collections
import contextlib
import json
import pathlib
import re
import subprocess
import sys

import fake_jhmdb
import fake_penn_action
import numpy as np
import pytest
import scipy.io
from fake_jhmdb import write_images, write_jhmdb, write_masks
from fake_penn_action import draw_for_labels, fields_of, write_frames, write_label, write_penn_action

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import PENN_ACTION
from kimnet_jax.core.video import read_frames
from kimnet_jax.data_pipelines import build, doctor, sides
from kimnet_jax.data_pipelines.builders.penn_action import labels
from kimnet_jax.data_pipelines.builders.sub_jhmdb import layout
from kimnet_jax.data_pipelines.clip_source import open_clips
from kimnet_jax.data_pipelines.findings import Finding, summarise

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLIP = 'catch/Ball_catch_0'


def run(dataset: str, root: pathlib.Path, *flags: str) -> int:
    return doctor.main(['doctor', dataset, str(root), *flags])


def errors(dataset: str, root: pathlib.Path, pixels: bool = True) -> list[str]:
    return [finding.text for finding in doctor.examine(dataset, root, pixels).findings if finding.level == 'error']


def truncate(path: pathlib.Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def test_a_sound_download_is_counted_and_a_subset_is_a_warning(tmp_path, capsys):
    assert run('penn_action', write_penn_action(tmp_path), '--pixels') == 0
    assert capsys.readouterr().out.splitlines() == [
        '                   found   release',
        'clips                  4     2,326',
        'train clips            2     1,258',
        'test clips             2     1,068',
        'frames                14   163,841',
        'visible joints       182 1,660,432',
        'images                14          ',
        f'warning  5 counts are not those of the whole release: {tmp_path}',
        f'penn_action in {tmp_path}: sound',
    ]


def break_four_ways(root: pathlib.Path) -> None:
    """Damages all four clips of Penn Action, and removes a frame, and a label of a fifth."""
    frames = root / 'Penn_Action/frames'
    (frames / '0001/000002.jpg').unlink()
    truncate(frames / '0001/000003.jpg')
    truncate(frames / '0001/000004.jpg')
    truncate(root / 'Penn_Action/labels/0002.mat')
    write_frames(frames / '0003', (52, 36), 5)
    write_label(root, '0004', bbox=fields_of('0004')['bbox'][:1])
    write_frames(frames / '0005', (36, 52), 2)


def test_every_problem_is_found_and_not_only_the_first(tmp_path):
    break_four_ways(write_penn_action(tmp_path))
    frames = tmp_path / 'Penn_Action/frames'
    found = errors('penn_action', tmp_path)
    assert found[:4] == [
        'no file labels/0005.mat',
        f'{frames}/0001: 3 images, but nframes of 0001.mat has 4 frames; 000002.jpg is missing',
        f'{frames}/0001/000003.jpg: not a readable image ({(frames / "0001/000003.jpg").stat().st_size} bytes); replace the file',
        f'{frames}/0001/000004.jpg: not a readable image ({(frames / "0001/000004.jpg").stat().st_size} bytes); replace the file',
    ]
    assert found[4].startswith(f'{tmp_path}/Penn_Action/labels/0002.mat: not a readable MATLAB file')
    assert found[5:] == [
        f'{frames}/0003/{number:06d}.jpg: 36x52 pixels, dimensions of its label say 52x36' for number in range(1, 6)
    ]
    warnings = [finding for finding in doctor.examine('penn_action', tmp_path, False).findings if finding.level == 'warning']
    assert warnings[0] == Finding('warning', '0004', labels.NO_ROW, 1)
    assert len(errors('penn_action', tmp_path, pixels=False)) == 3


@pytest.mark.parametrize('pixels', [False, True])
def test_an_archive_is_checked_as_it_is_and_names_its_members(pixels, tmp_path):
    break_four_ways(write_penn_action(tmp_path))
    folder = doctor.examine('penn_action', tmp_path, pixels)
    archive = fake_penn_action.pack(tmp_path)
    (tmp_path / 'Penn_Action (packed)').rename(tmp_path / 'away')
    packed = doctor.examine('penn_action', tmp_path, pixels)
    assert packed.counts == folder.counts
    assert sorted(finding.text.replace(str(archive), str(tmp_path / 'Penn_Action')) for finding in packed.findings) == sorted(
        finding.text for finding in folder.findings
    )
    assert {path.name for path in tmp_path.iterdir()} == {archive.name, 'away'}


def test_a_damaged_archive_is_a_problem(tmp_path, capsys):
    truncate(fake_penn_action.pack(write_penn_action(tmp_path)))
    assert run('penn_action', tmp_path) == 1
    error, last = capsys.readouterr().out.splitlines()
    assert error.startswith(f'error    {tmp_path}/Penn_Action.tar.gz: damaged, or not what its suffix says')
    assert last == f'penn_action in {tmp_path}: has problems (frames not decoded)'


def test_the_json_says_what_the_table_says_and_appears_whole(tmp_path, capsys):
    write_label(write_penn_action(tmp_path / 'download'), '0001', bbox=fields_of('0001')['bbox'][:2])
    (tmp_path / 'download/Penn_Action/frames/0002/000001.jpg').unlink()
    file = tmp_path / 'report.json'
    assert run('penn_action', tmp_path / 'download', '--json', str(file)) == 1
    report = json.loads(file.read_text())
    assert {key: report[key] for key in ('dataset', 'path', 'pixels', 'sound')} == {
        'dataset': 'penn_action',
        'path': str(tmp_path / 'download'),
        'pixels': False,
        'sound': False,
    }
    assert report['counts']['frames'] == 14
    assert report['official']['frames'] == 163_841
    assert {'level': 'warning', 'place': '0001', 'text': labels.NO_ROW, 'count': 2} in report['findings']
    assert [finding['place'] for finding in report['findings'] if finding['level'] == 'error'] == ['0002']
    assert f'warning  2 {labels.NO_ROW}: 0001\n' in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {'download', 'report.json'}


def test_many_errors_are_cut_short_on_the_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, 'ERRORS_SHOWN', 2)
    root = write_penn_action(tmp_path)
    for clip in fake_penn_action.LENGTHS:
        (root / f'Penn_Action/frames/{clip}/000001.jpg').unlink()
    run('penn_action', root)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('error')]
    assert len(lines) == 3
    assert lines[2] == 'error    ... 2 more; --json FILE lists them all'


def test_lines_sum_counts_and_name_the_first_places():
    findings = [Finding('warning', f'{i:02d}', 'frames', i) for i in range(20)] + [Finding('warning', 'x', 'joints')]
    assert summarise(findings) == [
        '190 frames: 00, 01, 02, 03, 04, 05, 06, 07, 08, 09, 10, 11, ... (20 in all)',
        '1 joints: x',
    ]


JOINTS, MASKS = (f'{part}/{CLIP}/{file}.mat' for part, file in (('joint_positions',) * 2, ('puppet_mask',) * 2))
JHMDB_FAULTS = {
    'video missing': (
        lambda r: (r / f'ReCompress_Videos/{CLIP}.avi').unlink(),
        ['Ball_catch_0.avi: missing, and sub_splits'],
        False,
    ),
    'video cut short': (lambda r: truncate(r / f'ReCompress_Videos/{CLIP}.avi'), ['Ball_catch_0.avi: '], True),
    'joints and mask': (
        lambda r: [truncate(r / JOINTS), truncate(r / 'puppet_mask/golf/Golf_swing_0/puppet_mask.mat')],
        ['joint_positions.mat: not a readable', 'Golf_swing_0/puppet_mask.mat: not a readable'],
        False,
    ),
    'mask missing': (lambda r: (r / MASKS).unlink(), ['puppet_mask.mat: no such file'], False),
    'image missing': (
        lambda r: [write_images(r / 'Rename_Images' / clip, fake_jhmdb.frames_of(clip)[1:]) for clip in fake_jhmdb.LENGTHS],
        ['4 images, but pos_img', '2 images', '3 images', '1 images'],
        False,
    ),
    'no fold 1': (lambda r: [file.unlink() for file in (r / 'sub_splits').glob('*_1.txt')], ['sub_splits has no fold 1'], False),
    'split': (
        lambda r: (r / 'sub_splits/golf_test_split_2.txt').write_text('x'),
        ["golf_test_split_2.txt: line 1 is 'x'"],
        False,
    ),
    'no masks': (lambda r: (r / 'puppet_mask').rename(r / 'mask'), ['no puppet_mask there; expected the folders'], False),
}


@pytest.mark.parametrize('case', JHMDB_FAULTS)
def test_faults_of_jhmdb_are_found(case, tmp_path):
    change, expected, pixels = JHMDB_FAULTS[case]
    change(write_jhmdb(tmp_path))
    found = errors('sub_jhmdb', tmp_path, pixels)
    assert len(found) == len(expected)
    for text, part in zip(found, expected, strict=True):
        assert part in text
        assert str(tmp_path) in text


def flip_until_noticed(path: pathlib.Path) -> None:
    """Flips one bit of a video, such a one that its decoder notices it and still decodes every frame."""
    data, frames = path.read_bytes(), len(list(read_frames(path)))
    for position in range(len(data) // 3, len(data), 17):
        flipped = bytearray(data)
        flipped[position] ^= 4
        path.write_bytes(flipped)
        with contextlib.suppress(InputError):
            read = list(read_frames(path, tolerant=True))
            if len(read) == frames and any(frame.damaged for frame in read):
                return
    raise AssertionError('no such bit')


def test_a_flipped_bit_in_a_video_is_named_by_doctor_and_build_or_left_out(tmp_path, capsys):
    root = write_jhmdb(tmp_path / 'download')
    path = root / f'ReCompress_Videos/{CLIP}.avi'
    flip_until_noticed(path)
    (found,) = errors('sub_jhmdb', root)
    assert re.match(rf'{path}: frame \d is damaged \(.*\); download the file again', found)
    command = ['build', 'sub_jhmdb/fold1', '--manual_dir', str(root), '--data_dir', str(tmp_path / 'built')]
    with pytest.raises(InputError, match=re.escape(found)):
        build.main(command)
    assert not list((tmp_path / 'built').rglob('*record*'))
    build.main([*command, '--leave_out_damaged'])
    out, err = capsys.readouterr()
    assert 'sub_jhmdb/fold1: train 1 clips, test 2 clips' in out
    assert f'note: 1 clips left out, whose frames are damaged: {found}' in err
    clips = open_clips(tmp_path / 'built', 'sub_jhmdb', 'fold1', 'train')
    assert [clip['clip'] for clip in (clips[i] for i in range(len(clips)))] == ['golf/Golf_swing_0']
    assert clips.note == '1 clips with damaged frames were left out of this data set when it was built'
    flip_until_noticed(root / 'ReCompress_Videos/golf/Golf_swing_0.avi')
    with pytest.raises(InputError, match="fold1: all clips of split 'train' have damaged frames"):
        build.main([*command, '--leave_out_damaged', '--overwrite'])


def test_archives_of_jhmdb_are_accepted_and_empty_masks_counted(tmp_path):
    root = write_jhmdb(tmp_path)
    masks = np.zeros((48, 64, 5), np.uint8)
    masks[7:10, 20:30, :3] = 1
    write_masks(root / MASKS, masks)
    folder = doctor.examine('sub_jhmdb', root, True)
    for part, archive in (('ReCompress_Videos', 'JHMDB_video.zip'), ('puppet_mask', 'puppet_mask.tgz')):
        fake_jhmdb.pack(root / part, root / archive)
    packed = doctor.examine('sub_jhmdb', root, True)
    assert packed == folder
    assert packed.findings[0] == Finding('warning', CLIP, layout.EMPTY_MASK, 2)
    assert [finding.level for finding in packed.findings] == ['warning', 'warning']


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['coco', '.'], "'coco' is not a data set that is downloaded; known: "),
        (['kinetic_puppets', '.'], "'kinetic_puppets' is not a data set that is downloaded"),
        (['penn_action', '{tmp}/none'], '{tmp}/none: no such folder'),
        (['penn_action', '{tmp}/file'], '{tmp}/file: not a folder'),
        (['penn_action', '{tmp}', '--json', '{tmp}/none/x.json'], '--json {tmp}/none/x.json: a folder, or in one that cannot be'),
        (['penn_action', '{tmp}', '--json', '{tmp}'], '--json {tmp}: a folder, or'),
    ],
)
def test_what_cannot_be_checked_is_named(args, message, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(InputError) as caught:
        doctor.main(['doctor', *(arg.format(tmp=tmp_path) for arg in args)])
    assert message.format(tmp=tmp_path) in str(caught.value)


def test_the_command_ends_with_the_status_that_it_documents(tmp_path):
    root = write_penn_action(tmp_path / 'download')

    def command(*args: object) -> subprocess.CompletedProcess:
        args = [sys.executable, '-m', 'data_pipelines.doctor', *map(str, args)]
        return subprocess.run(args, cwd=ROOT, capture_output=True, text=True, timeout=120)

    sound = command('penn_action', root, '--pixels')
    assert (sound.returncode, sound.stderr) == (0, '')
    truncate(root / 'Penn_Action/frames/0003/000004.jpg')
    problems = command('penn_action', root, '--pixels')
    assert (problems.returncode, problems.stderr) == (1, '')
    failed = command('penn_action', tmp_path / 'none')
    assert (failed.returncode, failed.stdout) == (2, '')
    assert failed.stderr == f'error: {tmp_path}/none: no such folder; give the one that holds the download\n'


@pytest.mark.parametrize('broken', [False, True])
def test_what_the_doctor_finds_sound_builds_and_what_it_does_not_is_refused_in_the_same_words(broken, tmp_path):
    root = write_penn_action(tmp_path / 'download')
    if broken:
        truncate(root / 'Penn_Action/frames/0003/000004.jpg')
    found = errors('penn_action', root)
    try:
        build.main(['build', 'penn_action', '--manual_dir', str(root), '--data_dir', str(tmp_path / 'built')])
        refused = []
    except InputError as error:
        refused = [str(error)]
    assert found == refused
    assert len(found) == broken


def test_the_real_clips_of_jhmdb_are_sound(shared_dir):
    report = doctor.examine('sub_jhmdb', shared_dir / 'data/jhmdb', False)
    assert [finding.text for finding in report.findings] == ['counts are not those of the whole release']
    assert report.counts['clips'] == 254
    assert report.counts['frames'] == 9060
    assert (report.counts[sides.NAMED], report.counts[sides.EXCHANGED]) == (136, 3)  # 77 from the front, 62 from behind


def people(facing: int, away: int, exchanged: bool) -> list[dict[str, int]]:
    """The counts of so many clips of somebody whose shoulders are 10 pixels apart."""
    joints, visible = np.zeros((3, PENN_ACTION.num_joints, 2)), np.ones((3, PENN_ACTION.num_joints), bool)
    joints[:, PENN_ACTION.joints.index('l_shoulder'), 0] = -10 if exchanged else 10
    front = [sides.count_sides('front', joints, visible, PENN_ACTION)] * facing
    return front + [sides.count_sides('back', -joints, visible, PENN_ACTION)] * away


@pytest.mark.parametrize(('named', 'exchanged', 'warned'), [(0, 10, True), (9, 10, True), (10, 10, False), (0, 9, False)])
def test_left_and_right_are_judged_by_the_clips_whose_view_is_known(named, exchanged, warned):
    clips = [*people(named, 0, False), *people(1, exchanged - 1, True)]
    found = sides.judge_sides(collections.Counter(what for counts in clips for what in counts))
    assert [finding.count for finding in found] == ([exchanged] if warned else [])
    if warned:
        assert summarise(found) == [
            f'{exchanged} of {named + exchanged} clips seen from the front or from behind have the left shoulder on the side of '
            'the right one: left and right of the joints are probably exchanged: joints'
        ]


def test_clips_that_show_nothing_of_left_and_right_do_not_count():
    joints, visible = np.zeros((3, PENN_ACTION.num_joints, 2)), np.ones((3, PENN_ACTION.num_joints), bool)
    assert sides.count_sides('front', joints, visible, PENN_ACTION) == {}
    joints[:, PENN_ACTION.joints.index('l_shoulder'), 0] = 10
    assert sides.count_sides('left', joints, visible, PENN_ACTION) == {}
    assert sides.count_sides('front', joints, ~visible, PENN_ACTION) == {}
    assert sides.count_sides('front', joints, visible, PENN_ACTION) == {sides.NAMED: 1}


def test_exchanged_labels_are_told_by_the_doctor(shared_dir, tmp_path):
    """Penn Action's own files with their columns exchanged."""
    folder = tmp_path / 'Penn_Action/labels'
    folder.mkdir(parents=True)
    for file in sorted((shared_dir / 'data/penn_action/labels').glob('*.mat'))[::20]:
        fields = {key: value for key, value in scipy.io.loadmat(file).items() if not key.startswith('__')}
        order = PENN_ACTION.flip_order
        fields |= {key: fields[key][:, order] for key in ('x', 'y', 'visibility')}
        scipy.io.savemat(folder / file.name, fields)
    texts = [finding.text for finding in doctor.examine('penn_action', tmp_path, False).findings]
    assert any('left and right of the joints are probably exchanged' in text for text in texts)


def test_real_labels_of_penn_action_give_the_warnings_of_their_faults(shared_dir, tmp_path):
    root = draw_for_labels(shared_dir / 'data/penn_action/labels', tmp_path, ['0525', '1154', '1516', '1032'])
    report = doctor.examine('penn_action', root, True)
    assert {(finding.place, finding.text, finding.count) for finding in report.findings[:-1]} == {
        ('0525', labels.EMPTY_BOX, 1),
        ('0525', labels.NOT_ANNOTATED, 46),
        ('1154', labels.NO_ROW, 1),
        ('1516', labels.NOT_ANNOTATED, 272),
        ('1516', labels.NONE_VISIBLE, 68),
        ('1032', labels.OUTSIDE, 210),
    }
    assert report.counts['frames'] == report.counts['images'] == 46 + 72 + 68 + 40


def test_labels_are_checked_without_frames(shared_dir):
    report = doctor.examine('penn_action', shared_dir / 'data/penn_action', False)
    (error,) = (finding for finding in report.findings if finding.level == 'error')
    assert 'no frames there' in error.text
    assert (report.counts['clips'], report.counts['frames'], report.counts['images']) == (2326, 163_841, 0)
    assert sum(finding.count for finding in report.findings if 'empty box' in finding.text) == 185
