"""The launch scripts, with stand-ins for the tools of schedulers and clouds that write down what they are asked for."""

import os
import pathlib
import subprocess

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
LAUNCH = ROOT / 'launch'
FLAGS = ('--config=configs/sub_jhmdb.py:fold=1', '--workdir=gs://bucket/a run', '--config.dataset.data_dir=gs://bucket/data')
IMAGE = 'europe-docker.pkg.dev/project/repository/kimnet:tpu'


@pytest.fixture
def script(tmp_path):
    """Runs a script of `launch/`; `tools`: name -> what it does, in bash, after its arguments were written to `<name>.said`."""

    def run(name: str, tools: dict[str, str], **environ: str) -> subprocess.CompletedProcess:
        folder = tmp_path / 'tools'
        folder.mkdir(exist_ok=True)
        for tool, does in tools.items():
            file = folder / tool
            file.write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" "$*" >> {tmp_path}/{tool}.said\n{does}\n')
            file.chmod(0o755)
        return subprocess.run(
            ['bash', str(LAUNCH / name), *FLAGS],
            env={'PATH': f'{folder}:{os.environ["PATH"]}', 'HOME': str(tmp_path), **environ},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )

    run.said = lambda tool: (tmp_path / f'{tool}.said').read_text().splitlines() if (tmp_path / f'{tool}.said').exists() else []
    return run


@pytest.mark.parametrize(
    ('status', 'restarts', 'queued'),
    [(0, 0, False), (2, 0, False), (75, 0, True), (143, 3, True), (137, 19, True), (75, 20, False)],
)
def test_slurm_queues_a_job_again_that_would_go_on(status, restarts, queued, script, tmp_path):
    job = {'SLURM_SUBMIT_DIR': str(tmp_path), 'SLURM_JOB_ID': '17', 'SLURM_RESTART_COUNT': str(restarts)}
    done = script('slurm.sbatch', {'srun': f'exit {status}', 'scontrol': ''}, **job, IMAGE='kimnet.sif')
    assert done.returncode == status, done.stderr
    assert script.said('scontrol') == (['requeue 17'] if queued else [])
    (line,) = script.said('srun')
    assert 'apptainer exec --nv kimnet.sif python -m kimnet_jax.train --distributed' in line
    assert line.endswith(' '.join(FLAGS))


def test_slurm_takes_the_environment_of_the_checkout(script, tmp_path):
    done = script('slurm.sbatch', {'srun': ''}, SLURM_SUBMIT_DIR=str(tmp_path), SLURM_JOB_ID='17')
    assert done.returncode == 0, done.stderr
    assert ' .venv/bin/python -m kimnet_jax.train' in script.said('srun')[0]


GCLOUD = 'bash -c "${@: -1}"'  # the worker is this machine
SUDO = 'while [[ $1 == --* ]]; do shift; done; "$@"'


@pytest.mark.parametrize(('statuses', 'status', 'runs'), [('75 0', 0, 2), ('2', 2, 1), ('143', 143, 1), ('75 137 75', 75, 3)])
def test_a_tpu_vm_starts_again_what_would_go_on(statuses, status, runs, script, tmp_path):
    (tmp_path / 'statuses').write_text('\n'.join(statuses.split()) + '\n')
    docker = f'[[ $1 == run ]] || exit 0; read -r now < {tmp_path}/statuses; sed -i 1d {tmp_path}/statuses; exit $now'
    tools = {'gcloud': GCLOUD, 'sudo': SUDO, 'docker': docker, 'sleep': ''}
    done = script('tpu_pod.sh', tools, TPU='pod', ZONE='here', IMAGE=IMAGE, RESTARTS='2')
    assert done.returncode == status, done.stderr
    pulled, *started = script.said('docker')
    assert pulled == f'pull --quiet {IMAGE}'
    assert len(started) == runs
    for line in started:
        assert line.startswith('run --rm --privileged --net=host')
        assert line.endswith(f'--entrypoint python {IMAGE} -m kimnet_jax.train --distributed ' + ' '.join(FLAGS))


def test_a_tpu_vm_without_an_image_takes_a_clone(script):
    git = 'mkdir -p "${@: -1}/.venv/bin"; printf "#!/usr/bin/env bash\\necho \\"\\$@\\"\\n" > "${@: -1}/.venv/bin/python"; '
    git += 'chmod +x "${@: -1}/.venv/bin/python"'
    done = script('tpu_pod.sh', {'gcloud': GCLOUD, 'git': git}, TPU='pod', ZONE='here', REPOSITORY='https://host/kimnet.git')
    assert done.returncode == 0, done.stderr
    assert script.said('git') == ['clone --quiet --branch main https://host/kimnet.git kimnet_jax']
    assert done.stdout.splitlines()[-1] == '-m kimnet_jax.train --distributed ' + ' '.join(FLAGS)


def test_xpk_starts_again_after_a_lost_process(script):
    where = {'CLUSTER': 'c', 'ZONE': 'z', 'PROJECT': 'p', 'WORKLOAD': 'w', 'TPU_TYPE': 'v5litepod-16'}
    done = script('xpk.sh', {'xpk': 'bash -c "${@: -1}"', 'python': 'exit 75'}, **where, IMAGE=IMAGE)
    assert done.returncode == 75, done.stderr
    (line,) = script.said('xpk')
    for part in (f'--docker-image {IMAGE}', '--max-restarts 10', '--restart-on-exit-codes 75', '--tpu-type v5litepod-16'):
        assert part in line
    assert script.said('python') == ['-m kimnet_jax.train --distributed ' + ' '.join(FLAGS)]


@pytest.mark.parametrize('name', ['tpu_pod.sh', 'xpk.sh'])
def test_what_is_not_given_is_named(name, script):
    done = script(name, {})
    assert done.returncode != 0
    assert ': name of the ' in done.stderr


def test_the_jobset_starts_all_pods_again_unless_the_input_is_bad():
    spec = yaml.safe_load((LAUNCH / 'gke_jobset.yaml').read_text())['spec']
    assert spec['failurePolicy']['maxRestarts'] > 0
    assert spec['failurePolicy']['rules'] == [{'action': 'FailJobSet', 'onJobFailureReasons': ['PodFailurePolicy']}]
    job = spec['replicatedJobs'][0]['template']['spec']
    assert job['backoffLimit'] == 0
    pod = job['template']['spec']
    (container,) = pod['containers']
    (rule,) = job['podFailurePolicy']['rules']
    assert rule['action'] == 'FailJob'
    assert rule['onExitCodes'] == {'containerName': container['name'], 'operator': 'In', 'values': [2]}
    assert pod['restartPolicy'] == 'Never'  # which a podFailurePolicy asks for
    assert container['image'].endswith('/kimnet:tpu')
    assert '--workdir=gs://BUCKET/runs/fold1' in container['args']
