"""Key-framed joint angles of a person in motion.

Channels are degrees, but for `lift` (metres above the ground). Of the trunk: `lean` (forward) and `tilt` (to the left) of the
pelvis, `turn` (heading, to the left), `bend`, `sway`, `twist` of the spine, `nod` and `look` of the head. Of each side, `l_` or
`r_`: `raise` of the arm in the vertical `plane` (0 sideways, 90 forward, beyond it across the body), `roll` of the upper arm,
`elbow`, `hip` (forward), `splay`, `knee`.
"""

import numpy as np

FRAME_RATE = 25  # frames per second
STEPS = 8  # time steps per frame
SAMPLE_RATE = STEPS * FRAME_RATE
_TRUNK = ('lift', 'lean', 'tilt', 'turn', 'bend', 'sway', 'twist', 'nod', 'look')
_SIDE = ('raise', 'plane', 'roll', 'elbow', 'hip', 'splay', 'knee')
CHANNELS = (*_TRUNK, *(f'{side}_{channel}' for side in 'lr' for channel in _SIDE))
_MIRRORED_SIGN = ('tilt', 'turn', 'sway', 'twist', 'look')
_REST = {'raise': 8.0, 'plane': 45.0, 'elbow': 15.0, 'splay': 3.0, 'knee': 4.0}

Key = tuple[float, dict[str, float]]  # phase in [0, 1), channels (`raise` for both sides, `l_raise` for one)


def _mirror(pose: dict[str, float]) -> dict[str, float]:
    """The same pose of the mirrored person."""
    swap = {'l_': 'r_', 'r_': 'l_'}
    return {swap.get(k[:2], k[:2]) + k[2:]: -v if k in _MIRRORED_SIGN else v for k, v in pose.items()}


def _alternating(keys: list[Key]) -> list[Key]:
    """Keys of the first half of a cycle whose second half is its mirror image."""
    return keys + [(phase + 0.5, _mirror(pose)) for phase, pose in keys]


