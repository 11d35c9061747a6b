"""What a training will need, read from its own train step, compiled for devices that are not there (`ahead_of_time`)."""

import dataclasses
import importlib.metadata
import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

from kimnet_jax import losses, metrics
from kimnet_jax.core import heatmap
from kimnet_jax.core.config import make
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.image import normalise
from kimnet_jax.core.platform import compiled_for
from kimnet_jax.core.skeleton import JHMDB, LSP, MPII, PENN_ACTION, POSETRACK, Skeleton
from kimnet_jax.data_pipelines.clip_source import DatasetConfig
from kimnet_jax.models import (
    KMM,
    LSTMPM,
    MODELS,
    RPSTN,
    KIMNet,
    PerFrame,
    abstract_model,
    count_parameters,
    model_fields,
    network_name,
)
from kimnet_jax.models.chain import ChainNetwork, encode_clip, run_chain
from kimnet_jax.models.conv_lstm import ConvLSTM
from kimnet_jax.models.dkd import DKD
from kimnet_jax.models.dkd_net import DKDNet
from kimnet_jax.models.jrpsp import JRPSP
from kimnet_jax.models.kimnet import Fusion
from kimnet_jax.models.relation_decoder import RelationDecoder
from kimnet_jax.models.temporal import TemporalModule
from kimnet_jax.tasks import ahead_of_time, heatmaps, name_of
from kimnet_jax.training import hlo, loop, steps
from kimnet_jax.training.chips import Chip, Topology

SCALED = (8, 16, 32, 64, 128, 256)  # chips of the table of weak scaling
_SKELETONS = {  # of the data sets with one skeleton, which need not be built yet
    'sub_jhmdb': JHMDB,
    'penn_action': PENN_ACTION,
    'posetrack': POSETRACK,
    'mpii': MPII,
    'lsp': LSP,
    'kinetic_puppets/joints15': JHMDB,
    'kinetic_puppets/joints13': PENN_ACTION,
}
_UNNAMED = 'rest of the program'


def _names(of: Any) -> list[str]:
    """Qualified names of a function, or of those of a class."""
    functions = [one for one in vars(of).values() if inspect.isfunction(one)] if inspect.isclass(of) else [of]
    return [function.__qualname__ for function in functions]


_PARTS: dict[str, tuple[Any, ...]] = {  # part -> functions, or classes, that run in it; the first part that fits counts
    'input preparation': (normalise,),
    'relation decoder': (RelationDecoder,),
    'temporal module': (TemporalModule, KMM, DKD, JRPSP, ConvLSTM),
    'fusion': (Fusion,),
    'pose initializer': tuple(network.begin for network in (KIMNet, RPSTN, DKDNet, LSTMPM)),
    'feature encoder': (ChainNetwork.encode, encode_clip),
    'chain': (run_chain,),
    'network': (PerFrame.__call__, ChainNetwork.__call__),
    'loss': (losses.heatmap_loss,),
    'training metrics': (heatmap.decode, metrics.torso_length, metrics.pck_state, metrics.Ratio.pool),
    'optimizer': (steps.Stepping.advance,),
}
_FUNCTIONS = {name: [function for one in known for function in _names(one)] for name, known in _PARTS.items()}


def plan(
    config: Mapping[str, Any],
    topology: Topology,
    *,
    batch_per_chip: int | None = None,
    largest: bool = False,
    verify: bool = False,
) -> dict[str, Any]:
    """What a training of a config needs on a topology, for `reporting.plan.render`; plain data.

    Args:
        config: of a network of videos (`heatmaps.Settings`).
        topology: the devices.
        batch_per_chip: None: `train.batch_size` is split.
        largest: estimate the largest batch, too, with and without `model.remat`; three compilations more.
        verify: compile with these batches; at most two compilations more.

    Raises:
        InputError: on a config that could not be trained so, devices that the compiler does not know, a compiler that is not
            installed, or fails.
    """
    if MODELS[name_of(config)].reads != 'frames':
        raise InputError(f'config.model.name={name_of(config)!r}: only networks of videos can be planned')
    settings = make(heatmaps.Settings, config)
    if batch_per_chip is None:
        if settings.train.batch_size % topology.chips:
            raise InputError(
                f'config.train.batch_size={settings.train.batch_size}: not a multiple of the {topology.chips} chips of '
                f'{topology.text}; give --batch_per_chip'
            )
        batch_per_chip = settings.train.batch_size // topology.chips
    loop.sharing_devices(settings.train.batch_norm, topology.chips)
    skeleton = skeleton_of(settings.dataset)
    chip = topology.chip

    def compiled(batch: int, remat: bool) -> ahead_of_time.Step:
        return ahead_of_time.compile_apart(_with(settings, batch * topology.chips, remat), skeleton, topology)

    remat = bool(settings.model.get('remat', False))
    step = compiled(batch_per_chip, remat)
    with compiled_for(chip.platform):
        model = abstract_model(settings.model, num_joints=skeleton.num_joints, dtype=settings.dtype)
    result: dict[str, Any] = {
        'network': network_name(model),
        'preset': _preset(settings.model),
        'parameters': count_parameters(model),
        'dtype': str(model.dtype),
        'data': {'dataset': settings.dataset.name, 'frames': settings.data.frames, 'input_size': settings.data.input_size},
        'batch_norm': settings.train.batch_norm,
        'remat': remat,
        'topology': topology.text,
        'chip': chip.label,
        'chips': topology.chips,
        'batch_per_chip': batch_per_chip,
        'versions': {
            name: importlib.metadata.version(name) for name in ('jax', 'jaxlib', ahead_of_time.COMPILERS[chip.platform])
        },
        'seconds': round(step.seconds, 1),
        'memory': {
            'available': chip.hbm,
            'needed': step.needed,
            'fits': step.memory is not None,
            'parts': None if step.memory is None else step.memory._asdict(),
        },
    }
    if step.text:
        result |= _readings(step, topology, batch_per_chip * settings.data.frames)
    if largest:
        result['largest'] = _largest(compiled, step, batch_per_chip, remat, chip, verify, has_remat='remat' in settings.model)
    return result


