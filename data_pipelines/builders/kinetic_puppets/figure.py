"""A person of spheres: proportions, clothes, and forward kinematics from joint angles to joints and parts.

World axes: x to the person's left, y up, z forward (right-handed), metres; the ground is y = 0.
"""

import dataclasses

import numpy as np

from kimnet_jax.data_pipelines.builders.kinetic_puppets.motion import SAMPLE_RATE
from kimnet_jax.data_pipelines.builders.kinetic_puppets.texture import Cloth, random_cloth, skin_cloth

JOINTS = (
    *('head', 'face', 'neck', 'belly', 'l_shoulder', 'r_shoulder', 'l_elbow', 'r_elbow', 'l_wrist', 'r_wrist'),
    *('l_hip', 'r_hip', 'l_knee', 'r_knee', 'l_ankle', 'r_ankle'),
)
# What may lie over a joint without hiding it: the body parts it belongs to.
OWN_PARTS = {
    'head': ('skull', 'neck'),
    'face': ('skull', 'neck'),
    'neck': ('neck', 'chest', 'skull'),
    'belly': ('chest', 'pelvis'),
}
for _side in 'lr':
    OWN_PARTS |= {
        f'{_side}_shoulder': ('chest', f'{_side}_upper_arm'),
        f'{_side}_elbow': (f'{_side}_upper_arm', f'{_side}_forearm'),
        f'{_side}_wrist': (f'{_side}_forearm', f'{_side}_hand'),
        f'{_side}_hip': ('chest', 'pelvis', f'{_side}_thigh'),
        f'{_side}_knee': (f'{_side}_thigh', f'{_side}_shank'),
        f'{_side}_ankle': (f'{_side}_shank', f'{_side}_foot'),
    }

_CONTACT = 0.04  # metres; a foot that much higher than the other bears little weight

Sphere = tuple[np.ndarray, float]  # centre [N, 3], radius


@dataclasses.dataclass(frozen=True)
class Body:
    """Lengths and girths of one person, metres."""

    thigh: float
    shank: float
    foot: float
    hips: float  # between the hip joints
    spine: float
    shoulders: float  # between the shoulder joints
    upper_arm: float
    forearm: float
    head: float  # radius
    girth: float  # factor on the radii of trunk and limbs

    @property
    def stature(self) -> float:
        return self.thigh + self.shank + self.spine + 3.4 * self.head + 0.05


@dataclasses.dataclass(frozen=True)
class Outfit:
    """What covers each body part."""

    skin: Cloth
    hair: Cloth
    shirt: Cloth
    sleeve: Cloth
    trousers: Cloth
    sock: Cloth
    shoe: Cloth
    badge: Cloth
    eye: Cloth


@dataclasses.dataclass(frozen=True)
class Part:
    """The convex hull of K spheres.

    Attributes:
        name: body part; several hulls may share one.
        centres: [N, K, 3].
        radii: [K].
        axis: [N, 2, 3], from which to which point the cloth's length runs.
        cloth: its cover.
        bias: metres towards the viewer in the drawing order.
    """

    name: str
    centres: np.ndarray
    radii: np.ndarray
    axis: np.ndarray
    cloth: Cloth
    bias: float = 0.0


def random_body(rng: np.random.Generator) -> Body:
    """Adults of 1.5 to 1.9 m whose proportions differ by some ten percent."""
    stature = rng.uniform(1.5, 1.9)

    def length(share: float, spread: float = 0.07) -> float:
        return stature * share * rng.uniform(1 - spread, 1 + spread)

    return Body(
        thigh=length(0.245),
        shank=length(0.246),
        foot=length(0.11),
        hips=length(0.115, 0.12),
        spine=length(0.295),
        shoulders=length(0.215, 0.12),
        upper_arm=length(0.172),
        forearm=length(0.150),
        head=length(0.058, 0.1),
        girth=rng.uniform(0.9, 1.2),
    )


def random_outfit(rng: np.random.Generator) -> Outfit:
    """Clothes of one person; shirt and trousers differ in colour."""
    skin = skin_cloth(rng)
    shirt, trousers = random_cloth(rng), random_cloth(rng, patterned=0.3)
    while np.abs(np.subtract(shirt.colour, trousers.colour)).sum() < 120:
        trousers = random_cloth(rng, patterned=0.3)
    dark, light = tuple(rng.uniform(15, 60, 3)), tuple(rng.uniform(190, 245, 3))
    hair = [(30, 24, 20), (66, 42, 24), (120, 82, 42), (190, 158, 92), (140, 138, 134), (128, 52, 28)][rng.integers(6)]
    return Outfit(
        skin=skin,
        hair=Cloth(hair),
        shirt=shirt,
        sleeve=shirt if rng.random() < 0.5 else skin,
        trousers=trousers,
        sock=trousers if rng.random() < 0.65 else skin,
        shoe=Cloth(dark if np.mean(trousers.colour) > 110 else light),
        badge=random_cloth(rng, patterned=0.0),
        eye=Cloth((22, 20, 24)),
    )


