"""What a compiled program says of itself: XLA's optimised HLO as text (`compiled.as_text()`), of TPUs and GPUs."""

import collections
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

_SIZES = {'pred': 1, 'bf16': 2, 'c64': 8, 'c128': 16, 'token': 0}  # bytes; of the others, the number in the name has the bits
_ARRAY = re.compile(r'\b(pred|token|bf16|[sufc]\d+\w*)\[([\d,]*)\](\{[^}]*\})?')
_COMPUTATION = re.compile(r'(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$')
_INSTRUCTION = re.compile(r'\s+(ROOT )?%?([\w.\-]+) = (.+?) ([\w\-]+)\((.*)')
_OPERANDS_END = re.compile(r'\)(?=, |$)')
_TABLE_ROW = re.compile(r'(\d+) (?:"(.*)"|\{(.*)\})$')
_COLLECTIVES = (
    'all-reduce',
    'all-gather',
    'reduce-scatter',
    'all-to-all',
    'ragged-all-to-all',
    'collective-permute',
    'collective-broadcast',
)
# they move nothing, or what they move is counted where it is begun, or within them
_NO_TRAFFIC = (
    'parameter',
    'constant',
    'tuple',
    'get-tuple-element',
    'bitcast',
    'while',
    'conditional',
    'call',
    'async-start',
    'async-update',
    'async-done',
    'after-all',
    'partition-id',
    'replica-id',
    'iota',
    'opt-barrier',
)


class Instruction(NamedTuple):
    """A line of a computation.

    Attributes:
        name: without `%`.
        shape: of its result, as text with the layout.
        opcode: such as `fusion`.
        operands: names.
        rest: the line from the operands on, with attributes, metadata and the backend's config.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str

    @property
    def collective(self) -> str:
        """Its kind, such as `all-reduce`, whether it is waited for or only begun; '' where it is none, or the end of one."""
        kind = self.opcode.removesuffix('-start')
        return kind if kind in _COLLECTIVES else ''

    @property
    def cycles(self) -> int | None:
        """What the TPU compiler estimates that it takes; None where it does not say."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
        return int(found[1]) if found else None

    @property
    def op_name(self) -> str:
        """The operation of JAX that it comes from, such as `jit(step)/transpose(jvp())/mul`; '' where it is not known."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ''

    def called(self, attribute: str) -> tuple[str, ...]:
        """Computations that an attribute (a pattern) names, such as `body`."""
        return tuple(
            name.strip().removeprefix('%')
            for names in re.findall(rf'\b(?:{attribute})=(?:\{{([^}}]*)\}}|(%?[\w.\-]+))', self.rest)
            for name in (names[0] or names[1]).split(',')
        )


class Collectives(NamedTuple):
    """Those of one kind, in one run of the program.

    Attributes:
        number: how often one is begun.
        asynchronous: how many of these let the program go on until their result is needed.
        bytes: on one device, of what is whole: of the result or, where that is a part, of the operands.
    """

    number: int
    asynchronous: int
    bytes: int


class Program:
    """A compiled program. Raises ValueError where the text has no entry computation.

    Attributes:
        computations: name -> its instructions in their order.
        entry: name of the computation that is run.
    """

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ''
        tables: dict[str, dict[int, str]] = {}
        lines: list[Instruction] | None = None
        rows: dict[int, str] | None = None
        for line in text.splitlines():
            if lines is not None and line.startswith(' '):
                if (found := _INSTRUCTION.match(line)) is not None:
                    lines.append(_instruction(found))
            elif (found := _COMPUTATION.match(line)) is not None:
                lines = self.computations[found[2]] = []
                self.entry = found[2] if found[1] else self.entry
            elif line in ('FileNames', 'FunctionNames', 'FileLocations', 'StackFrames'):
                rows = tables[line] = {}
            elif rows is not None and (found := _TABLE_ROW.match(line)) is not None:
                rows[int(found[1])] = found[2] if found[2] is not None else found[3]
        if not self.entry:
            raise ValueError('no entry computation in the text of the program')
        self._functions = _functions_of(tables)
        self._fused = {
            name: line.collective for name, inside in self.computations.items() for line in inside if line.collective
        }  # computation -> the kind of a collective in it

    def functions(self, instruction: Instruction) -> tuple[str, ...]:
        """The Python functions that were running when JAX traced it, by qualified name, the outermost first; () if unknown.

        A fusion is of many operations; the compiler names one of them.
        """
        found = re.search(r'stack_frame_id=(\d+)', instruction.rest)
        return self._functions.get(int(found[1]), ()) if found else ()

    def executed(self) -> Iterator[tuple[Instruction, int, Mapping[str, Instruction]]]:
        """(instruction, how often, its neighbours by name) of all that runs, one after the other; fusions count as one."""
        return self._executed(self.entry, 1)

    def _executed(self, name: str, times: int) -> Iterator[tuple[Instruction, int, Mapping[str, Instruction]]]:
        lines = self.computations[name]
        by_name = {line.name: line for line in lines}
        for line in lines:
            yield line, times, by_name
            for inner, repeated in self._inner(line):
                yield from self._executed(inner, times * repeated)

    def _inner(self, line: Instruction) -> list[tuple[str, int]]:
        """(computation, how often) of what an instruction runs that is scheduled as a program of its own."""
        if line.opcode == 'while':
            return [(name, self.trips(line)) for name in line.called('body')]
        if line.opcode == 'conditional':
            return [(name, 1) for name in line.called('branch_computations|true_computation|false_computation')]
        if line.opcode in ('call', 'async-start'):
            return [(name, 1) for name in line.called('to_apply|calls')]
        return []

    def trips(self, loop: Instruction) -> int:
        """Rounds of a `while` that counts from 0; 1 where the text does not tell."""
        found = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
        if found:
            return int(found[1])
        for name in loop.called('condition'):
            lines = {line.name: line for line in self.computations[name]}
            compared = next((line for line in reversed(lines.values()) if 'direction=LT' in line.rest), None)
            if compared is None:  # on a GPU the comparison is a fusion of its own; there the number is known
                continue
            limits = [lines[operand] for operand in compared.operands if lines[operand].opcode == 'constant']
            if limits and (number := re.match(r'(\d+)\)', limits[0].rest)):
                return int(number[1])
        return 1

    def collective(self, line: Instruction) -> str:
        """Its kind; '' where it is none. A TPU's fusion that reduces and keeps a part is a `reduce-scatter`."""
        if line.opcode != 'fusion':
            return line.collective
        for name in line.called('calls'):
            if inside := self._fused.get(name):
                return 'reduce-scatter' if inside == 'all-reduce' and 'scatter' in name else inside
        return ''

    def collectives(self) -> dict[str, Collectives]:
        """By kind."""
        number: collections.Counter[str] = collections.Counter()
        begun: collections.Counter[str] = collections.Counter()
        size: collections.Counter[str] = collections.Counter()
        for line, times, by_name in self.executed():
            kind = self.collective(line)
            if kind:
                number[kind] += times
                begun[kind] += times * line.opcode.endswith('-start')
            start = line
            if line.opcode.removesuffix('-done') in _COLLECTIVES and line.opcode.endswith('-done'):
                kind, start = line.opcode.removesuffix('-done'), by_name[line.operands[0]]
            elif line.opcode.endswith('-start'):  # whose result names its operands, too
                continue
            if kind:
                given = sum(nbytes(by_name[operand].shape) for operand in start.operands if operand in by_name)
                size[kind] += times * max(given, nbytes(line.shape))
        return {kind: Collectives(number[kind], begun[kind], size[kind]) for kind in sorted(number)}

    def dependent_collectives(self) -> int:
        """Length of the longest chain of collectives each of which needs the result of the one before.

        Of a loop, the longest chain of its body times its rounds: every round is taken to need the one before it.
        """
        return self._longest(self.entry)

    def _longest(self, name: str) -> int:
        depth: dict[str, int] = {}
        for line in self.computations[name]:
            inner = [repeated * self._longest(body) for body, repeated in self._inner(line)]
            own = int(bool(self.collective(line))) + max(inner, default=0)
            depth[line.name] = own + max((depth.get(operand, 0) for operand in line.operands), default=0)
        return max(depth.values(), default=0)

    def cycles(self, part: Callable[[Instruction], str]) -> dict[str, int]:
        """The TPU compiler's estimate by part; {} where it has none."""
        found: collections.Counter[str] = collections.Counter()
        for line, times, _ in self.executed():
            if line.cycles is not None:
                found[part(line)] += line.cycles * times
        return dict(found.most_common())

    def traffic(self) -> int:
        """Bytes that one run reads from and writes to a device's main memory.

        Operands and results of all that runs, but those that the compiler placed in on-chip memory (`S(1)`). An upper bound: an
        operand that is read in part, as in a loop, counts as a whole.
        """
        moved = 0
        for line, times, by_name in self.executed():
            if line.opcode in _NO_TRAFFIC or 'custom_call_target="AllocateBuffer"' in line.rest:
                continue
            shapes = []
            if not line.opcode.endswith('-start'):  # which names operands and result
                shapes.append(line.shape)
            if not line.opcode.endswith('-done'):
                shapes += [by_name[operand].shape for operand in line.operands if operand in by_name]
            moved += times * sum(nbytes(shape, main_memory=True) for shape in shapes)
        return moved


