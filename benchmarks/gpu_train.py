"""Trains what docs/results.md reports, side by side on the devices of one machine, in order of importance.

    python benchmarks/gpu_train.py --data DATA --work WORK --out OUT [--seconds 500] [--only ship,claim]

DATA: the --data_dir of the built data sets; compact copies do (`kimnet compact`), decoded ones (`benchmarks/decoded.py`)
save the loader's time. Jobs wait for data that is not there yet. WORK keeps the runs; rerun the same command to resume. OUT
gets, of every run that has ended, a folder with its config, curves, tables and poses, its weights in float16
(`NAME.safetensors`), and `summary.json`.

The jobs, by group:
- pretrain: PoseResNet on `lsp/extended`. Without this group the others begin with the pretrained one of the package.
- choose: KIMNet from it on `sub_jhmdb/fold1_development`, with several rates and lengths; all that follows takes the best.
  Without this group it takes those of recipe `finetune`, which were found so.
- ship: KIMNet without a pose initializer on folds 1, 2 and 3.
- claim: KIMNet with each temporal module, with none, and without a pose initializer: fold 1, three seeds.
- full: the paper's network from ResNets trained on `lsp/extended`, with the KMM and without a temporal module: fold 1.
"""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

PLATFORMS = os.environ.get('JAX_PLATFORMS', '')  # of the trainings; this process leaves the devices to them
os.environ['JAX_PLATFORMS'] = 'cpu'
METRIC = 'torso/pck/0.2/mPCK'
GROUPS = ('pretrain', 'choose', 'ship', 'claim', 'full')
CHOICES = {  # settings that are compared on the development split: (learning rate, epochs); the first ones are recipe `finetune`
    'c': (3e-4, 60),
    'a': (1e-3, 60),
    'b': (1e-3, 120),
    'd': (3e-4, 120),
}


@dataclasses.dataclass(frozen=True)
class Job:
    """A training: its name is that of its folder, `after` the jobs whose runs it begins with, `data` the data set it needs."""

    name: str
    group: str
    data: str
    settings: Callable[['Session'], list[str]]
    after: tuple[str, ...] = ()


class Session:
    """The jobs of one call, and what has become of them."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.work, self.out = args.work.resolve(), args.out.resolve()
        self.ended: dict[str, float | None] = {}  # the metric; None where it failed
        self.told: dict[str, dict[str, object]] = {}
        self.names: set[str] = set()  # of the jobs

    def folder(self, name: str) -> pathlib.Path:
        return self.work / name

    def chosen(self) -> tuple[float, int]:
        """Learning rate and epochs that did best on the development split; the first where none was tried."""
        scores = {key: self.ended.get(f'choose_{key}') for key in CHOICES}
        best = max((key for key, score in scores.items() if score is not None), key=lambda key: scores[key] or 0, default='c')
        return CHOICES[best]

    def data_dir(self, data: str) -> pathlib.Path | None:
        """Where a data set is, None where it is not there yet."""
        found = [root for root in self.args.data if any((root / data).glob('*/metadata.json'))]
        return found[0] if found else None

    def result(self, name: str) -> float | None:
        """Of a run that has ended well, by its last record."""
        file = self.folder(name) / 'evaluated.json'
        return json.loads(file.read_text())['metric'] if file.exists() else None


def pretraining(config: str, epochs: float, batch: int, rate: float) -> Callable[[Session], list[str]]:
    def settings(session: Session) -> list[str]:
        return [
            f'--config=configs/pose_resnet_lsp.py:{config}',
            f'--config.train.epochs={epochs * session.args.length}',
            f'--config.train.batch_size={batch}',
            f'--config.optimizer.learning_rate={rate}',
        ]

    return settings


def kimnet(
    row: str, fold: str, seed: int = 0, preset: str = '', choice: str = '', initializer: str = 'lsp', encoder: str = 'lsp'
) -> Callable[[Session], list[str]]:
    """KIMNet's `row` from pretrained parts; `fold`: 1, 2, 3 or 1_development."""

    def settings(session: Session) -> list[str]:
        rate, epochs = CHOICES[choice] if choice else session.chosen()
        size = preset or session.args.preset
        recipe = 'finetune' if size == 'medium' else 'ours'
        found = [
            f'--config=configs/sub_jhmdb.py:fold={fold[0]},preset={size},row={row},recipe={recipe}',
            f'--config.dataset.config=fold{fold}',
            f'--config.seed={seed}',
            f'--config.train.epochs={epochs * session.args.length}',
            '--config.train.average_decay=0.997',
            f'--config.optimizer.learning_rate={rate}',
        ]
        if encoder in session.names:
            found += [f'--config.init.feature_encoder={session.folder(encoder)}']
        if initializer in session.names and row != 'without_p':
            found += [f'--config.init.pose_initializer={session.folder(initializer)}']
        return found

    return settings


