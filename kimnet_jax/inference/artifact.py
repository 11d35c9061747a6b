"""A trained model as StableHLO functions of plain arrays, to run without this package, Flax or a training run.

An artifact is a folder: `init_state.stablehlo`, `step.stablehlo` and `clip.stablehlo` (`jax.export`, any batch size),
`weights.npz` and `artifact.json` (sizes, joints, how to call). docs/deployment.md shows how to load it with JAX alone.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from kimnet_jax.core import heatmap, image
from kimnet_jax.core.array_files import open_npz
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import make_folder, read_file, work_folder
from kimnet_jax.core.json_files import read_json
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.types import Array, Decoding
from kimnet_jax.inference.predictor import FirstFunction, StepFunction

Arrays = dict[str, Array]  # by path, `a/b/c`
FORMAT = 1
FUNCTIONS = ('init_state', 'step', 'clip')
DESCRIPTION = 'artifact.json'
WEIGHTS = 'weights.npz'


@dataclasses.dataclass(frozen=True)
class Model:
    """What is exported.

    Attributes:
        weights: pytree of arrays.
        init_state, step: as `PosePredictor` takes them.
        forward: (weights, frames float32 [B, T, H, W, 3] normalised) -> heatmaps float32 [B, T, h, w, J].
        skeleton: names the joints.
        size: H = W, pixels of the crop.
        stride: crop pixels per heatmap cell.
        box_scale: side of the crop over the longer side of the person's box.
        decoding: how joints are read off the heatmaps.
        sigma: of the target maps in training.
    """

    weights: Any
    init_state: FirstFunction
    step: StepFunction
    forward: Callable[[Any, Array], Array]
    skeleton: Skeleton
    size: int
    stride: int
    box_scale: float
    decoding: Decoding
    sigma: float = heatmap.SIGMA


def functions(model: Model) -> dict[str, Callable[..., Arrays]]:
    """The three functions, of flat dicts of arrays.

    `init_state` (weights, frames uint8 [B, H, W, 3] RGB) and `step` (weights, state, frames): joints float32 [B, J, 2] in pixels
    of the crop, scores float32 [B, J], and the state under keys `state/...`. `clip` (weights, frames uint8 [B, T, H, W, 3]):
    joints [B, T, J, 2] and scores [B, T, J].
    """
    weights_tree = jax.tree.structure(model.weights)
    frame = jax.ShapeDtypeStruct((1, model.size, model.size, 3), jnp.float32)
    state_tree = jax.tree.structure(jax.eval_shape(model.init_state, model.weights, frame)[1])

    def pose(heatmaps: Array) -> Arrays:
        cells, scores = heatmap.decode(heatmaps, model.decoding, jnp, sigma=model.sigma)
        return {'joints': heatmap.cells_to_pixels(cells, model.stride), 'scores': scores}

    def with_state(heatmaps: Array, state: Any) -> Arrays:
        return pose(heatmaps) | {f'state/{key}': leaf for key, leaf in flatten(state).items()}

    def init_state(weights: Arrays, frames: Array) -> Arrays:
        return with_state(*model.init_state(_unflatten(weights_tree, weights), image.normalise(frames, jnp)))

    def step(weights: Arrays, state: Arrays, frames: Array) -> Arrays:
        chain = _unflatten(state_tree, state)
        return with_state(*model.step(_unflatten(weights_tree, weights), chain, image.normalise(frames, jnp)))

    def clip(weights: Arrays, frames: Array) -> Arrays:
        return pose(model.forward(_unflatten(weights_tree, weights), image.normalise(frames, jnp)))

    return {'init_state': init_state, 'step': step, 'clip': clip}


def export(model: Model, folder: pathlib.Path, *, frames: int, platforms: Sequence[str], about: Mapping[str, Any]) -> None:
    """Writes the artifact of a model; the folder appears when it is whole.

    Args:
        model: what to export.
        folder: must not exist.
        frames: T of `clip`.
        platforms: some of `core.platform.EXPORTED`, on all of which the artifact runs.
        about: where the model comes from, for the description.

    Raises:
        InputError: the folder exists.
    """
    if folder.exists():
        raise InputError(f'{folder}: already exists; choose another folder or remove it')
    weights = flatten(model.weights)
    of_weights = {key: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for key, leaf in weights.items()}
    (b,) = jax.export.symbolic_shape('b')
    image_shape = (model.size, model.size, 3)
    one, many = (jax.ShapeDtypeStruct(shape, jnp.uint8) for shape in ((b, *image_shape), (b, frames, *image_shape)))
    calls = functions(model)
    first = jax.eval_shape(calls['init_state'], of_weights, one)
    state = {key.removeprefix('state/'): leaf for key, leaf in first.items() if key.startswith('state/')}
    arguments = {'init_state': (of_weights, one), 'step': (of_weights, state, one), 'clip': (of_weights, many)}

    make_folder(folder.parent)
    with work_folder(folder.parent, folder.name) as place:
        draft = place / folder.name
        draft.mkdir()
        for name, call in calls.items():
            exported = jax.export.export(jax.jit(call), platforms=tuple(platforms))(*arguments[name])
            (draft / f'{name}.stablehlo').write_bytes(exported.serialize())
        np.savez(draft / WEIGHTS, **{key: np.asarray(leaf) for key, leaf in weights.items()})  # type: ignore[arg-type]
        description = {
            'format': FORMAT,
            'model': dict(about),
            'platforms': list(platforms),
            'jax': jax.__version__,
            'input': {'size': model.size, 'frames': frames, 'colours': 'RGB', 'dtype': 'uint8', 'box_scale': model.box_scale},
            'joints': list(model.skeleton.joints),
            'skeleton': model.skeleton.described(),
            'decoding': model.decoding,
            'state': {key: {'shape': ['b', *leaf.shape[1:]], 'dtype': str(leaf.dtype)} for key, leaf in state.items()},
        }
        (draft / DESCRIPTION).write_text(json.dumps(description, indent=2) + '\n', encoding='utf-8')
        draft.rename(folder)


class Artifact:
    """An exported model; its functions take and return the arrays that `functions` names, the weights put in."""

    def __init__(self, folder: pathlib.Path):
        """Raises `InputError` where the folder holds no artifact, a file is damaged, or this machine's platform is not in it."""
        try:
            self.description = read_json(folder / DESCRIPTION)
            if self.description['format'] != FORMAT:
                raise InputError(f'{folder}: format {self.description["format"]}; this version reads format {FORMAT}')
            calls = {name: jax.export.deserialize(bytearray(read_file(folder / f'{name}.stablehlo'))) for name in FUNCTIONS}
            weights = {key: jnp.asarray(array) for key, array in open_npz(folder / WEIGHTS).arrays.items()}
        except Exception as error:  # of JSON, flatbuffers, zip
            raise InputError(f'{folder}: not a whole exported model ({error}); export it again') from error
        platform = jax.export.default_export_platform()
        if platform not in self.description['platforms']:
            raise InputError(f'{folder}: exported for {", ".join(self.description["platforms"])}, and this is {platform}')
        call = {name: jax.jit(exported.call) for name, exported in calls.items()}
        self.init_state: Callable[[Array], Arrays] = lambda frames: call['init_state'](weights, frames)
        self.step: Callable[[Arrays, Array], Arrays] = lambda state, frames: call['step'](weights, state, frames)
        self.clip: Callable[[Array], Arrays] = lambda frames: call['clip'](weights, frames)


