"""One clip from its seed: the person, the camera, the frames and the exact truth."""

import dataclasses

import numpy as np

from data_pipelines.builders.kinetic_puppets.figure import JOINTS, OWN_PARTS, articulate, body_parts, random_body, random_outfit
from data_pipelines.builders.kinetic_puppets.motion import ACTIONS, FRAME_RATE, sample_motion
from data_pipelines.builders.kinetic_puppets.render import COLUMNS, ROWS, Layer, hull_layer, render
from data_pipelines.builders.kinetic_puppets.scene import BACKDROP, backdrop, distractors, occluders, wander
from kimnet_jax.core.geometry import inside

_STEPS = 8  # time steps per frame; sub-frames are one step apart
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
    fine = np.arange(-_STEPS, (frames + 1) * _STEPS) / (_STEPS * FRAME_RATE)  # seconds, a frame more at either end
    body, outfit = random_body(rng), random_outfit(rng)
    at = articulate(body, sample_motion(rng, action, fine))
    half = int(rng.integers(0, 3))  # sub-frames to either side of the middle: an exposure of 1, 3 or 5 steps
    pick = (_STEPS * np.arange(1, frames + 1)[:, None] + np.arange(-half, half + 1)).ravel()
    times = fine[pick]
    at = _viewed(rng, {name: value[pick] for name, value in at.items()})
    camera, scale = _camera(rng, body.stature, at, times)

    zoom = np.linalg.norm(camera[:, :, 0], axis=-1)
    labels: dict[str, int] = {}
    layers: list[Layer] = []
    for part in body_parts(body, outfit, at):
        label = labels.setdefault(part.name, len(labels) + 1)
        length = float(np.linalg.norm(part.axis[0, 1] - part.axis[0, 0]))
        patch = part.cloth.patch(2 * float(part.radii.max()), length + float(part.radii.max()))
        radii = zoom[:, None] * part.radii
        depth = part.centres[..., 2].mean(1) + part.bias
        layers.append(
            hull_layer(_project(camera, part.centres), radii, _project(camera, part.axis), patch, label=label, order=depth)
        )
    person = np.concatenate([layer.points for layer in layers], 1)
    middle = (person.min(1) + person.max(1)) / 2

    horizon = int(BACKDROP[0] / 2 + rng.uniform(-0.3, 0.1) * body.stature * scale)
    to_frame = camera @ np.array([[1 / scale, 0, -BACKDROP[1] / 2 / scale], [0, -1 / scale, BACKDROP[0] / 2 / scale], [0, 0, 1]])
    picture = backdrop(rng, horizon)
    layers += distractors(rng, times) + occluders(rng, times, middle, _OCCLUDER)
    movie, seen = render(picture, to_frame, layers, frames)

    mid = slice(half, None, 2 * half + 1)
    joints = _project(camera, np.stack([at[name] for name in JOINTS], 1))[mid].astype(np.float32)
    low, high = person[mid].min(1), person[mid].max(1)
    boxes = np.concatenate([np.maximum(low, -0.5), np.minimum(high, (COLUMNS - 0.5, ROWS - 0.5))], -1).astype(np.float32)
    return Clip(action, _exposed(rng, movie, times[mid]), joints, _visible(joints, seen, labels), boxes)


def _viewed(rng: np.random.Generator, at: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The person from a random side and slightly above: x right, y up, z towards the camera."""
    yaw, pitch = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.22)
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    tilt = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    return {name: value @ (tilt @ turn).T for name, value in at.items()}


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


def _exposed(rng: np.random.Generator, movie: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Changing light and sensor noise: float32 [T, H, W, 3] to uint8."""
    light = np.exp(wander(rng, times, rng.uniform(0.0, 0.25), slowest=4.0)).astype(np.float32)
    noise = rng.standard_normal((ROWS + 64, COLUMNS + 64, 3), np.float32) * np.float32(rng.uniform(1, 6))
    frames = np.empty(movie.shape, np.uint8)
    for t, frame in enumerate(movie):
        y, x = rng.integers(0, 65, 2)
        frames[t] = np.clip(frame * light[t] + noise[y : y + ROWS, x : x + COLUMNS] + 0.5, 0, 255)
    return frames


def _visible(joints: np.ndarray, seen: np.ndarray, labels: dict[str, int]) -> np.ndarray:
    """bool [T, J]: in the frame, and nothing drawn over the joint but the body parts it belongs to."""
    own = np.zeros((len(JOINTS), 256), bool)
    for j, name in enumerate(JOINTS):
        own[j, [labels[part] for part in OWN_PARTS[name]]] = True
    cell = np.rint(np.clip(joints, 0, (COLUMNS - 1, ROWS - 1))).astype(int)
    top = seen[np.arange(len(joints))[:, None], cell[..., 1], cell[..., 0]]
    return inside(joints, (ROWS, COLUMNS)) & own[np.arange(len(JOINTS)), top]
