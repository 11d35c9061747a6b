"""Names of joints as people write them: `left_shoulder`, `LShoulder`, `shoulder-left` and `l_shoulder` are one joint."""

import re
from collections.abc import Sequence

_SIDES = {'l': 'l', 'left': 'l', 'lft': 'l', 'r': 'r', 'right': 'r', 'rgt': 'r'}
_PARTS = ('shoulder', 'elbow', 'wrist', 'hip', 'knee', 'ankle', 'eye', 'ear', 'foot', 'hand', 'heel', 'toe', 'collar')
_GLUED = re.compile(rf'(left|right|l|r)({"|".join(_PARTS)})|({"|".join(_PARTS)})(left|right|l|r)')
HEADS = ('head_top', 'head', 'face', 'nose')  # what stands for the head in a report, the first that is there
GROUPS = ('shoulder', 'elbow', 'wrist', 'hip', 'knee', 'ankle')  # the other columns of a report, one for both sides


def canonical(name: str) -> str:
    """The name in our spelling: lower case, words joined by `_`, the side first, as `l` or `r`.

    A side is the words left and right, or the letters l and r, alone or at either end of a name.
    """
    spaced = re.sub(r'(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])', '_', name)
    words = [word for word in re.split(r'[\W_]+', spaced.lower()) if word]
    if len(words) == 1 and (glued := _GLUED.fullmatch(words[0])):
        words = [part for part in glued.groups() if part]
    for place in (0, -1):
        if len(words) > 1 and words[place] in _SIDES:
            side = _SIDES[words.pop(place)]
            return '_'.join([side, *words])
    return '_'.join(words)


def side_of(name: str) -> str:
    """`l`, `r`, or '' where the name tells no side."""
    side, _, part = canonical(name).partition('_')
    return side if part and side in ('l', 'r') else ''


def index_of(joints: Sequence[str]) -> dict[str, int]:
    """Canonical name -> index; of two joints of the same canonical name, the first."""
    found: dict[str, int] = {}
    for i, joint in enumerate(joints):
        found.setdefault(canonical(joint), i)
    return found


def matched(here: Sequence[str], there: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of indices of the joints that have the same name in both, whatever its spelling; each joint is in one at most."""
    by_name, by_spelling = index_of(there), {joint: i for i, joint in enumerate(there)}
    pairs: dict[int, int] = {}
    for i, joint in enumerate(here):
        j = by_spelling.get(joint, by_name.get(canonical(joint)))
        if j is not None and (j not in pairs or there[j] == joint):
            pairs[j] = i
    return sorted((i, j) for j, i in pairs.items())