def _turned(axis: str, degrees: np.ndarray) -> np.ndarray:
    """Rotation matrices [N, 3, 3] about a coordinate axis."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    i, j = {'x': (1, 2), 'y': (2, 0), 'z': (0, 1)}[axis]
    matrix = np.zeros((len(degrees), 3, 3))
    matrix[:, 'xyz'.index(axis), 'xyz'.index(axis)] = 1.0
    matrix[:, i, i] = matrix[:, j, j] = cos
    matrix[:, i, j], matrix[:, j, i] = -sin, sin
    return matrix


def articulate(body: Body, motion: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Forward kinematics on the ground: the person moves as the lower foot pushes, and stands on it.

    Args:
        body: proportions.
        motion: [N] of each of `motion.CHANNELS`, `SAMPLE_RATE` per second.

    Returns:
        float64 [N, 3] of each of `JOINTS`, of hands and toes, and of the directions `head_up`, `head_left`, `*_ahead`.
    """
    m = motion
    pelvis = _turned('y', m['turn']) @ _turned('z', -m['tilt']) @ _turned('x', m['lean'])
    chest = pelvis @ _turned('y', m['twist']) @ _turned('z', -m['sway']) @ _turned('x', m['bend'])
    skull = chest @ _turned('y', m['look']) @ _turned('x', m['nod'] - 0.6 * m['bend'])
    root = np.zeros((len(pelvis), 3))
    at = {'neck': root + chest @ (0, body.spine, 0), 'belly': root + chest @ (0, 0.4 * body.spine, 0.02)}
    at['head'] = at['neck'] + skull @ (0, 1.7 * body.head, 0.25 * body.head)
    at['face'] = at['head'] + skull @ (0, -0.2 * body.head, 0.75 * body.head)
    at |= {'head_up': skull @ (0, 1, 0), 'head_ahead': skull @ (0, 0, 1), 'head_left': skull @ (1, 0, 0)}
    at['chest_ahead'] = chest @ (0, 0, 1)
    for s, sign in (('l', 1.0), ('r', -1.0)):
        plane = sign * m[f'{s}_plane']
        upper = chest @ _turned('y', -plane) @ _turned('z', sign * m[f'{s}_raise']) @ _turned('y', plane + sign * m[f'{s}_roll'])
        fore = upper @ _turned('x', -m[f'{s}_elbow'])
        thigh = pelvis @ _turned('x', -m[f'{s}_hip']) @ _turned('z', sign * m[f'{s}_splay'])
        shank = thigh @ _turned('x', m[f'{s}_knee'])
        at[f'{s}_shoulder'] = at['neck'] + chest @ (sign * body.shoulders / 2, -0.05, 0)
        at[f'{s}_elbow'] = at[f'{s}_shoulder'] + upper @ (0, -body.upper_arm, 0)
        at[f'{s}_wrist'] = at[f'{s}_elbow'] + fore @ (0, -body.forearm, 0)
        at[f'{s}_hand'] = at[f'{s}_wrist'] + fore @ (0, -0.07, 0.01)
        at[f'{s}_hip'] = root + pelvis @ (sign * body.hips / 2, 0, 0)
        at[f'{s}_knee'] = at[f'{s}_hip'] + thigh @ (0, -body.thigh, 0)
        at[f'{s}_ankle'] = at[f'{s}_knee'] + shank @ (0, -body.shank, 0)
        ahead = shank @ (0, 0, 1) * (1, 0.4, 1)  # feet stay nearly level
        at[f'{s}_toe'] = at[f'{s}_ankle'] + body.foot * ahead / np.linalg.norm(ahead, axis=-1, keepdims=True) - (0, 0.03, 0)
    soles = np.stack([at[f'{s}_{end}'] for s in 'lr' for end in ('ankle', 'toe')], 1)  # [N, 4, 3]
    weight = np.exp(-(soles[..., 1] - soles[..., 1].min(1, keepdims=True)) / _CONTACT)
    height = soles[..., 1].min(1) - _CONTACT * np.log(weight.sum(1))  # a smooth minimum
    weight = (weight / weight.sum(1, keepdims=True))[..., None]
    step = -(weight[1:] * np.diff(soles, axis=0)).sum(1)
    root[1:] = np.cumsum(_smoothed(step, 0.12), 0)
    root[:, 1] = _smoothed(m['lift'] - height, 0.03)
    return {name: value if name.endswith(('_up', '_ahead', '_left')) else value + root for name, value in at.items()}


