"""Shape legend and the keys of an example and of a batch.

Shape legend, used in every docstring: B clips, T frames, H W image rows and columns, h w heatmap rows and columns,
J joints, D feature channels, C image channels. Points are (x, y) float32 in pixels, 0-based, pixel CENTRES at integers;
sizes are (rows, columns); boxes are (x0, y0, x1, y1) in the same pixels as the points.

Example (one clip of a built data set):
    clip        str, unique in the data set
    action      str
    frames      T encoded images (JPEG, PNG or WebP bytes)
    joints      float32 [T, J, 2], pixels of the original frame; (0, 0) and not visible where never annotated
    visible     bool [T, J]
    boxes       float32 [T, 4], the person, pixels of the original frame
    image_size  int32 [2], (rows, columns) of every frame

Batch (windows of clips, cropped and resized, on their way to a model):
    frames      uint8 [B, T, H, W, 3], RGB
    joints      float32 [B, T, J, 2], pixels of the crop; where a window shows no person, all at one place outside of it
    visible     bool [B, T, J]
    mask        bool [B, T], False where a frame is padding
    clip        int32 [B], index of the clip in its split (-1: padding)
Evaluation batches carry besides:
    start       bool [B], True where the recursion begins anew with this window
    frame       int32 [B, T], index of each frame in its clip
    to_image    float32 [B, T, 2, 3], the affine map from crop pixels to original pixels
"""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:  # they import this module
    from kimnet_jax.core.skeleton import Skeleton
    from kimnet_jax.core.smpl import Body

Array: TypeAlias = Any  # numpy.ndarray or jax.Array
Batch: TypeAlias = dict[str, Array]
Example: TypeAlias = dict[str, Any]
Prediction: TypeAlias = tuple[int, Array, Array | None]  # clip, joints [T, J, 2] in original pixels, scores [T, J]
Decoding: TypeAlias = Literal['argmax', 'quarter', 'dark']
Centre: TypeAlias = Literal['cell', 'subpixel']
Outside: TypeAlias = Literal['zeros', 'ignored']


class Clips(Protocol):
    """Random access to the clips of one split; for worker processes it must be picklable."""

    folder: pathlib.Path
    split: str
    skeleton: 'Skeleton'

    @property
    def lengths(self) -> Sequence[int]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


class Pairs(Protocol):
    """Estimated and true poses of the clips of a split; `pairs(i, epoch)` gives the same whenever it is called.

    Pair i has `estimates` (`joints` [T, J, D], `boxes` [T, 2 * D], `image_size` [2]) and the truth: `joints` [T, J, D], `visible`
    bool [T, J], `boxes` [T, 2 * D]. Where there is a `body`, poses are SMPL's rotations, and estimates and truth have a `shape`
    [T, S] or None.
    """

    skeleton: 'Skeleton'
    names: list[str]
    body: 'Body | None'

    def __len__(self) -> int: ...

    def __call__(self, index: int, epoch: int = 0) -> Any: ...
