"""What is around the person: camera, background, things that move behind and things that pass in front."""

import numpy as np

from kimnet_jax.core.image import opencv
from kimnet_jax.data_pipelines.builders.kinetic_puppets.render import COLUMNS, ROWS, Layer, draw, hull_layer
from kimnet_jax.data_pipelines.builders.kinetic_puppets.texture import PATTERNS, Cloth, random_cloth, random_colour

cv2 = opencv()

BACKDROP = (520, 840)  # rows, columns of the background picture
_KINDS = ('pole', 'box', 'bush', 'limb')


def wander(rng: np.random.Generator, times: np.ndarray, size: float, slowest: float = 3.0, fastest: float = 0.8) -> np.ndarray:
    """A smooth random path [N] within about `size` of zero: three sines of periods between `slowest` and `fastest` seconds."""
    rates = 1 / rng.uniform(fastest, slowest, 3)
    return size / 3 * sum(np.sin(2 * np.pi * (rate * times + rng.random())) for rate in rates)


def _surface(rng: np.random.Generator, rows: int, columns: int, grain: float) -> np.ndarray:
    """float32 [rows, columns, 3]: a muted colour with clouds of light and grain."""
    surface = np.full((rows, columns, 3), random_colour(rng, (0.0, 0.4), (0.3, 0.85)), np.float32)
    for cells in (3, 11, 40):
        clouds = rng.normal(0, grain, (cells, 2 * cells, 1)).astype(np.float32) * rng.uniform(0.5, 1.2, 3).astype(np.float32)
        surface += cv2.resize(clouds, (columns, rows), interpolation=cv2.INTER_CUBIC)
    return surface


def backdrop(rng: np.random.Generator, horizon: int) -> np.ndarray:
    """A wall or landscape over a floor, with things standing about: uint8 [520, 840, 3] RGB.

    Args:
        rng: source of every draw.
        horizon: row at which the floor begins.
    """
    rows, columns = BACKDROP
    picture = _surface(rng, rows, columns, rng.uniform(3, 14))
    pitch = rng.integers(24, 80)
    if rng.random() < 0.4:  # bricks, planks, panels
        edges = (np.arange(rows) % pitch < 2)[:, None] | (np.arange(columns) % (pitch * rng.integers(1, 3)) < 2)
        picture -= 25 * edges[..., None]
    picture[horizon:] = _surface(rng, rows - horizon, columns, rng.uniform(3, 12))
    if rng.random() < 0.5:  # lines on the floor, closer together far away
        depth = 60 / (np.arange(rows - horizon) + 6)
        picture[horizon:][(depth * rng.uniform(4, 12)) % 1 < 0.12] *= 0.88
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    canvas = np.ascontiguousarray(picture)
    for _ in range(rng.integers(8, 26)):
        base = np.array([rng.uniform(0, columns), rng.uniform(horizon - 60, horizon + 70)])
        draw(canvas, None, _static(rng, base), 0)
    haze = np.full_like(canvas, canvas.mean((0, 1)))
    canvas = cv2.addWeighted(canvas, 0.7, haze, 0.3, 0)
    return cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.3, 1.6))


def _static(rng: np.random.Generator, base: np.ndarray) -> Layer:
    """A pole, a box or a bush that stands on `base` (pixels of the backdrop, drawn at half the canvas's scale)."""
    first, second = random_colour(rng, (0.0, 0.6), (0.2, 0.9)), random_colour(rng, (0.0, 0.5), (0.2, 0.9))
    cloth = Cloth(first, second, str(rng.choice(PATTERNS)), rng.uniform(0.05, 0.3))
    return _thing(rng, str(rng.choice(_KINDS)), cloth, (base / 2)[None], scale=0.6)


def _thing(
    rng: np.random.Generator, kind: str, cloth: Cloth, base: np.ndarray, *, scale: float = 1.0, label: int = 0, order: float = 0.0
) -> Layer:
    """A thing whose lowest point follows `base` [N, 2] pixels; sizes are pixels times `scale`."""
    if kind == 'pole':
        width, height = rng.uniform(4, 11) * scale, rng.uniform(120, 320) * scale
        offsets, radii = np.array([[0, -height], [0, 0]]), np.array([width, width])
    elif kind == 'box':
        x, y = rng.uniform(14, 42, 2) * scale
        slant = rng.uniform(-4, 4)
        offsets, radii = np.array([[-x, -2 * y], [x, -2 * y + slant], [x, slant], [-x, 0]]), np.full(4, 1.0)
    elif kind == 'bush':
        offsets = rng.uniform((-26, -46), (26, 0), (6, 2)) * scale
        radii = rng.uniform(7, 16, 6) * scale
    else:  # an arm or leg of nobody
        angle, length = rng.uniform(0, np.pi), rng.uniform(30, 70) * scale
        offsets = np.array([[0.0, -40.0 * scale], [length * np.cos(angle), -40.0 * scale + length * np.sin(angle)]])
        radii = np.array([9.0, 6.0]) * scale
    centres = base[:, None] + offsets
    axis = centres.mean(1)[:, None] + np.array([[0.0, -1.0], [0.0, 1.0]]) if kind != 'limb' else centres
    patch = cloth.patch(0.3, 0.6, rounded=0.1 if kind == 'box' else 0.4)
    return hull_layer(centres, np.broadcast_to(radii, centres.shape[:2]), axis, patch, label=label, order=order)


def distractors(rng: np.random.Generator, times: np.ndarray) -> list[Layer]:
    """Up to three things that move behind the person by themselves; `times` [N] seconds."""
    layers = []
    for _ in range(rng.integers(0, 4)):
        start, speed = rng.uniform((0, 60), (COLUMNS, 220)), rng.uniform((-50, -6), (50, 6))
        base = start + speed * times[:, None]
        base[:, 1] += wander(rng, times, 8)
        layers.append(_thing(rng, str(rng.choice(_KINDS)), random_cloth(rng), base, scale=0.8, order=-1e6))
    return layers


def occluders(rng: np.random.Generator, times: np.ndarray, person: np.ndarray, label: int) -> list[Layer]:
    """One or two things that pass in front, in about half of the clips.

    Args:
        rng: source of every draw.
        times: [N] seconds.
        person: [N, 2] frame pixels of the person's middle; each thing crosses it at some time.
        label: of every occluder.
    """
    layers = []
    for _ in range(rng.integers(1, 3) if rng.random() < 0.55 else 0):
        kind = str(rng.choice(['pole', 'box', 'bush']))
        meeting = rng.integers(len(times) // 6, len(times) - len(times) // 6)
        speed = rng.choice([-1, 1]) * rng.uniform(45, 150)
        base = np.empty((len(times), 2))
        base[:, 0] = person[meeting, 0] + speed * (times - times[meeting]) + wander(rng, times, 5)
        base[:, 1] = ROWS + 20 if kind == 'pole' else person[meeting, 1] + rng.uniform(-30, 90)
        layers.append(_thing(rng, kind, random_cloth(rng), base, scale=0.85, label=label, order=1e6))
    return layers