def make_jobs(args: argparse.Namespace) -> list[Job]:
    small, full = args.preset, args.full
    claim = ('kimnet', 'kimnet_none', 'without_p', 'kimnet_dkd', 'kimnet_jrpsp')
    return [
        Job('lsp', 'pretrain', 'lsp/extended', pretraining(f'preset={small}', args.pretrain_epochs, 128, 2e-3)),
        *(
            Job(
                f'choose_{key}',
                'choose',
                'sub_jhmdb/fold1_development',
                kimnet('without_p', '1_development', choice=key),
                ('lsp',),
            )
            for key in CHOICES
        ),
        Job('choose_kmm', 'choose', 'sub_jhmdb/fold1_development', kimnet('kimnet', '1_development', choice='a'), ('lsp',)),
        *(
            Job(f'ship_fold{fold}', 'ship', f'sub_jhmdb/fold{fold}', kimnet('without_p', str(fold)), ('lsp',))
            for fold in (1, 2, 3)
        ),
        *(
            Job(f'claim_{row}_seed{seed}', 'claim', 'sub_jhmdb/fold1', kimnet(row, '1', seed), ('lsp',))
            for seed in range(3)
            for row in claim
            if (row, seed) != ('without_p', 0)  # that is ship_fold1
        ),
        Job('full_lsp50', 'full', 'lsp/extended', pretraining(f'depth=50,preset={full}', args.full_epochs, 64, 1e-3)),
        Job('full_lsp101', 'full', 'lsp/extended', pretraining(f'depth=101,preset={full}', args.full_epochs, 64, 1e-3)),
        *(
            Job(
                f'full_{row}',
                'full',
                'sub_jhmdb/fold1',
                kimnet(row, '1', preset=full, choice='a', initializer='full_lsp101', encoder='full_lsp50'),
                ('full_lsp50', 'full_lsp101'),
            )
            for row in ('kimnet', 'kimnet_none')
        ),
    ]


