"""`kimnet doctor DATASET PATH [--pixels] [--json FILE]`: checks a download, or a built data set.

A download: PATH is the folder that a build would get as --manual_dir, with the archives or the unpacked folders. Lists,
annotations and names of frames are read; with --pixels every frame is decoded.

A built data set: PATH is the --data_dir, DATASET a name or NAME/CONFIG. Every byte is compared with the checksums of the build,
and every record with the tables. All problems are listed, not only the first one.

Exit status: 0 no problems (warnings are what a build corrects or keeps), 1 problems, 2 the check could not run.
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Sequence

import tqdm

from kimnet_jax.core.command import run_command
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import work_folder, write_text
from kimnet_jax.data_pipelines.builders import BUILDERS, import_inspect
from kimnet_jax.data_pipelines.findings import Check, Finding, Report, attempt, summarise
from kimnet_jax.data_pipelines.inspect_built import built_folders, inspect_built
from kimnet_jax.data_pipelines.sides import judge_sides

ERRORS_SHOWN = 50


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog='kimnet doctor', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('dataset', metavar='DATASET', help=', '.join(BUILDERS))
    parser.add_argument(
        'path', metavar='PATH', type=pathlib.Path, help='the folder with the download, or the --data_dir of built data sets'
    )
    parser.add_argument(
        '--pixels', action='store_true', help='decode every frame; takes minutes and unpacks archives into TMPDIR'
    )
    parser.add_argument('--json', metavar='FILE', type=pathlib.Path, help='also write the findings to this file')
    return parser


def main(argv: Sequence[str]) -> int:
    """Checks what the command line (`argv[0]` is the program) asks for; returns the exit status. Raises `InputError`."""
    args = make_parser().parse_args(argv[1:])
    root = args.path.expanduser()
    if not root.is_dir():
        raise InputError(f'{root}: {"not a folder" if root.exists() else "no such folder"}; give the one that holds the download')
    if args.json and (args.json.is_dir() or not os.access(args.json.parent, os.W_OK)):
        raise InputError(f'--json {args.json}: a folder, or in one that cannot be written to')
    built = built_folders(args.dataset, root)
    if '/' in args.dataset and not built:
        raise InputError(f'{root}: no built data set {args.dataset} there; give the folder that it was built in as --data_dir')
    report = examine_built(built, args.pixels) if built else examine(args.dataset, root, args.pixels)
    sound = not any(finding.level == 'error' for finding in report.findings)
    _print(report)
    print(f'{args.dataset} in {root}: {"sound" if sound else "has problems"}{"" if args.pixels else " (frames not decoded)"}')
    if args.json:
        _write_json(args.json, {'dataset': args.dataset, 'path': str(root), 'pixels': args.pixels, 'sound': sound}, report)
    return 0 if sound else 1


def examine(dataset: str, root: pathlib.Path, pixels: bool) -> Report:
    """All that is found in the download of a data set in `root`, with the counts of all its clips."""
    inspect = import_inspect(dataset)
    findings: list[Finding] = []
    counts: collections.Counter[str] = collections.Counter()
    official: dict[str, int] = {}
    with work_folder(pathlib.Path(tempfile.gettempdir()), 'doctor') as folder:
        scratch = str(folder)
        whole = attempt(findings, str(root), inspect, root, folder, pixels)
        for report in () if whole is None else (whole[0], *_run(whole[1])):
            findings += report.findings
            counts.update(report.counts)
            official |= report.official
    findings += judge_sides(counts)
    findings = [dataclasses.replace(finding, text=finding.text.replace(scratch, str(root))) for finding in findings]
    differing = sum(counts[what] != number for what, number in official.items())
    if differing:
        findings.append(Finding('warning', str(root), 'counts are not those of the whole release', differing))
    return Report(findings, {what: counts[what] for what in (*official, *counts)}, official)


def examine_built(folders: Sequence[pathlib.Path], pixels: bool) -> Report:
    """All that is found in built data sets, `<data_dir>/<name>/<config>/<version>`, with the counts of all their clips."""
    findings: list[Finding] = []
    counts: collections.Counter[str] = collections.Counter()
    for folder in folders:
        whole, checks = inspect_built(folder, pixels)
        for report in (whole, *_run(checks)):
            findings += report.findings
            counts.update(report.counts)
    return Report(findings, dict(counts))  # what `asdict` copies a Counter to is none


def _run(checks: Sequence[Check]) -> list[Report]:
    """What the checks return, in their order, from threads: decoding releases the interpreter's lock."""
    with (
        concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool,
        tqdm.tqdm(total=len(checks), unit=' clips', disable=None) as progress,
    ):
        reports = []
        for report in pool.map(_guarded, checks):
            reports.append(report)
            progress.update()
        return reports


def _guarded(check: Check) -> Report:
    findings: list[Finding] = []
    return attempt(findings, '', check) or Report(findings)


def _print(report: Report) -> None:
    if report.counts:
        width = max(map(len, report.counts))
        print(f'{"":{width}} {"found":>9} {"release":>9}')
        for what, number in report.counts.items():
            official = f'{report.official[what]:,}' if what in report.official else ''
            print(f'{what:{width}} {number:9,} {official:>9}')
    errors = [finding.text for finding in report.findings if finding.level == 'error']
    for text in errors[:ERRORS_SHOWN]:
        print(f'error    {text}')
    if len(errors) > ERRORS_SHOWN:
        print(f'error    ... {len(errors) - ERRORS_SHOWN} more; --json FILE lists them all')
    for line in summarise(finding for finding in report.findings if finding.level == 'warning'):
        print(f'warning  {line}')


def _write_json(path: pathlib.Path, head: dict[str, object], report: Report) -> None:
    write_text(path, json.dumps(head | dataclasses.asdict(report), indent=1) + '\n')


if __name__ == '__main__':
    run_command(main, sys.argv)
