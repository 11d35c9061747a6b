"""Reading the text of compiled programs."""

import jax
import jax.numpy as jnp
import pytest

from kimnet_jax.training.hlo import Program, nbytes, part_of

# A loop of three rounds with one all-reduce, which needs the one before it; after it two that need its result and not each other.
PROGRAM = """HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

FileNames
1 "steps.py"
2 "kmm.py"

FunctionNames
1 "step"
2 "KMM.__call__"
3 "Stepping.advance"

FileLocations
1 {file_name_id=1 function_name_id=1 line=31 end_line=31 column=17 end_column=17}
2 {file_name_id=2 function_name_id=2 line=3 end_line=3 column=1 end_column=2}
3 {file_name_id=1 function_name_id=3 line=40 end_line=40 column=1 end_column=2}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=2}

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.9 = f32[] add(%a, %b)
}

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %hidden = f32[8]{0} negate(%p), backend_config={"window_config":{"estimated_cycles":"999"}}
}

%body (carry: (s32[], f32[8])) -> (s32[], f32[8]) {
  %carry = (s32[]{:T(128)}, f32[8]{0:T(128)S(1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%carry), index=0
  %x = f32[8]{0:T(128)S(1)} get-tuple-element(%carry), index=1
  %fusion.1 = f32[8]{0:T(128)} fusion(%x), kind=kLoop, calls=%fused, metadata={op_name="jit(step)/transpose(jvp())/mul" stack_frame_id=2}, backend_config={"window_config":{"estimated_cycles":"100"}}
  %all-reduce.1 = f32[8]{0:T(128)S(1)} all-reduce(%fusion.1), channel_id=1, to_apply=%sum
  ROOT %tuple.1 = (s32[]{:T(128)}, f32[8]{0:T(128)S(1)}) tuple(%i, %all-reduce.1)
}

%condition (carry.1: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(3)
  %carry.1 = (s32[]{:T(128)}, f32[8]{0:T(128)S(1)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%carry.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %limit), direction=LT
}

ENTRY %main (x.1: f32[8]) -> f32[8] {
  %x.1 = f32[8]{0:T(128)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, f32[8]{0:T(128)S(1)}) tuple(%zero, %x.1)
  %while.1 = (s32[]{:T(128)}, f32[8]{0:T(128)S(1)}) while(%start), condition=%condition, body=%body, metadata={op_name="jit(step)/while" stack_frame_id=1}
  %y = f32[8]{0:T(128)S(1)} get-tuple-element(%while.1), index=1
  %all-reduce-start = f32[8]{0:T(128)} all-reduce-start(%y), channel_id=2, to_apply=%sum
  %fusion.2 = f32[8]{0:T(128)} fusion(%y), kind=kLoop, calls=%fused, metadata={op_name="jit(step)/mul" stack_frame_id=3}, backend_config={"window_config":{"estimated_cycles":"7"}}
  %all-reduce-done = f32[8]{0:T(128)} all-reduce-done(%all-reduce-start)
  %all-gather.1 = bf16[16]{0:T(256)(2,1)} all-gather(%fusion.2), channel_id=3, dimensions={0}
  ROOT %fusion.3 = f32[8]{0:T(128)} fusion(%all-reduce-done, /*index=1*/%all-gather.1), kind=kLoop, calls=%fused, backend_config={"window_config":{"estimated_cycles":"1"}}
}
"""


@pytest.fixture(scope='module')
def program():
    return Program(PROGRAM)


def test_collectives_are_counted_as_often_as_they_run(program):
    """Three of 32 bytes in the loop and one begun after it; a gather of 16 numbers of two bytes."""
    found = program.collectives()
    assert (found['all-reduce'].number, found['all-reduce'].asynchronous, found['all-reduce'].bytes) == (4, 1, 4 * 32)
    assert (found['all-gather'].number, found['all-gather'].asynchronous, found['all-gather'].bytes) == (1, 0, 32)
    assert set(found) == {'all-reduce', 'all-gather'}


def test_what_is_begun_counts_by_its_result(program):
    """The start of a gather names its operand and its result."""
    begun = PROGRAM.replace(
        '%all-gather.1 = bf16[16]{0:T(256)(2,1)} all-gather(%fusion.2)',
        '%start.2 = (f32[8]{0}, bf16[16]{0}) all-gather-start(%fusion.2), dimensions={0}\n'
        '  %all-gather.1 = bf16[16]{0:T(256)(2,1)} all-gather-done(%start.2)',
    )
    found, before = Program(begun), program.collectives()['all-gather']
    assert found.collectives()['all-gather'] == before._replace(asynchronous=1)
    assert found.dependent_collectives() == program.dependent_collectives()
    assert found.traffic() == program.traffic()