def start(job: Job, session: Session) -> subprocess.Popen[bytes]:
    """Training and, once it has ended, its evaluation, in a process group of their own."""
    folder, data_dir = session.folder(job.name), session.data_dir(job.data)
    folder.mkdir(parents=True, exist_ok=True)
    train = [
        *(sys.executable, '-m', 'kimnet_jax.train', f'--workdir={folder}', *job.settings(session)),
        f'--config.dataset.data_dir={data_dir}',
        '--config.train.save_every=1000000',
        '--config.train.eval_every=1000000',
        f'--config.loader.workers={session.args.workers if job.group != "pretrain" else 3 * session.args.workers}',
        '--config.loader.threads=2',
        *session.args.settings,
    ]
    evaluate = [sys.executable, '-m', 'kimnet_jax.evaluate', f'--workdir={folder}', '--checkpoint=last']
    if job.data.startswith('sub_jhmdb'):
        evaluate += [f'--predictions={folder / "poses.npz"}']
    script = f'{shell(train)} && {shell(evaluate)}'
    with (folder / 'log.txt').open('ab') as log:
        log.write(f'{script}\n'.encode())
        log.flush()
        environment = {**os.environ, 'JAX_PLATFORMS': PLATFORMS, 'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
        return subprocess.Popen(
            ['bash', '-c', script],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )


def shell(command: list[str]) -> str:
    return ' '.join("'" + part.replace("'", "'\\''") + "'" for part in command)


def finish(job: Job, session: Session, seconds: float) -> float | None:
    """Collects what a run has left; its metric, None where it failed."""
    folder, out = session.folder(job.name), session.out / job.name
    records = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    evaluations = [record for record in records if record['kind'] == 'eval']
    metric = float(evaluations[-1][METRIC])
    out.mkdir(parents=True, exist_ok=True)
    for file in (
        *(folder / name for name in ('config.json', 'metrics.jsonl', 'poses.npz', 'log.txt')),
        *folder.glob('evaluation/*'),
    ):
        if file.is_file():
            shutil.copy(file, out)
    if job.group != 'full':
        from kimnet_jax.tasks.trained import open_run, pack

        pack(open_run(folder, 'last'), session.out / f'{job.name}.safetensors')
    (folder / 'evaluated.json').write_text(json.dumps({'metric': metric, 'seconds': seconds}))
    return metric


def run(args: argparse.Namespace) -> int:
    session = Session(args)
    session.out.mkdir(parents=True, exist_ok=True)
    jobs = [job for job in make_jobs(args) if job.group in args.only and (not args.names or job.name in args.names)]
    session.names = {job.name for job in jobs}
    began, deadline = time.monotonic(), time.monotonic() + args.seconds
    waiting = collections.deque(jobs)
    running: dict[Job, tuple[subprocess.Popen[bytes], float]] = {}
    for job in jobs:
        if (metric := session.result(job.name)) is not None:
            session.ended[job.name] = metric
            waiting.remove(job)

    def ready(job: Job) -> bool:
        needed = [name for name in job.after if name in session.names]
        if job.group in ('ship', 'claim'):
            needed += [other.name for other in jobs if other.group == 'choose']
        return all(name in session.ended for name in needed) and session.data_dir(job.data) is not None

    def report() -> None:
        summary = {'chosen': session.chosen(), 'metric': METRIC, 'jobs': session.told}
        (session.out / 'summary.json').write_text(json.dumps(summary, indent=1) + '\n')

    while (waiting or running) and time.monotonic() < deadline:
        for job in [job for job in waiting if ready(job)]:
            if len(running) < args.jobs:
                waiting.remove(job)
                running[job] = (start(job, session), time.monotonic())
                print(f'{time.monotonic() - began:6.0f} s  begins {job.name}', flush=True)
        for job, (process, at) in [*running.items()]:
            if process.poll() is None:
                continue
            del running[job]
            seconds, metric = time.monotonic() - at, None
            if process.returncode == 0:
                metric = finish(job, session, seconds)
                print(f'{time.monotonic() - began:6.0f} s  {job.name}: {METRIC} {metric:.4f} after {seconds:.0f} s', flush=True)
            else:
                tail = (session.folder(job.name) / 'log.txt').read_text(errors='replace').splitlines()[-12:]
                print(
                    f'{time.monotonic() - began:6.0f} s  {job.name} FAILED, status {process.returncode}',
                    *tail,
                    sep='\n    ',
                    flush=True,
                )
            session.ended[job.name] = metric
            session.told[job.name] = {'metric': metric, 'seconds': round(seconds, 1), 'status': process.returncode}
            report()
        time.sleep(0.2)
    for process, _ in running.values():
        os.killpg(process.pid, signal.SIGTERM)
    for job, (process, at) in running.items():
        process.wait()
        session.told[job.name] = {'metric': None, 'seconds': round(time.monotonic() - at, 1), 'status': 'stopped'}
        print(f'stopped: {job.name}', flush=True)
    for job in waiting:
        session.told[job.name] = {'metric': None, 'seconds': 0, 'status': 'not begun'}
    report()
    return 0 if not waiting and None not in session.ended.values() and not running else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=pathlib.Path, action='append', required=True, help='a data_dir; may be given again')
    parser.add_argument('--work', type=pathlib.Path, required=True)
    parser.add_argument('--out', type=pathlib.Path, required=True)
    parser.add_argument('--seconds', type=float, default=500, help='for everything; what runs then is stopped')
    parser.add_argument('--preset', default='medium', help='size of the networks that are to be shipped and compared')
    parser.add_argument('--full', default='full', help='size of the networks of the group full')
    parser.add_argument('--only', default=','.join(GROUPS), help='groups, separated by commas')
    parser.add_argument('--names', default='', help='some jobs of these groups, separated by commas')
    parser.add_argument('--jobs', type=int, default=5, help='trainings at a time')
    parser.add_argument('--workers', type=int, default=3, help='loader processes of a training; pretraining has thrice as many')
    parser.add_argument('--pretrain_epochs', type=float, default=120)
    parser.add_argument('--full_epochs', type=float, default=10)
    parser.add_argument('--length', type=float, default=1.0, help='factor of all numbers of epochs')
    args, args.settings = parser.parse_known_args()
    args.only, args.names = args.only.split(','), args.names and args.names.split(',')
    if unknown := [group for group in args.only if group not in GROUPS]:
        parser.error(f'--only {unknown[0]}: choose some of {", ".join(GROUPS)}')
    return run(args)


if __name__ == '__main__':
    sys.exit(main())