def skeleton_of(dataset: DatasetConfig) -> Skeleton:
    """The joints of a data set, built or not; of one's own, as it was built. Raises `InputError`."""
    for name in (dataset.name, f'{dataset.name}/{dataset.config}'):
        if name in _SKELETONS:
            return _SKELETONS[name]
    return dataset.open('train').skeleton


def part(program: hlo.Program, instruction: hlo.Instruction) -> str:
    """To which part of the step an instruction belongs; of gradients, with ` (backward)`."""
    return hlo.part_of(program.functions(instruction), instruction.op_name, _FUNCTIONS, _UNNAMED)


def _with(settings: heatmaps.Settings, batch_size: int, remat: bool) -> heatmaps.Settings:
    train = dataclasses.replace(settings.train, batch_size=batch_size, profile='')  # whose steps need not be there
    model = {**settings.model, 'remat': remat} if 'remat' in settings.model else settings.model
    return dataclasses.replace(settings, train=train, model=model)


def _readings(step: ahead_of_time.Step, topology: Topology, frames: int) -> dict[str, Any]:
    """What the text of a program says; `frames`: that a device sees in a step."""
    program, chip, chips = hlo.Program(step.text), topology.chip, topology.chips
    collectives = program.collectives()
    size = sum(found.bytes / (1 if kind == 'all-reduce' else 2) for kind, found in collectives.items())  # others are half of one
    synchronous = sum(kind.number - kind.asynchronous for kind in collectives.values())
    dependent = program.dependent_collectives()
    cycles = program.cycles(lambda line: part(program, line))
    flops, moved = step.flops / chips, program.traffic()
    floor = max(flops / chip.peak, moved / chip.hbm_bandwidth)
    estimate = sum(cycles.values()) / chip.clock if cycles and chip.clock else None
    waits = max(dependent, synchronous)
    return {
        'collectives': {kind: found._asdict() for kind, found in collectives.items()},
        'dependent_collectives': dependent,
        'waits': waits,
        'cycles': cycles,
        'clock': chip.clock,
        'roofline': {
            'flops': flops,
            'bytes': moved,
            'peak': chip.peak,
            'bandwidth': chip.hbm_bandwidth,
            'compute_ms': 1e3 * flops / chip.peak,
            'memory_ms': 1e3 * moved / chip.hbm_bandwidth,
            'compiler_flops': step.costs.get('flops'),
            'compiler_bytes': step.costs.get('bytes accessed'),
        },
        'compute_ms': 1e3 * (floor if estimate is None else estimate),
        'estimate_of': 'roofline' if estimate is None else 'compiler',
        'scaling': [_scaled(chip, number, floor if estimate is None else estimate, size, waits, frames) for number in SCALED],
        'here': _scaled(chip, chips, floor if estimate is None else estimate, size, waits, frames),
    }


def _scaled(chip: Chip, chips: int, compute: float, size: float, waits: int, frames: int) -> dict[str, float]:
    communication = chip.all_reduce(chips, size, waits)
    seconds = compute + communication
    return {
        'chips': chips,
        'communication_ms': 1e3 * communication,
        'step_ms': 1e3 * seconds,
        'frames_per_s_per_chip': frames / seconds,
        'frames_per_s': chips * frames / seconds,
        'efficiency': compute / seconds,
    }


def _largest(
    compiled: Any, step: ahead_of_time.Step, batch: int, remat: bool, chip: Chip, verify: bool, *, has_remat: bool
) -> dict[str, dict[str, Any]]:
    """With and without remat: the line of memory against clips a chip through two compilations, and where it meets the limit."""
    found = {}
    for setting in (False, True) if has_remat else (remat,):
        fitting: dict[int, int] = {}  # clips -> bytes
        for clips in _around(batch):
            taken = step if (clips, setting) == (batch, remat) else compiled(clips, setting)
            if taken.memory is not None:
                fitting[clips] = taken.needed
            if len(fitting) == 2:
                break
        number = max(fitting, default=0)
        if len(fitting) == 2:
            less, more = sorted(fitting)
            a_clip = (fitting[more] - fitting[less]) / (more - less)
            number = max(number, math.floor(less + (chip.hbm - fitting[less]) / a_clip)) if a_clip > 0 else number
        verified = None
        if verify and number:
            taken = compiled(number, setting)
            verified = {'fits': taken.memory is not None, 'needed': taken.needed}
        found['remat' if setting else 'no remat'] = {
            'batch_per_chip': number,
            'compiled': {str(clips): fitting[clips] for clips in sorted(fitting)},
            'verified': verified,
        }
    return found


def _around(batch: int) -> Iterator[int]:
    """It and twice as many; then ever fewer."""
    yield from (batch, 2 * batch)
    while batch := batch // 2:
        yield batch


def _preset(fields: Mapping[str, Any]) -> str:
    """The preset whose network this is, whether with remat or without; `own` where it is none's."""
    name = fields['name']
    for preset in ('full', *MODELS[name].presets):
        if {**model_fields(name, preset), 'remat': None} == {**fields, 'remat': None}:
            return preset
    return 'own'