def state_of(outputs: Arrays) -> Arrays:
    """The state among the outputs of `init_state` and `step`, as `step` takes it."""
    return {key.removeprefix('state/'): leaf for key, leaf in outputs.items() if key.startswith('state/')}


def largest_difference(model: Model, artifact: Artifact, frames: np.ndarray) -> float:
    """Runs a clip through both, in one call and as a stream: the largest distance of two joints, crop pixels.

    Args:
        model: the model that was exported.
        artifact: what came of it.
        frames: uint8 [B, T, H, W, 3].
    """
    calls = {name: jax.jit(call) for name, call in functions(model).items()}
    weights = flatten(model.weights)
    pairs = [(calls['clip'](weights, frames), artifact.clip(frames))]
    pairs.append((calls['init_state'](weights, frames[:, 0]), artifact.init_state(frames[:, 0])))
    for t in range(1, frames.shape[1]):
        ours, theirs = pairs[-1]
        pairs.append((calls['step'](weights, state_of(ours), frames[:, t]), artifact.step(state_of(theirs), frames[:, t])))
    steps = [np.asarray(ours['joints']) - np.asarray(theirs['joints']) for ours, theirs in pairs]
    return float(max(np.hypot(step[..., 0], step[..., 1]).max() for step in steps))


def flatten(tree: Any) -> Arrays:
    """The leaves of a pytree by path."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


def _unflatten(structure: Any, arrays: Arrays) -> Any:
    names = flatten(jax.tree.unflatten(structure, range(structure.num_leaves)))
    return jax.tree.unflatten(structure, [arrays[name] for name in names])
