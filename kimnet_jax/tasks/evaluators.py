"""What evaluations of a network on the clips of a split take from the config of its training."""

from collections.abc import Callable, Generator, Mapping
from typing import Any

from flax import nnx
from jax.sharding import Mesh

from kimnet_jax.core.config import make
from kimnet_jax.core.types import Batch, Clips
from kimnet_jax.data_pipelines.loader import LoaderConfig, eval_batches, num_eval_batches, prefetch_to_device
from kimnet_jax.data_pipelines.occlusion import Occlusion
from kimnet_jax.data_pipelines.transforms import DataConfig
from kimnet_jax.tasks import fit
from kimnet_jax.training import evaluation, sharding
from kimnet_jax.training.steps import TargetConfig

Stream = Callable[[], Generator[tuple[Batch, Batch], None, None]]


def make_evaluator(
    graph: nnx.GraphDef,
    stride: int,
    config: Mapping[str, Any],
    clips: Clips,
    mesh: Mesh,
    *,
    occlusion: Callable[[], Occlusion | None] = lambda: None,
) -> evaluation.Evaluator:
    """The evaluation of a network on clips.

    Args:
        graph: its structure in eval mode.
        stride: pixels of the crop in a cell of its heatmaps.
        config: of its training; crop, loader, decoding, chains and batch size are taken from it.
        clips: of a split.
        mesh: of the devices.
        occlusion: asked at the beginning of each pass: what is painted over the frames.

    Raises:
        InputError: the batch size does not go with the devices.
    """
    settings, target = make(evaluation.EvalConfig, config['eval'], 'eval'), make(TargetConfig, config['target'], 'target')
    sharding.check_batch_size(settings.batch_size, 'eval.batch_size', mesh)
    return evaluation.Evaluator(
        graph,
        make_stream(config, clips, mesh, occlusion=occlusion),
        num_eval_batches(clips, **settings.passes),
        clips,
        stride=stride,
        decoding=settings.decoding,
        mesh=mesh,
        sigma=target.sigma,
    )


def make_stream(
    config: Mapping[str, Any], clips: Clips, mesh: Mesh, *, occlusion: Callable[[], Occlusion | None] = lambda: None
) -> Stream:
    """The batches of `make_evaluator`."""
    settings = make(evaluation.EvalConfig, config['eval'], 'eval')
    data, loader = make(DataConfig, config['data'], 'data'), make(LoaderConfig, config['loader'], 'loader')

    def stream() -> Generator[tuple[Batch, Batch], None, None]:
        batches = eval_batches(clips, data, paint=occlusion(), loader=loader, **settings.passes, **fit.this_process())
        return prefetch_to_device(batches, sharding.split(mesh), evaluation.DEVICE_KEYS)

    return stream


def on_clips(
    evaluator: evaluation.Evaluator, config: Mapping[str, Any], clips: Clips, occlusion: Occlusion | None = None
) -> evaluation.Evaluator:
    """`make_evaluator` on other clips, or with masks, by the program that is compiled already."""
    settings = make(evaluation.EvalConfig, config['eval'], 'eval')
    stream = make_stream(config, clips, sharding.make_mesh(), occlusion=lambda: occlusion)
    return evaluator.on(stream, num_eval_batches(clips, **settings.passes), clips)
