"""What the documentation says can be run is there: modules, flags, configs, config fields, files."""

import ast
import functools
import importlib
import importlib.util
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from kimnet_jax.__main__ import COMMANDS
from kimnet_jax.tasks.heatmaps import Settings

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md')), ROOT / 'launch/README.md']
CARDS = sorted((ROOT / 'kimnet_jax/pretrained').glob('*.md'))
LONGEST, LONGEST_CODE = 120, 88  # characters of a line; longer code is cut off at the edge of the page


def commands(page: pathlib.Path) -> list[str]:
    """The lines of a page's blocks of code that call our modules, scripts or the Makefile."""
    blocks = re.findall(r'^```(?:bash|sh)?\n(.*?)^```', page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace('\\\n', ' ').splitlines()]
    ours = r'(\S+=\S+ )*(python -m (kimnet_jax|data_pipelines)|kimnet |make |launch/\S)'
    return [line for line in lines if re.match(ours, line)]


CASES = [(page.relative_to(ROOT), line) for page in [*PAGES, *CARDS] for line in commands(page)]


# Forks for every module; to standard output go {module: (exit status, whether JAX was imported, what its --help prints)}.
HELP = """
import json, os, runpy, sys, tempfile

found = {}
for module in sys.argv[1:]:
    with tempfile.TemporaryFile('w+') as file:
        if not (child := os.fork()):
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            sys.argv = [module, '--help']
            try:
                runpy.run_module(module, run_name='__main__', alter_sys=True)
                status = 0
            except SystemExit as end:
                status = end.code
            sys.stdout.flush()
            os._exit(2 * ('jax' in sys.modules) + bool(status))
        _, status = os.waitpid(child, 0)
        file.seek(0)
        code = os.waitstatus_to_exitcode(status)
        found[module] = (code % 2, code > 1, file.read())
print(json.dumps(found))
"""


@functools.cache
def helps() -> dict[str, tuple[int, bool, str]]:
    """(exit status, whether JAX was imported, what is printed) of `python -m MODULE --help`, for every command and case."""
    words = [shlex.split(line, comments=True) for _, line in CASES]
    modules = {argv[argv.index('-m') + 1] for argv in words if '-m' in argv} | {one.module for one in COMMANDS.values()}
    command = [sys.executable, '-c', HELP, *sorted(modules)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True).stdout)


@pytest.mark.parametrize('name', COMMANDS)
def test_help_ends_well_and_does_without_jax(name):
    status, jax_imported, text = helps()[COMMANDS[name].module]
    assert (status, jax_imported) == (0, False)
    assert 'usage' in text or 'flags:' in text or f'kimnet {name}' in text or COMMANDS[name].module in text


def check_config(argv: list[str]) -> None:
    """--config opens with its argument, and has the fields that are set."""
    given = next((part for part in argv if part.startswith('--config=')), None)
    given = given.partition('=')[2] if given else argv[argv.index('--config') + 1]
    path, _, argument = given.partition(':')
    assert (ROOT / path).is_file()
    config = importlib.import_module(path.removesuffix('.py').replace('/', '.')).get_config(argument)
    for part in argv:
        if part.startswith('--config.'):
            field, equals, _ = part.removeprefix('--config.').partition('=')
            assert equals, f'{part}: absl takes --config.field=value'
            functools.reduce(lambda tree, key: tree[key], field.split('.'), config)


def check_module(module: str, argv: list[str]) -> None:
    *_, text = helps()[module]
    for part in argv:
        flag = part.partition('=')[0]
        if part.startswith('--') and not flag.startswith('--config'):
            assert re.search(rf'--(\[no\])?{re.escape(flag[2:])}\b', text), f'{module} has no flag {flag}'
    if module in ('kimnet_jax.train', 'kimnet_jax.plan'):
        check_config(argv)


