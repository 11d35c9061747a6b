"""Pictures of what trained networks do on a clip of a built data set or on a video (docs/visualize.md)."""

import contextlib
import csv
import functools
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from kimnet_jax.core import heatmap, kinematics
from kimnet_jax.core.drawing import draw_skeleton
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import draft_of, drafts_in, require_free
from kimnet_jax.core.geometry import apply_affine, box_of_points, crop_matrix, square_of_box
from kimnet_jax.core.image import warp
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.types import Array
from kimnet_jax.core.video import DEFAULT_RATE
from kimnet_jax.inference.tracking import TrackerConfig
from kimnet_jax.inference.video_writer import VideoWriter
from kimnet_jax.metrics import ALPHA, pck_state, torso_length
from kimnet_jax.reporting import VIDEO_SUFFIX, require_matplotlib
from kimnet_jax.tasks import videos
from kimnet_jax.tasks.footage import Footage, Frames, watch
from kimnet_jax.tasks.occlusion import names_of
from kimnet_jax.tasks.trained import Trained
from kimnet_jax.training.steps import TargetConfig

SHOWN = {'correlation': 4, 'heatmaps': 5, 'compare': 6}  # frames, where none are asked for
TRUTH = 'truth'
_VIEW = 400  # pixels of a panel
_SCALE = 1.3  # side of the view over the longer side of what is in it
_JOINTS = ('l_wrist', 'r_wrist')  # of `trajectories`, where none are asked for


def correlation(
    found: Trained, footage: Footage, asked: Frames | None, out: pathlib.Path, *, lines: Sequence[str] | None = None
) -> None:
    """KMM's W_r of every step, and, if `lines`, lines to these joints of the later frames (`all`: to all of them).

    Raises `InputError` where the network has no KMM, or there are not two frames in a row.
    """
    pictures = _pictures()
    to = [] if lines is None else joint_indices(found.skeleton, lines, '--lines')
    if asked is not None and asked.every != 1:
        raise InputError(f'{asked}: W_r is of a frame and the next; leave out the step')
    if 'correlation' not in _evidence(found):
        raise InputError(f'{found.name}: {_described(found)}, which has no KMM and so no W_r to draw')
    run = watch(found, footage, asked, SHOWN['correlation'], maps=True)
    if len(run.shown) < 2:
        raise InputError(f'{asked or footage.name}: W_r is of two frames, and there is one; show at least two')
    joints = found.skeleton.num_joints
    later = [run.seen[t] for t in run.shown[1:]]
    weights = np.stack([np.full((joints, joints), np.nan) if one.begins else one.evidence['correlation'] for one in later])
    if np.isnan(weights).all():
        raise InputError(
            f'{footage.name}: the chain begins anew in each of these frames, so there is no W_r; show later ones with --frames'
            + ('' if footage.boxes is not None else ', or say with --box where the person is')
        )
    drawn = None
    if lines is not None:
        view = _view(run.joints)
        images = _panels(run.frames, run.shown, view)
        places = apply_affine(view, run.joints)
        for image, place in zip(images, places, strict=True):
            draw_skeleton(image, place, np.ones(joints, bool), found.skeleton)
        drawn = pictures.JointLines(images, places, to)
    title = f'{_label(found)}: temporal correlation on {footage.name}'
    figure = pictures.correlation(weights, run.shown, found.skeleton.joints, drawn, title)
    _write(figure, out)