# name -> (seconds per cycle, keys)
MOTIONS: dict[str, tuple[float, list[Key]]] = {
    'walk': (
        1.1,
        _alternating(
            [
                (0.00, {
                    'l_hip': 30, 'l_knee': 3, 'r_hip': -22, 'r_knee': 18, 'plane': 90, 'l_raise': -28, 'r_raise': 30,
                    'r_elbow': 25, 'twist': 9,
                }),
                (0.12, {
                    'l_hip': 20, 'l_knee': 16, 'r_hip': -12, 'r_knee': 55, 'plane': 90, 'l_raise': -16, 'r_raise': 18,
                    'twist': 5, 'lean': 3,
                }),
                (0.30, {
                    'l_hip': -2, 'l_knee': 5, 'r_hip': 28, 'r_knee': 58, 'plane': 90, 'l_raise': 8, 'r_raise': -4, 'lean': 3,
                }),
            ]
        ),
    ),
    'run': (
        0.72,
        _alternating(
            [
                (0.00, {
                    'l_hip': 42, 'l_knee': 28, 'r_hip': -18, 'r_knee': 60, 'plane': 90, 'elbow': 92, 'l_raise': -48,
                    'r_raise': 38, 'twist': 16, 'lean': 9, 'lift': 0.05,
                }),
                (0.20, {
                    'l_hip': 12, 'l_knee': 40, 'r_hip': 22, 'r_knee': 118, 'plane': 90, 'elbow': 88, 'l_raise': -8,
                    'r_raise': 2, 'lean': 11,
                }),
                (0.38, {
                    'l_hip': -22, 'l_knee': 14, 'r_hip': 58, 'r_knee': 88, 'plane': 90, 'elbow': 92, 'l_raise': 36,
                    'r_raise': -45, 'twist': -14, 'lean': 10, 'lift': 0.04,
                }),
            ]
        ),
    ),
    'jump': (
        1.7,
        [
            (0.00, {'plane': 90}),
            (0.26, {'hip': 82, 'knee': 98, 'lean': 22, 'bend': 24, 'plane': 90, 'raise': -50}),
            (0.42, {'raise': 140, 'plane': 80, 'lift': 0.14}),
            (0.54, {'hip': 18, 'knee': 34, 'raise': 165, 'plane': 70, 'lift': 0.5}),
            (0.66, {'hip': 22, 'knee': 20, 'raise': 90, 'plane': 70, 'lift': 0.1}),
            (0.76, {'hip': 66, 'knee': 80, 'lean': 16, 'bend': 16, 'raise': 40, 'plane': 80}),
        ],
    ),
    'jumping_jack': (
        1.1,
        [
            (0.00, {'raise': 5, 'plane': 5, 'elbow': 8, 'hip': 8, 'knee': 14}),
            (0.25, {'raise': 95, 'plane': 5, 'elbow': 8, 'splay': 14, 'lift': 0.12}),
            (0.50, {'raise': 172, 'plane': 5, 'elbow': 22, 'splay': 26, 'hip': 10, 'knee': 16}),
            (0.75, {'raise': 95, 'plane': 5, 'elbow': 8, 'splay': 14, 'lift': 0.12}),
        ],
    ),
    'squat': (
        2.0,
        [
            (0.00, {'raise': 20, 'plane': 85, 'splay': 9}),
            (0.45, {'raise': 88, 'plane': 85, 'elbow': 8, 'hip': 112, 'knee': 118, 'lean': 26, 'bend': 12, 'splay': 16}),
            (0.58, {'raise': 88, 'plane': 85, 'elbow': 8, 'hip': 112, 'knee': 118, 'lean': 26, 'bend': 12, 'splay': 16}),
        ],
    ),
    'lunge': (
        2.4,
        _alternating(
            [
                (0.00, {'raise': 24, 'plane': 0, 'elbow': 75, 'roll': 40}),
                (0.25, {
                    'l_hip': 84, 'l_knee': 86, 'r_hip': -14, 'r_knee': 82, 'raise': 34, 'plane': 0, 'elbow': 85, 'roll': 40,
                    'bend': 4,
                }),
            ]
        ),
    ),
    'swing': (
        1.6,
        [
            (0.00, {'hip': 30, 'knee': 32, 'lean': 10, 'bend': 20, 'splay': 12, 'raise': 42, 'plane': 108, 'elbow': 8}),
            (0.30, {
                'hip': 26, 'knee': 28, 'lean': 8, 'bend': 10, 'splay': 12, 'turn': -22, 'twist': -58, 'look': 60,
                'l_raise': 96, 'l_plane': 118, 'l_elbow': 18, 'r_raise': 80, 'r_plane': 64, 'r_elbow': 88,
            }),
            (0.46, {
                'hip': 28, 'knee': 28, 'lean': 10, 'bend': 18, 'splay': 12, 'turn': 8, 'twist': -4, 'raise': 46, 'plane': 106,
                'elbow': 6,
            }),
            (0.62, {
                'hip': 14, 'knee': 14, 'splay': 12, 'turn': 44, 'twist': 56, 'look': -40,
                'l_raise': 92, 'l_plane': 60, 'l_elbow': 95, 'r_raise': 100, 'r_plane': 118, 'r_elbow': 24,
            }),
        ],
    ),
    'throw': (
        1.7,
        [
            (0.00, {'raise': 30, 'plane': 90, 'elbow': 70}),
            (0.26, {
                'turn': -40, 'twist': -28, 'look': 60, 'l_hip': 62, 'l_knee': 78, 'l_raise': 76, 'l_plane': 40, 'l_elbow': 20,
                'r_raise': 84, 'r_plane': -18, 'r_roll': 70, 'r_elbow': 92,
            }),
            (0.42, {
                'turn': -24, 'twist': -22, 'look': 40, 'l_hip': 36, 'l_knee': 12, 'r_hip': -20, 'r_knee': 30, 'l_raise': 70,
                'l_plane': 50, 'l_elbow': 40, 'r_raise': 98, 'r_plane': -14, 'r_roll': 96, 'r_elbow': 100,
            }),
            (0.54, {
                'turn': 14, 'twist': 26, 'bend': 14, 'lean': 12, 'l_hip': 34, 'l_knee': 28, 'r_hip': -20, 'r_knee': 44,
                'l_raise': 10, 'l_elbow': 80, 'r_raise': 132, 'r_plane': 66, 'r_roll': 40, 'r_elbow': 18,
            }),
            (0.68, {
                'turn': 30, 'twist': 34, 'bend': 38, 'lean': 20, 'l_hip': 40, 'l_knee': 34, 'r_hip': -6, 'r_knee': 60,
                'l_raise': -20, 'l_plane': 80, 'l_elbow': 70, 'r_raise': 62, 'r_plane': 118, 'r_elbow': 16,
            }),
        ],
    ),
    'kick': (
        1.5,
        [
            (0.00, {'plane': 60, 'raise': 14}),
            (0.28, {
                'r_hip': -40, 'r_knee': 88, 'l_hip': 12, 'l_knee': 18, 'l_raise': 64, 'l_plane': 50, 'r_raise': -34,
                'r_plane': 90, 'twist': -14, 'lean': 8,
            }),
            (0.46, {
                'r_hip': 82, 'r_knee': 14, 'l_hip': -4, 'l_knee': 12, 'l_raise': -30, 'r_raise': 70, 'plane': 60, 'twist': 18,
                'lean': -12, 'bend': 22,
            }),
            (0.64, {'r_hip': 58, 'r_knee': 50, 'l_knee': 10, 'plane': 40, 'raise': 40, 'lean': -4}),
        ],
    ),
    'punch': (
        1.0,
        _alternating(
            [
                (0.00, {'raise': 38, 'plane': 82, 'elbow': 128, 'hip': 18, 'knee': 24, 'bend': 12, 'splay': 10}),
                (0.25, {
                    'l_raise': 90, 'l_plane': 96, 'l_elbow': 6, 'r_raise': 26, 'r_plane': 60, 'r_elbow': 134, 'twist': -38,
                    'look': 30,
                    'hip': 20, 'knee': 24, 'bend': 12, 'splay': 10,
                }),
            ]
        ),
    ),
    'wave': (
        0.8,
        [
            (0.00, {'r_raise': 118, 'r_plane': 6, 'r_roll': 90, 'r_elbow': 22, 'sway': 5, 'tilt': 3}),
            (0.50, {'r_raise': 102, 'r_plane': 10, 'r_roll': 90, 'r_elbow': 96, 'sway': -2, 'tilt': -2}),
        ],
    ),
    'pick_up': (
        2.4,
        [
            (0.00, {'raise': 14, 'plane': 85}),
            (0.34, {'hip': 88, 'knee': 62, 'lean': 32, 'bend': 52, 'raise': 92, 'plane': 88, 'elbow': 6, 'splay': 8, 'nod': 10}),
            (0.46, {'hip': 88, 'knee': 62, 'lean': 32, 'bend': 52, 'raise': 92, 'plane': 88, 'elbow': 6, 'splay': 8, 'nod': 10}),
            (0.80, {'raise': 34, 'plane': 95, 'elbow': 92, 'bend': -4}),
        ],
    ),
}  # fmt: skip
ACTIONS = tuple(MOTIONS)