def test_what_is_whole_counts():
    """A reduce-scatter by its operand; so does a fusion of a TPU that reduces and keeps a part."""
    fused = """
%all-reduce-scatter.1 (q: f32[8]) -> f32[2] {
  %q = f32[8]{0} parameter(0)
  %all-reduce.7 = f32[8]{0} all-reduce(%q), to_apply=%sum
  ROOT %slice = f32[2]{0} slice(%all-reduce.7), slice={[0:2]}
}

ENTRY"""
    text = PROGRAM.replace('\nENTRY', fused).replace(
        '%all-gather.1 = bf16[16]{0:T(256)(2,1)} all-gather(%fusion.2), channel_id=3, dimensions={0}',
        '%part.1 = f32[4]{0} reduce-scatter(%fusion.2), channel_id=3, dimensions={0}\n'
        '  %all-gather.1 = f32[2]{0} fusion(%fusion.2), kind=kCustom, calls=%all-reduce-scatter.1',
    )
    found = Program(text).collectives()
    assert found['reduce-scatter'] == (2, 0, 32 + 32)
    assert found['all-reduce'] == Program(PROGRAM).collectives()['all-reduce']


def test_the_longest_chain_takes_one_of_two_that_do_not_need_each_other(program):
    assert program.dependent_collectives() == 3 + 1


def test_a_chain_goes_through_what_is_between(program):
    """The gather, if it reads what the second all-reduce gives."""
    longer = PROGRAM.replace('all-gather(%fusion.2)', 'all-gather(%all-reduce-done)')
    assert Program(longer).dependent_collectives() == program.dependent_collectives() + 1


def test_cycles_go_to_the_function_that_ran_and_not_to_what_is_fused(program):
    parts = {'temporal module': ['KMM.__call__'], 'optimizer': ['Stepping.advance']}
    found = program.cycles(lambda line: part_of(program.functions(line), line.op_name, parts, 'rest'))
    assert found == {'temporal module (backward)': 3 * 100, 'optimizer': 7, 'rest': 1}


def test_functions_are_told_from_the_outermost_on(program):
    by_name = {line.name: line for line, _, _ in program.executed()}
    assert program.functions(by_name['fusion.1']) == ('step', 'KMM.__call__')
    assert program.functions(by_name['fusion.2']) == ('step', 'Stepping.advance')
    assert program.functions(by_name['all-gather.1']) == ()


@pytest.mark.parametrize(
    ('before', 'after', 'trips'),
    [
        ('', '', 3),
        ('constant(3)', 'constant(12)', 12),
        ('body=%body', 'body=%body, backend_config={"known_trip_count":{"n":"5"}}', 5),  # as of a GPU
        ('direction=LT', 'direction=NE', 1),  # it does not count
    ],
)
def test_rounds_of_a_loop(before, after, trips):
    program = Program(PROGRAM.replace(before, after) if before else PROGRAM)
    (loop,) = [line for line, _, _ in program.executed() if line.opcode == 'while']
    assert program.trips(loop) == trips
    assert program.collectives()['all-reduce'].number == trips + 1


def test_traffic_is_what_does_not_lie_on_the_chip(program):
    """In the loop a fusion writes 32 bytes, and the all-reduce reads them. After it: the end of the other all-reduce and a fusion
    write 32 each, the gather reads 32 and writes 32, and the last fusion reads 32 and 32 and writes 32."""
    assert program.traffic() == 3 * (32 + 32) + 32 + 32 + 64 + 96


@pytest.mark.parametrize(
    ('shape', 'size', 'in_main_memory'),
    [
        ('f32[]', 4, 4),
        ('bf16[2,3]{1,0:T(8,128)(2,1)}', 12, 12),
        ('(f32[16]{0:T(128)S(1)}, /*index=1*/u8[5]{0})', 69, 5),
        ('pred[7]{0}', 7, 7),
        ('s4[3]{0}', 2, 2),
        ('f8e4m3fn[6]{0}', 6, 6),
        ('c64[2]{0}', 16, 16),
        ('token[]', 0, 0),
        ('f32[0,8]{1,0}', 0, 0),
    ],
)
def test_bytes_of_a_shape(shape, size, in_main_memory):
    assert (nbytes(shape), nbytes(shape, main_memory=True)) == (size, in_main_memory)


def test_a_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match='no entry computation'):
        Program('HloModule nothing')


def test_a_program_of_this_jax_is_read():
    """Its loop, its functions and what it moves, as the installed compiler writes them."""

    def outer(x):
        return jax.lax.scan(lambda carry, _: (inner(carry), None), x, None, length=6)[0]

    def inner(x):
        return jnp.sin(x) @ x

    text = jax.jit(outer).lower(jax.ShapeDtypeStruct((32, 32), jnp.float32)).compile().as_text()
    program = Program(text)
    found = list(program.executed())
    assert {times for line, times, _ in found if line.opcode in ('dot', 'custom-call', 'fusion')} >= {6}
    assert any('inner' in function for line, _, _ in found for function in program.functions(line))
    assert program.traffic() > 6 * 4 * 32 * 32
    assert program.collectives() == program.cycles(lambda line: '') == {}