def heatmaps(
    found: Trained, footage: Footage, asked: Frames | None, out: pathlib.Path, *, joints: Sequence[str] | None = None
) -> None:
    """Heatmaps summed over all joints, and those of single `joints`: target, prediction from the frame before, result.

    Raises `InputError` where the network predicts no heatmaps from the frame before.
    """
    pictures = _pictures()
    chosen = joint_indices(found.skeleton, joints or (), '--joints')
    if 'predicted' not in _evidence(found):
        raise InputError(f'{found.name}: {_described(found)}, which predicts no heatmaps m^p from the frame before')
    run = watch(found, footage, asked, SHOWN['heatmaps'], maps=True)
    size, stride = run.predictor.size, run.predictor.stride
    seen = [run.seen[t] for t in run.shown]
    final = np.stack([one.heatmaps for one in seen if one.heatmaps is not None])
    predicted = np.stack([np.full_like(final[0], np.nan) if one.begins else one.evidence['predicted'] for one in seen])
    to_crop = np.stack([run.predictor.to_crop(one.pose.box) for one in seen])
    images = np.stack(
        [warp(run.frames[t], run.predictor.to_crop(one.pose.box, _VIEW), _VIEW) for t, one in zip(run.shown, seen, strict=True)]
    )
    target = truth = None
    if footage.example is not None:
        settings = found.section(TargetConfig, 'target')
        visible = footage.example['visible'][run.shown]
        truth = np.where(visible[..., None], apply_affine(to_crop, footage.example['joints'][run.shown]), np.nan)
        encode = functools.partial(heatmap.encode, stride=stride, sigma=settings.sigma, centre=settings.centre)
        target = encode(np.where(np.isfinite(truth), truth, -1e6), final.shape[1:3])
    groups = [
        pictures.MapRows('all joints', None if target is None else target.sum(-1), predicted.sum(-1), final.sum(-1)),
        *(
            pictures.MapRows(
                found.skeleton.joints[j],
                None if target is None else target[..., j],
                predicted[..., j],
                final[..., j],
                None if truth is None else truth[:, j],
            )
            for j in chosen
        ),
    ]
    title = f'{_label(found)}: heatmaps on {footage.name}'
    _write(pictures.heatmaps(images, run.shown, groups, size, title), out)


def compare(networks: Mapping[str, Trained], footage: Footage, asked: Frames | None, out: pathlib.Path) -> None:
    """The poses of networks and the truth on the same frames, as a picture or, where `out` ends in `.mp4`, as a video.

    Raises `InputError` where the networks find different joints.
    """
    pictures = _pictures()
    first, *others = networks.values()
    for other in others:
        other.require_skeleton(first.skeleton, first.name)
    skeleton, moving = first.skeleton, out.suffix == VIDEO_SUFFIX
    runs = [
        watch(found, footage, asked, None if moving else SHOWN['compare'], keep=not i and not moving)
        for i, found in enumerate(networks.values())
    ]
    shown = runs[0].shown
    poses = {name: run.joints for name, run in zip(networks, runs, strict=True)}
    sure = {name: np.ones(joints.shape[:2], bool) for name, joints in poses.items()}
    verdicts = {name: np.zeros(joints.shape[:2], int) for name, joints in poses.items()}
    notes: dict[str, list[str]] = {}
    if footage.example is not None:
        example = footage.example
        truth, visible = (example[key][list(shown)] for key in ('joints', 'visible'))
        hits, counted = right_joints(np.stack([*poses.values()]), truth, visible, skeleton)
        verdicts = dict(zip(poses, pictures.disputed(hits, counted), strict=True))
        notes = {
            name: [f'{a} of {b} right' for a, b in zip(right.sum(-1), counted.sum(-1), strict=True)]
            for name, right in zip(poses, hits, strict=True)
        }
        verdicts = {TRUTH: np.zeros(truth.shape[:2], int)} | verdicts
        poses, sure = {TRUTH: truth} | poses, {TRUTH: visible} | sure
        for name, right in zip(networks, hits, strict=True):
            print(f'{name}: {right.sum()} of {counted.sum()} joints within {ALPHA} torso lengths')
    else:
        least = TrackerConfig().joint_score
        sure = {
            name: np.stack([run.seen[t].pose.scores >= least for t in shown]) for name, run in zip(networks, runs, strict=True)
        }
    view = _view(*(np.where(sure[name][..., None], joints, np.nan) for name, joints in poses.items()))
    places = {name: apply_affine(view, joints) for name, joints in poses.items()}
    title = footage.name

    def rows(images: np.ndarray, indices: slice) -> list[Any]:
        found = []
        for name in poses:
            drawn = images.copy()
            for image, place, certain in zip(drawn, places[name][indices], sure[name][indices], strict=True):
                draw_skeleton(image, place, certain, skeleton)
            texts = notes[name][indices] if name in notes else [''] * len(drawn) if notes else []
            found.append(pictures.PoseRow(name, drawn, places[name][indices], verdicts[name][indices], texts))
        return found

    if not moving:
        _write(pictures.compare(rows(_panels(runs[0].frames, shown, view), slice(None)), shown, title), out)
        return
    with draft_of(out) as draft, draft.open('wb') as file, contextlib.closing(footage.read()) as stream:
        writer = VideoWriter(file, DEFAULT_RATE)
        frames = itertools.islice(stream, shown.start, shown.stop, shown.step)
        for i, frame in enumerate(tqdm(frames, desc=out.name, total=len(shown), unit='frame', disable=None, leave=False)):
            part = rows(warp(frame.image, view, _VIEW)[None], slice(i, i + 1))
            picture = pictures.pixels(pictures.compare(part, shown[i : i + 1], title, side_by_side=True))
            writer.write(picture, frame.time)
        writer.finish()
    print(f'written: {out}')