def _smoothed(path: np.ndarray, seconds: float) -> np.ndarray:
    """A path [N, ...] under a Gaussian window of that standard deviation; its ends are held."""
    reach = round(3 * seconds * SAMPLE_RATE)
    window = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (seconds * SAMPLE_RATE)) ** 2)
    padded = np.concatenate([path[:1].repeat(reach, 0), path, path[-1:].repeat(reach, 0)])
    return np.apply_along_axis(np.convolve, 0, padded, window / window.sum(), 'valid')


def body_parts(body: Body, outfit: Outfit, at: dict[str, np.ndarray]) -> list[Part]:
    """The hulls that make up the person; `at` as from `articulate`, in any rotated frame."""
    g, r = body.girth, body.head
    parts = []

    def add(
        name: str, cloth: Cloth, *spheres: Sphere, axis: tuple[np.ndarray, np.ndarray] | None = None, bias: float = 0.0
    ) -> None:
        centres = np.stack([centre for centre, _ in spheres], 1)
        ends = np.stack(axis, 1) if axis else centres[:, [0, -1]]
        parts.append(Part(name, centres, np.array([radius for _, radius in spheres]), ends, cloth, bias))

    neck, belly, head = at['neck'], at['belly'], at['head']
    up, ahead, left = r * at['head_up'], r * at['head_ahead'], r * at['head_left']
    hips = (at['l_hip'] + at['r_hip']) / 2
    ribs = 0.65 * neck + 0.35 * belly
    inner = [neck + 0.8 * (at[f'{s}_shoulder'] - neck) for s in 'lr']
    trunk = [(inner[0], 0.07 * g), (inner[1], 0.07 * g), (ribs, 0.12 * g), (belly, 0.105 * g)]
    add('chest', outfit.shirt, *trunk, axis=(neck, hips), bias=0.03)
    add('chest', outfit.badge, (ribs + 0.085 * g * at['chest_ahead'], 0.045), axis=(neck, hips))
    seat = [(at['l_hip'], 0.082 * g), (at['r_hip'], 0.082 * g), (0.6 * belly + 0.4 * hips, 0.095 * g)]
    add('pelvis', outfit.trousers, *seat, axis=(belly, hips))
    add('neck', outfit.skin, (neck, 0.055), (head - 0.6 * up, 0.05), bias=-0.02)
    add('skull', outfit.skin, (head + 0.25 * up, 0.9 * r), (head - 0.55 * up + 0.2 * ahead, 0.6 * r))
    add('skull', outfit.hair, (head + 0.45 * up - 0.3 * ahead, 0.92 * r), (head - 0.1 * up - 0.55 * ahead, 0.7 * r))
    add('skull', outfit.skin, (head + 1.05 * ahead - 0.05 * up, 0.2 * r), (head + 0.9 * ahead + 0.2 * up, 0.12 * r))
    for side in (-0.38, 0.38):
        add('skull', outfit.eye, (head + 0.86 * ahead + 0.18 * up + side * left, 0.12 * r), axis=(head, head + up))
    for s in 'lr':
        shoulder, elbow, wrist, hand = (at[f'{s}_{name}'] for name in ('shoulder', 'elbow', 'wrist', 'hand'))
        hip, knee, ankle, toe = (at[f'{s}_{name}'] for name in ('hip', 'knee', 'ankle', 'toe'))
        add(f'{s}_upper_arm', outfit.shirt, (shoulder, 0.058 * g), (elbow, 0.043 * g))
        add(f'{s}_forearm', outfit.sleeve, (elbow, 0.043 * g), (wrist, 0.03 * g))
        add(f'{s}_hand', outfit.skin, (wrist, 0.03), (hand, 0.042))
        add(f'{s}_thigh', outfit.trousers, (hip, 0.085 * g), (knee, 0.058 * g), bias=-0.02)
        calf, ball = 0.7 * knee + 0.3 * ankle, 0.4 * ankle + 0.6 * toe
        add(f'{s}_shank', outfit.sock, (knee, 0.056 * g), (calf, 0.058 * g), (ankle, 0.038 * g), bias=-0.01)
        add(f'{s}_foot', outfit.shoe, (ankle, 0.046), (ball, 0.042), (toe, 0.034))
    return parts