@pytest.mark.parametrize(('page', 'line'), CASES)
def test_command(page, line):
    argv = shlex.split(line, comments=True)
    while '=' in argv[0]:
        argv.pop(0)
    if argv[0] == 'make':
        targets = re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE)
        assert {part for part in argv[1:] if '=' not in part} <= set(targets)
    elif argv[0] == 'kimnet':
        check_module(COMMANDS[argv[1]].module, argv[2:])
    elif argv[0] == 'python':
        check_module(argv[2], argv[3:])
    else:
        assert (ROOT / argv[0]).is_file()
        check_config(argv)


def test_commands_are_found():
    """Every page that shows how to do something is among the cases."""
    shown = {page.name for page, _ in CASES}
    assert {'getting_started.md', 'data.md', 'training.md', 'evaluation.md', 'predict.md', 'README.md'} <= shown


def test_the_table_of_fields_is_that_of_the_code(monkeypatch):
    """Names, defaults and meanings: `python benchmarks/fields.py` writes it."""
    monkeypatch.syspath_prepend(ROOT / 'benchmarks')
    import fields

    assert f'{fields.MARKS[0]}{fields.table()}{fields.MARKS[1]}' in (ROOT / 'docs/training.md').read_text()
    assert {field for field, _, meaning in fields.rows(Settings()) if len(meaning) < 5} == set()


def test_the_predictions_for_pods_are_those_of_the_results(monkeypatch):
    """`python benchmarks/plan.py --page` writes them."""
    monkeypatch.syspath_prepend(ROOT / 'benchmarks')
    import plan

    assert f'{plan.MARKS[0]}{plan.tables()}{plan.MARKS[1]}' in plan.PAGE.read_text()
    used = {file for configuration in plan.CONFIGURATIONS if (file := plan.found(configuration))}
    assert used == {*plan.RESULTS.glob('plan_*.json')}


IMPORTS = [
    (page.relative_to(ROOT), node.module, name.name)
    for page in PAGES
    for block in re.findall(r'^```python\n(.*?)^```', page.read_text(), re.MULTILINE | re.DOTALL)
    for node in ast.walk(ast.parse(block))
    if isinstance(node, ast.ImportFrom) and node.module.partition('.')[0] in ('kimnet_jax', 'data_pipelines')
    for name in node.names
]


@pytest.mark.parametrize(('page', 'module', 'name'), IMPORTS)
def test_what_an_example_imports_is_there(page, module, name):
    assert hasattr(importlib.import_module(module), name) or importlib.util.find_spec(f'{module}.{name}')


@pytest.mark.parametrize('page', [*PAGES, *CARDS], ids=lambda page: page.name)
def test_lines_fit_the_page(page):
    """Those of prose and of code; rows of tables may be long."""
    code, long = False, []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        code ^= line.lstrip().startswith('```')
        if len(line) > (LONGEST_CODE if code else LONGEST) and not line.startswith('|'):
            long.append(number)
    assert not long


def test_every_page_is_in_the_navigation_once():
    listed = re.findall(r': (\S+\.md)$', (ROOT / 'mkdocs.yml').read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(page.name for page in (ROOT / 'docs').glob('*.md'))


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r'\]\(([^)#:]+)(?:#[^)]*)?\)', page.read_text()):
            assert (page.parent / target).exists(), f'{page.name} links to {target}'


@pytest.mark.quick_compilation
def test_the_notebook_runs(tmp_path):
    """Its code cells, one after the other, in a process of its own."""
    folder = ROOT / 'docs/notebooks'
    cells = json.loads((folder / 'quickstart.ipynb').read_text())['cells']
    code = '\n'.join(''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code')
    environment = os.environ | {'MPLBACKEND': 'agg', 'PYTHONPATH': str(ROOT)}
    done = subprocess.run([sys.executable, '-c', code], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = ''.join(''.join(out.get('text', [])) for cell in cells for out in cell.get('outputs', []))
    assert done.stdout.splitlines()[0] == shown.splitlines()[0]  # the joints
