"""One clip from its seed: the person, the camera, the frames and the exact truth."""

import dataclasses
from collections.abc import Callable

import numpy as np

from kimnet_jax.core.geometry import inside
from kimnet_jax.data_pipelines.builders.kinetic_puppets.figure import (
    JOINTS,
    OWN_PARTS,
    Body,
    Outfit,
    articulate,
    body_parts,
    random_body,
    random_outfit,
)
from kimnet_jax.data_pipelines.builders.kinetic_puppets.motion import ACTIONS, SAMPLE_RATE, STEPS, sample_motion
from kimnet_jax.data_pipelines.builders.kinetic_puppets.render import COLUMNS, ROWS, Layer, hull_layer, render
from kimnet_jax.data_pipelines.builders.kinetic_puppets.scene import BACKDROP, backdrop, distractors, occluders, wander

_OCCLUDER = 255


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip with its truth.

    Attributes:
        action: one of `motion.ACTIONS`.
        frames: uint8 [T, H, W, 3] RGB.
        joints: float32 [T, J, 2] pixels at mid-exposure, in the order of `figure.JOINTS`.
        visible: bool [T, J].
        boxes: float32 [T, 4], extent of the whole person, occluded or not, within the frame.
    """

    action: str
    frames: np.ndarray
    joints: np.ndarray
    visible: np.ndarray
    boxes: np.ndarray


def make_clip(seed: int, split: int, index: int) -> Clip:
    """Clip `index` of a split; depends on nothing but the three numbers."""
    rng = np.random.default_rng([seed, split, index])
    action = ACTIONS[(index + 5 * split) % len(ACTIONS)]
    frames = int(rng.integers(30, 61))
    fine = np.arange(-STEPS, (frames + 1) * STEPS) / SAMPLE_RATE  # seconds, a frame more at either end
    body, outfit = random_body(rng), random_outfit(rng)
    at = articulate(body, sample_motion(rng, action, fine))
    half = int(rng.integers(0, 3))  # sub-frames, one step apart, on either side of mid-exposure
    pick = (STEPS * np.arange(1, frames + 1)[:, None] + np.arange(-half, half + 1)).ravel()
    times = fine[pick]
    # people mostly face who films them; one in ten does not care
    yaw = rng.uniform(0, 2 * np.pi) if rng.random() < 0.1 else rng.normal(0, np.deg2rad(40))
    at = viewed({name: value[pick] for name, value in at.items()}, yaw=yaw, pitch=rng.uniform(0.0, 0.22))
    camera, scale = _camera(rng, body.stature, at, times)

    layers, labels = _person(body, outfit, at, camera)
    person = np.concatenate([layer.points for layer in layers], 1)
    middle = (person.min(1) + person.max(1)) / 2

    horizon = int(BACKDROP[0] / 2 + rng.uniform(-0.45, -0.03) * body.stature * scale)
    to_frame = camera @ np.array([[1 / scale, 0, -BACKDROP[1] / 2 / scale], [0, -1 / scale, BACKDROP[0] / 2 / scale], [0, 0, 1]])
    picture = backdrop(rng, horizon)
    layers += distractors(rng, times) + occluders(rng, times, middle, _OCCLUDER)

    mid = slice(half, None, 2 * half + 1)
    expose = _exposure(rng, times[mid])
    movie, seen = np.empty((frames, ROWS, COLUMNS, 3), np.uint8), np.empty((frames, ROWS, COLUMNS), np.uint8)
    for t, (frame, top) in enumerate(render(picture, to_frame, layers, frames)):
        movie[t], seen[t] = expose(t, frame), top
    joints = _project(camera, np.stack([at[name] for name in JOINTS], 1))[mid].astype(np.float32)
    low, high = person[mid].min(1), person[mid].max(1)
    boxes = np.concatenate([np.maximum(low, -0.5), np.minimum(high, (COLUMNS - 0.5, ROWS - 0.5))], -1).astype(np.float32)
    return Clip(action, movie, joints, visible_joints(joints, seen, labels), boxes)


def viewed(at: dict[str, np.ndarray], *, yaw: float, pitch: float) -> dict[str, np.ndarray]:
    """World points and directions as a camera sees them: x right, y up, z towards it.

    Args:
        at: [N, 3] of each name.
        yaw: radians the person is turned; 0 faces the camera, a quarter turn the right edge of the frame.
        pitch: radians the camera looks down.
    """
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    tilt = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    return {name: value @ (tilt @ turn).T for name, value in at.items()}


def _person(body: Body, outfit: Outfit, at: dict[str, np.ndarray], camera: np.ndarray) -> tuple[list[Layer], dict[str, int]]:
    """What to draw of the person, ordered by depth, and the label of each body part."""
    zoom = np.linalg.norm(camera[:, :, 0], axis=-1)
    labels: dict[str, int] = {}
    layers: list[Layer] = []
    for part in body_parts(body, outfit, at):
        label = labels.setdefault(part.name, len(labels) + 1)
        width = float(part.radii.max())
        patch = part.cloth.patch(2 * width, float(np.linalg.norm(part.axis[0, 1] - part.axis[0, 0])) + width)
        centres, axis = _project(camera, part.centres), _project(camera, part.axis)
        depth = part.centres[..., 2].mean(1) + part.bias
        layers.append(hull_layer(centres, zoom[:, None] * part.radii, axis, patch, label=label, order=depth))
    return layers, labels


def _camera(rng: np.random.Generator, stature: float, at: dict[str, np.ndarray], times: np.ndarray) -> tuple[np.ndarray, float]:
    """Affine maps [N, 2, 3] from (x, y) in metres to frame pixels, and their mean pixels per metre.

    The camera follows the person in part, wanders, zooms, rolls and shakes; the person stays within the frame.
    """
    span = times - times.mean()
    points = np.stack([value[:, :2] for name, value in at.items() if not name.endswith(('_up', '_ahead', '_left'))], 1)
    hips = (at['l_hip'] + at['r_hip'])[:, :2] / 2
    path = np.stack([np.polyval(np.polyfit(span, column, 3), span) for column in hips.T], -1)
    zoom = np.exp(wander(rng, times, 0.08, slowest=5.0, fastest=2.0))
    roll = wander(rng, times, rng.uniform(0, 0.03), slowest=5.0, fastest=2.0)
    shake = np.stack([wander(rng, times, rng.uniform(0, 2.0), slowest=0.6, fastest=0.25) for _ in 'xy'], -1)
    pan = np.stack([wander(rng, times, rng.uniform(0, size), slowest=4.0, fastest=1.5) for size in (18, 8)], -1) + shake
    follow, wanted = rng.uniform(0.2, 1.0), rng.uniform(115, 195) / stature
    margin, frame = 0.14, np.array([COLUMNS - 6.0, ROWS - 6.0])
    for share in (follow, 1.0):
        moved = points - share * path[:, None]
        low, high = moved.min((0, 1)) - margin, moved.max((0, 1)) + margin
        room = (frame - 2 * np.abs(pan).max(0)) / (zoom.max() * 1.03)
        scale = float(min(wanted, *(room / (high - low))))
        if scale * stature > 100:
            break
    cos, sin = scale * zoom * np.cos(roll), scale * zoom * np.sin(roll)
    linear = np.stack([np.stack([cos, sin], -1), np.stack([sin, -cos], -1)], 1)  # rows of frame x, y; y turns over
    slack = np.maximum(room - scale * (high - low), 0) / 2
    place = np.array([COLUMNS - 1, ROWS - 1]) / 2 + rng.uniform(-1, 1, 2) * slack + pan
    centre = (low + high) / 2 + share * path
    return np.concatenate([linear, (place - np.einsum('nij,nj->ni', linear, centre))[..., None]], -1), scale


def _project(camera: np.ndarray, points: np.ndarray) -> np.ndarray:
    """World points [N, K, 3] to frame pixels [N, K, 2]."""
    return np.einsum('nij,nkj->nki', camera[..., :2], points[..., :2]) + camera[:, None, :, 2]


def _exposure(rng: np.random.Generator, times: np.ndarray) -> Callable[[int, np.ndarray], np.ndarray]:
    """A camera's changing light and sensor noise: turns frame t, float32 [H, W, 3], into uint8."""
    light = np.exp(wander(rng, times, rng.uniform(0.0, 0.25), slowest=4.0)).astype(np.float32)
    noise = rng.standard_normal((ROWS + 64, COLUMNS + 64, 3), np.float32) * np.float32(rng.uniform(1, 6))
    shifts = rng.integers(0, 65, (len(times), 2))

    def expose(t: int, frame: np.ndarray) -> np.ndarray:
        y, x = shifts[t]
        return np.clip(frame * light[t] + noise[y : y + ROWS, x : x + COLUMNS] + 0.5, 0, 255).astype(np.uint8)

    return expose


def visible_joints(joints: np.ndarray, seen: np.ndarray, labels: dict[str, int]) -> np.ndarray:
    """Which joints lie in the frame with nothing drawn over them but the body parts they belong to.

    Args:
        joints: [T, J, 2] pixels, in the order of `figure.JOINTS`.
        seen: uint8 [T, H, W], the label on top at each pixel.
        labels: of each body part.

    Returns:
        bool [T, J].
    """
    own = np.zeros((len(JOINTS), 256), bool)
    for j, name in enumerate(JOINTS):
        own[j, [labels[part] for part in OWN_PARTS[name]]] = True
    cell = np.rint(np.clip(joints, 0, (COLUMNS - 1, ROWS - 1))).astype(int)
    top = seen[np.arange(len(joints))[:, None], cell[..., 1], cell[..., 0]]
    return inside(joints, (ROWS, COLUMNS)) & own[np.arange(len(JOINTS)), top]