def sample_motion(rng: np.random.Generator, action: str, times: np.ndarray) -> dict[str, np.ndarray]:
    """One person's way of doing an action: tempo, size of the movement, handedness and small habits are drawn.

    Args:
        rng: source of every draw.
        action: one of `ACTIONS`.
        times: [N] seconds.

    Returns:
        float64 [N] of each of `CHANNELS`.
    """
    seconds, keys = MOTIONS[action]
    mirrored = rng.random() < 0.5
    size, speed, start = rng.uniform(0.85, 1.12), rng.uniform(0.8, 1.2), rng.random()
    phases = np.array([phase for phase, _ in keys])
    poses = np.stack([_channels(_mirror(pose) if mirrored else pose) for _, pose in keys])
    rest = _channels({})
    poses = rest + size * (poses - rest)
    habits = rng.normal(0.0, 3.5, len(CHANNELS)) + rng.normal(0.0, 2.0, poses.shape)
    habits[:, CHANNELS.index('lift')] = 0.0
    grid = np.arange(256) / 256
    curves = np.stack([np.interp(grid, phases, column, period=1.0) for column in (poses + habits).T])
    curves = _smooth_cycle(curves, 0.035)
    wobble = 0.03 * np.sin(2 * np.pi * (0.35 * times / seconds + rng.random()))  # nobody keeps time exactly
    phase = start + speed * times / seconds + wobble
    motion = {name: np.interp(phase, grid, curve, period=1.0) for name, curve in zip(CHANNELS, curves, strict=True)}
    for name in CHANNELS[1:]:  # breathing and unrest
        motion[name] += rng.uniform(0.3, 1.5) * np.sin(2 * np.pi * (rng.uniform(0.2, 0.6) * times + rng.random()))
    motion['turn'] += rng.uniform(-12, 12) * (times - times.mean())
    return motion


def _channels(pose: dict[str, float]) -> np.ndarray:
    """All channels of a pose: what it names, for one side or for both, else at rest."""
    values = []
    for name in CHANNELS:
        common = name.removeprefix('l_').removeprefix('r_')
        values.append(pose.get(name, pose.get(common, _REST.get(common, 0.0))))
    return np.array(values, np.float64)


def _smooth_cycle(curves: np.ndarray, width: float) -> np.ndarray:
    """Periodic curves [C, n] under a Gaussian of standard deviation `width` cycles: smooth, and never beyond the keys."""
    frequency = np.fft.rfftfreq(curves.shape[-1], 1 / curves.shape[-1])
    return np.fft.irfft(np.fft.rfft(curves) * np.exp(-2 * (np.pi * width * frequency) ** 2), curves.shape[-1])
