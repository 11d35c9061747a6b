"""Plans the paper's network and small ones for pods, and writes docs/pods.md: `python benchmarks/plan.py [--presets=tiny,small]`.

Every configuration is compiled by `kimnet plan` in a process of its own (extras `[plan]`, `[gpu]`). One whose numbers are in
benchmarks/results is skipped, so that a run that was stopped goes on. `--page` writes the page alone, of what is there.
"""

import datetime
import json
import pathlib
import subprocess
import sys
from typing import NamedTuple

from absl import app, flags

from kimnet_jax.core.files import write_text
from kimnet_jax.reporting.plan import page

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / 'benchmarks/results', ROOT / 'docs/pods.md'
MARKS = ('<!-- begin: written by benchmarks/plan.py -->\n', '<!-- end -->')


class Configuration(NamedTuple):
    """Attributes:
    preset: of KIMNet.
    topology, batch_per_chip: as the flags of `kimnet plan`.
    flags: further ones.
    """

    preset: str
    topology: str
    batch_per_chip: int
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its file, without the date."""
        extra = [flag.lstrip('-').replace('config.', '').replace('=', '-') for flag in self.flags]
        return '_'.join(['plan', self.preset, self.topology.replace(':', '-'), str(self.batch_per_chip), *extra])


EIGHT = ('v5e:2x4', 'v5p:2x2x2', 'v6e:2x4', 'h100x8')
CONFIGURATIONS = (
    *(Configuration('tiny', topology, 4) for topology in EIGHT),
    *(Configuration('small', topology, 8) for topology in EIGHT),
    *(Configuration('full', topology, 4) for topology in EIGHT),
    Configuration('full', 'v5e:2x4', 4, ('--config.train.batch_norm=device',)),
    *(Configuration('full', 'v5e:2x4', batch) for batch in (8, 16)),
    *(Configuration('full', topology, batch) for topology in ('v5e:8x8', 'v5e:16x16') for batch in (4, 8, 16)),
    Configuration('full', 'v5e:2x4', 4, ('--config.model.remat=True', '--largest_batch')),
)


def found(configuration: Configuration) -> pathlib.Path | None:
    """The newest file of its numbers."""
    return max(RESULTS.glob(f'{configuration.name}_[0-9][0-9][0-9][0-9]-*.json'), default=None)


def tables() -> str:
    """The tables of the numbers that are there."""
    files = filter(None, map(found, CONFIGURATIONS))
    return page(json.loads(file.read_text()) for file in files)


def write_page() -> None:
    before, rest = PAGE.read_text().split(MARKS[0])
    _, after = rest.split(MARKS[1])
    write_text(PAGE, before + MARKS[0] + tables() + MARKS[1] + after)


def main(argv: list[str]) -> int:
    del argv
    failed = []
    for configuration in [] if flags.FLAGS.page else CONFIGURATIONS:
        if configuration.preset not in flags.FLAGS.presets or found(configuration):
            continue
        target = RESULTS / f'{configuration.name}_{datetime.date.today()}.json'
        command = [sys.executable, '-m', 'kimnet_jax.plan', '--config', f'configs/sub_jhmdb.py:preset={configuration.preset}']
        command += ['--topology', configuration.topology, '--batch_per_chip', str(configuration.batch_per_chip)]
        done = subprocess.run([*command, '--json', str(target), *configuration.flags], cwd=ROOT, check=False)
        if done.returncode:
            failed.append(configuration.name)
    write_page()
    for name in failed:
        print('failed:', name)
    return int(bool(failed))


if __name__ == '__main__':
    flags.DEFINE_list('presets', ['tiny', 'small', 'full'], 'Which sizes to compile.')
    flags.DEFINE_bool('page', False, 'Compile nothing.')
    app.run(main)