def trajectories(
    found: Trained,
    footage: Footage,
    asked: Frames | None,
    out: pathlib.Path,
    *,
    joints: Sequence[str] | None = None,
    refine: Trained | None = None,
) -> None:
    """Positions, speeds and angles against time, raw and refined and true, and beside `out` the angles as CSV.

    Raises `InputError` where there are not two frames, or the skeleton has no limbs that make the angles.
    """
    pictures = _pictures()
    names = joints if joints else [name for name in _JOINTS if name in found.skeleton.joints]
    chosen = joint_indices(found.skeleton, names, '--joints')
    if asked is not None and asked.every != 1:
        raise InputError(f'{asked}: speeds are from frame to frame; leave out the step')
    table = out.with_suffix('.csv')
    require_free([table])
    behind = None
    if refine is not None:
        from kimnet_jax.tasks import refinement  # with what it needs it takes longer to import than all the rest

        behind = videos.with_refiner(videos.load(found), refinement.load(refine), None).refiner
    run = watch(found, footage, asked, None, keep=False)
    shown = list(run.shown)
    if len(shown) < 2:
        raise InputError(f'{asked or footage.name}: a course takes at least two frames, and there is one')
    every = [one.pose for one in run.seen]
    found_joints = np.stack([pose.joints for pose in every])
    sure = np.stack([pose.scores for pose in every]) >= TrackerConfig().joint_score
    poses = {'raw': np.where(sure[..., None], found_joints, np.nan)[shown]}
    if behind is not None:
        size = _image_size(footage)
        boxes, times = np.stack([pose.box for pose in every]), np.array([pose.time for pose in every])
        poses['refined'] = behind(found_joints, boxes, size, times)[shown]
    if footage.example is not None:
        known = footage.example['visible'][shown][..., None]
        poses[TRUTH] = np.where(known, footage.example['joints'][shown], np.nan)
    unit, time = ('s', np.array([every[t].time for t in shown])) if footage.timed else ('frame', np.asarray(shown, float))
    angles = {name: kinematics.joint_angles(part, found.skeleton) for name, part in poses.items()}
    series = {
        name: {
            'positions': part[:, chosen],
            'speeds': kinematics.speeds(part[:, chosen], time),
            **angles[name],
        }
        for name, part in poses.items()
    }
    title = f'{_label(found)}{f", refined by {_label(refine)}" if refine else ""}: {footage.name}'
    figure = pictures.trajectories(time, unit, series, [found.skeleton.joints[j] for j in chosen], title)
    with drafts_in(out.parent) as drafts:
        pictures.save(figure, drafts / out.name, out.suffix)
        with (drafts / table.name).open('w', newline='', encoding='utf-8') as file:
            writer = csv.writer(file, lineterminator='\n')
            writer.writerow(['frame', *(['time_s'] if unit == 's' else []), 'poses', *angles['raw']])
            for name, columns in angles.items():
                for i, frame in enumerate(shown):
                    values = ['' if np.isnan(column[i]) else f'{column[i]:.2f}' for column in columns.values()]
                    writer.writerow([frame, *([f'{time[i]:.4f}'] if unit == 's' else []), name, *values])
    print(f'written: {out}\nwritten: {table}')


