"""Whether the joints that are named left are the person's own, judged by clips whose view is known."""

from collections.abc import Mapping

import numpy as np

from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.data_pipelines.findings import Finding

NAMED, EXCHANGED = 'clips with left and right as named', 'clips with left and right exchanged'  # as they are counted
FEWEST = 10  # clips that a judgement takes


def count_sides(view: str, joints: np.ndarray, visible: np.ndarray, skeleton: Skeleton) -> dict[str, int]:
    """One clip as `NAMED` or `EXCHANGED`; neither where it shows nothing of it.

    The left shoulder of somebody who faces the camera lies to the right in the image, of somebody seen from behind to the left.

    Args:
        view: the side of the person that the camera sees; only `front` and `back` show it.
        joints: [T, J, 2] pixels.
        visible: [T, J] bool.
        skeleton: with shoulders.
    """
    left, right = (skeleton.joints.index(joint) for joint in ('l_shoulder', 'r_shoulder'))
    across = (joints[:, left, 0] - joints[:, right, 0])[visible[:, left] & visible[:, right]]
    offset = np.median(across) if len(across) else 0
    if view not in ('front', 'back') or offset == 0:
        return {}
    return {NAMED: 1} if (offset > 0) == (view == 'front') else {EXCHANGED: 1}


def judge_sides(counts: Mapping[str, int]) -> list[Finding]:
    """A warning where most of the clips counted contradict the names of the joints; people turn, so some always do."""
    named, exchanged = counts.get(NAMED, 0), counts.get(EXCHANGED, 0)
    if named + exchanged < FEWEST or exchanged <= named:
        return []
    text = (
        f'of {named + exchanged} clips seen from the front or from behind have the left shoulder on the side of the right one: '
        'left and right of the joints are probably exchanged'
    )
    return [Finding('warning', 'joints', text, exchanged)]