def nbytes(shape: str, *, main_memory: bool = False) -> int:
    """Bytes of the arrays in the text of a shape; `main_memory`: of those that do not lie in on-chip memory."""
    total = 0
    for kind, sizes, layout in _ARRAY.findall(shape):
        if main_memory and re.search(r'S\([1-9]', layout):
            continue
        number = 1
        for size in filter(None, sizes.split(',')):
            number *= int(size)
        digits = re.match(r'[suf](\d+)', kind)
        total += number * _SIZES[kind] if kind in _SIZES else (number * int(digits[1]) + 7) // 8 if digits else 0
    return total


def _instruction(found: re.Match[str]) -> Instruction:
    rest = found[5]
    end = _OPERANDS_END.search(rest)
    operands = re.findall(r'%([\w.\-]+)', rest[: end.start()] if end else rest)
    return Instruction(found[2], found[3], found[4], tuple(operands), rest)


def _functions_of(tables: Mapping[str, Mapping[int, str]]) -> dict[int, tuple[str, ...]]:
    """Stack frame -> qualified names. A parent is written as its number and 1; of an outermost frame, as its own number."""
    names, locations = tables.get('FunctionNames', {}), tables.get('FileLocations', {})
    found: dict[int, tuple[str, ...]] = {}
    for number, row in sorted(tables.get('StackFrames', {}).items()):
        location, parent = _number(row, 'file_location_id'), _number(row, 'parent_frame_id') - 1
        function = names.get(_number(locations.get(location, ''), 'function_name_id'), '')
        found[number] = (*found.get(parent, ()), function)
    return found


def _number(row: str, key: str) -> int:
    found = re.search(rf'{key}=(\d+)', row)
    return int(found[1]) if found else 0


def part_of(functions: Sequence[str], op_name: str, parts: Mapping[str, Sequence[str]], rest: str) -> str:
    """The first of `parts`, name -> functions, of which one was running; with ` (backward)` for gradients; else `rest`."""
    running = set(functions)
    part = next((name for name, known in parts.items() if running & set(known)), rest)
    return f'{part} (backward)' if 'transpose(' in op_name else part