def right_joints(prediction: Array, joints: Array, visible: Array, skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray]:
    """Which joints lie within 0.2 torso lengths of the truth, by the evaluation's criterion (`metrics.pck_state`).

    Args:
        prediction: [N, T, J, 2] pixels, of N networks.
        joints: [T, J, 2] the truth.
        visible: bool [T, J].
        skeleton: of the joints.

    Returns:
        (bool [N, T, J] right, bool [T, J] counted: where the truth is visible and the torso has a length).
    """
    lengths = torso_length(joints, visible, skeleton)
    every_frame = (prediction[:, :, None], joints[:, None], visible[:, None], lengths[:, None])  # each with an axis of one frame
    state = pck_state(*every_frame, alphas=[float(ALPHA)])
    return state.sums[..., 0, :] > 0, state.counts[..., 0, :] > 0


def joint_indices(skeleton: Skeleton, names: Sequence[str], flag: str) -> list[int]:
    """Indices of joints by name; `all` is all of them. Raises `InputError` where one is unknown."""
    if list(names) == ['all']:
        return list(range(skeleton.num_joints))
    for name in names:
        if name not in skeleton.joints:
            known = ', '.join(skeleton.joints)
            raise InputError(f'{flag}: {name!r} is no joint of {skeleton.name!r}; choose from {known}, or all')
    return [skeleton.joints.index(name) for name in dict.fromkeys(names)]


def _pictures() -> Any:
    require_matplotlib()
    from kimnet_jax.reporting import pictures

    return pictures


def _evidence(found: Trained) -> set[str]:
    """Names of what the temporal module predicts with; nothing is computed."""
    model, size = found.load(), found.config['data']['input_size']

    def stream(frames: jax.Array) -> Any:
        return model.step_with_evidence(model.init_state(frames)[1], frames)[2]

    return set(jax.eval_shape(stream, jax.ShapeDtypeStruct((1, size, size, 3), np.float32)))


def _image_size(footage: Footage) -> tuple[int, int]:
    with contextlib.closing(footage.read()) as stream:
        rows, columns, _ = next(stream).image.shape
    return rows, columns


def _described(found: Trained) -> str:
    temporal = found.config['model'].get('temporal')
    return f'a {found.kind}' + (f' with temporal={temporal}' if temporal else '')


def _label(found: Trained) -> str:
    return names_of([found.name])[0]


def _view(*poses: np.ndarray) -> np.ndarray:
    """The map [2, 3] from frames to square panels that hold all these joints [T, J, 2] but those that are not finite."""
    points = np.concatenate([part.reshape(-1, 2) for part in poses])
    known = np.isfinite(points).all(-1)
    box = box_of_points(points, known) if known.any() else np.array([0, 0, 1, 1], np.float32)
    return crop_matrix(*square_of_box(box, _SCALE), _VIEW)


def _panels(frames: Mapping[int, np.ndarray], shown: range, view: np.ndarray) -> np.ndarray:
    return np.stack([warp(frames[t], view, _VIEW) for t in shown])


def _write(figure: Any, out: pathlib.Path) -> None:
    with draft_of(out) as draft:
        _pictures().save(figure, draft, out.suffix)
    print(f'written: {out}')
