"""A run of the whole pipeline, with tiny parameters, in a clone of the project; what it writes is pinned."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from support.docs import commands, section_of
from support.project import ROOT, no_compiler, write_params

from pilot.experiments.trajectory import MEASURES
from pilot.models.checkpoint import read_checkpoint

STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]

# Instructions that every x86-64 processor has, and one order of summation: the same bits on all of them.
PORTABLE_ARITHMETIC = {
    "OMP_NUM_THREADS": "1",
    "PILOT_CPU_CAPABILITY": "generic",
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
}
PINNED = Path(__file__).with_name("pinned.json")
PACKAGES = ("torch", "numpy", "scipy")


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """The project's files as they are in the working tree, committed in a new repository, with tiny parameters.

    The pipeline of language models has a test of its own.
    """
    folder = tmp_path_factory.mktemp("clone") / "project"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name.startswith(("language/", "metrics/language")) or name == "dvc.lock":
            continue
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    write_params(folder / "params.yaml")
    _run(folder, "git", "init", "-q")
    _run(folder, "git", "config", "user.name", "test")
    _run(folder, "git", "config", "user.email", "test@example.org")
    _commit(folder)
    return folder


def _environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        **PORTABLE_ARITHMETIC,
    }


def _run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=_environment(folder), capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _dvc(folder: Path, *arguments: str) -> str:
    return _run(folder, sys.executable, "-m", "dvc", *arguments)


def _commit(folder: Path) -> None:
    _run(folder, "git", "add", "-A")
    _run(folder, "git", "commit", "-qm", "run")


def test_repro_makes_everything_once(clone):
    assert "Running stage 'report'" in _dvc(clone, "repro")
    for stage in STAGES.values():
        for section in ("outs", "metrics", "plots"):
            for out in stage.get(section, ()):
                assert (clone / (out if isinstance(out, str) else next(iter(out)))).exists()
    assert json.loads((clone / "metrics/train.json").read_text())["test"]["paren"]["exact_match"] > 0
    _commit(clone)
    assert _run(clone, "git", "status", "--short") == ""
    assert "up to date" in _dvc(clone, "status")
    assert "Running stage" not in _dvc(clone, "repro")

    shown = json.loads(_dvc(clone, "metrics", "show", "--json"))
    assert set(shown[""]["data"]) == {f"metrics/{name}.json" for name in ("train", "summary", "seeds")}


def _sha256(path: Path) -> str:
    """Of what a run writes: of a checkpoint the weights, of metrics all but the seconds that it took."""
    digest = hashlib.sha256()
    if path.suffix == ".pt":
        for name, weights in sorted(read_checkpoint(path)["model"].items()):
            digest.update(name.encode() + weights.numpy().tobytes())
    elif path.suffix == ".csv":
        with path.open(newline="") as file:
            rows = [{**row, "seconds": None} for row in csv.DictReader(file)]
        digest.update(json.dumps(rows).encode())
    elif path.suffix == ".json":
        digest.update(json.dumps({**json.loads(path.read_text()), "seconds": None}).encode())
    else:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def test_the_bytes_of_the_run_are_pinned(clone):
    """A change that is meant to change nothing changes none of them: data, weights, metrics.

    After one that is meant to: `REPIN=1 python -m pytest tests/pipeline/test_pipeline.py -k pinned`. The bits are those
    of the versions in constraints.txt on x86-64 Linux with the operators built. They do not depend on the size of the
    caches, which decides how many rows a sweep computes at a time, nor on the number of cores.
    """
    if reason := no_compiler():
        pytest.skip(reason)
    made_with = {"machine": f"{platform.system()} {platform.machine()}", **{name: version(name) for name in PACKAGES}}
    pinned = json.loads(PINNED.read_text())
    repin = "REPIN" in os.environ
    if made_with != pinned["made_with"] and not repin:
        pytest.skip(f"pinned with {pinned['made_with']}, this is {made_with}")
    _reproduced(clone)
    written = [*clone.glob("data/*.jsonl"), *clone.glob("runs/pilot/*.pt")]
    written += [path for path in clone.glob("metrics/**/*.*") if path.suffix in (".json", ".csv")]
    for name in ("seeds", "benchmark", "peers"):  # which other commands write
        written.remove(clone / f"metrics/{name}.json")
    found = {path.relative_to(clone).as_posix(): _sha256(path) for path in sorted(written)}
    if repin:
        PINNED.write_text(json.dumps({"made_with": made_with, "sha256": found}, indent=2) + "\n")
    else:
        assert found == pinned["sha256"]


def test_dvc_draws_the_heads_by_the_committed_template(clone):
    shown = json.loads(_dvc(clone, "plots", "show", "--json"))["data"]
    content = json.dumps(shown["Heads"][0]["content"])
    assert "<DVC_METRIC" not in content
    assert '"layer": "0", "head": "1", "measure": "mean ablation, parenthesised"' in content
    assert "metrics/figures/ablation_mean.png" in shown


def _reproduced(clone: Path) -> None:
    if not (clone / "dvc.lock").exists():
        _dvc(clone, "repro")
        _commit(clone)


def _checkpoints_in_lock(clone: Path) -> dict:
    outs = YAML(typ="safe").load(clone / "dvc.lock")["stages"]["train"]["outs"]
    return next(out for out in outs if out["path"] == "runs/pilot")


@pytest.mark.skipif(os.name == "nt", reason="process groups of POSIX")
def test_a_killed_repro_of_training_goes_on_to_the_same_checkpoints(clone):
    _reproduced(clone)
    whole, state = _checkpoints_in_lock(clone), clone / "runs/.state/pilot.pt"
    command = [sys.executable, "-m", "dvc", "repro", "--force", "--single-item", "train"]
    process = subprocess.Popen(
        command, cwd=clone, env=_environment(clone), start_new_session=True, stdout=subprocess.DEVNULL
    )
    while not state.exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert "Resuming after epoch " in _run(clone, *command)
    assert _checkpoints_in_lock(clone) == whole
    assert not state.parent.exists()
    _run(clone, "git", "checkout", "--quiet", ".")  # the seconds in metrics/


def _pull_into_another_clone(clone: Path, another: Path, options: dict[str, str]) -> None:
    """Push to a remote, pull it in a new clone, and see that nothing is left to compute there."""
    _reproduced(clone)
    _run(clone, "git", "clone", "--quiet", str(clone), str(another))
    for folder in (clone, another):
        for name, value in options.items():
            _dvc(folder, "config", "--local", name, value)
    assert "pushed" in _dvc(clone, "push")
    _dvc(another, "pull")
    assert "Running stage" not in _dvc(another, "repro")
    assert _run(another, "git", "status", "--short") == ""
    pushed, pulled = (folder / "runs/pilot/checkpoint_best.pt" for folder in (clone, another))
    assert pulled.read_bytes() == pushed.read_bytes()


def test_a_clone_that_pulls_from_a_folder_recomputes_nothing(clone, tmp_path):
    _pull_into_another_clone(
        clone, tmp_path / "another", {"core.remote": "folder", "remote.folder.url": str(tmp_path / "remote")}
    )


def test_a_clone_that_pulls_over_s3_recomputes_nothing(clone, tmp_path, monkeypatch):
    why = 'an S3 server for tests is not installed: pip install -e ".[s3]"'
    pytest.importorskip("dvc_s3", reason=why)
    boto3 = pytest.importorskip("boto3", reason=why)
    moto = pytest.importorskip("moto.server", reason=why)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    keys = {"region_name": "us-east-1", "aws_access_key_id": "test", "aws_secret_access_key": "test"}
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    try:
        server.start()
    except OSError as error:
        pytest.skip(f"a server cannot listen on loopback here ({error})")
    try:
        url = "http://{}:{}".format(*server.get_host_and_port())
        boto3.client("s3", endpoint_url=url, **keys).create_bucket(Bucket="pilot")
        remote = {
            "url": "s3://pilot/store",
            "endpointurl": url,
            "region": keys["region_name"],
            "access_key_id": keys["aws_access_key_id"],
            "secret_access_key": keys["aws_secret_access_key"],
        }
        options = {f"remote.s3.{name}": value for name, value in remote.items()}
        _pull_into_another_clone(clone, tmp_path / "another", {"core.remote": "s3", **options})
    finally:
        server.stop()


def test_the_documented_commands_compare_checkpoints_without_training(clone):
    _reproduced(clone)
    output = {}
    for command in commands(section_of("docs/checkpoints.md", "Checkpoints")):
        early_and_late = command.replace("020", "003").replace("005", "002")  # what there is in the clone
        output[command] = _run(clone, "sh", "-c", early_and_late)
        if "exp run" in command:
            assert "Stage 'train' didn't change, skipping" in output[command]
            assert "Running stage 'counterfactual'" in output[command]
    assert _run(clone, "git", "status", "--short") == ""
    for metric in ("accuracy.paren", "impact.L0H0"):
        assert metric in output["dvc metrics diff epoch-005 epoch-020"]
    (detailed,) = (shown for command, shown in output.items() if "--targets" in command)
    assert "effects.regroup.denoising.L2H2.recovery.low" in detailed

    diff = json.loads(_dvc(clone, "metrics", "diff", "--all", "--json", "epoch-002", "epoch-003"))
    numbers = diff["metrics/summary.json"]
    assert numbers["accuracy.paren"]["diff"] > 0, "it has learned between the epochs"
    for direction in ("denoising", "noising"):
        for name in (f"recovery.{direction}.L2H2", f"sets.regroup.{direction}.recovery", f"shapley.{direction}.L2H2"):
            assert numbers[name]["new"] is not None
    _run(clone, "git", "tag", "tagged")
    assert json.loads(_dvc(clone, "metrics", "diff", "--all", "--json", "epoch-002", "tagged")).keys() >= diff.keys()


def test_a_checkpoint_that_training_does_not_keep_is_named(clone):
    _reproduced(clone)
    message = r"error: runs/pilot/checkpoint_epoch_009\.pt: no such checkpoint; .*train\.snapshot_epochs"
    try:
        with pytest.raises(AssertionError, match=message):
            _dvc(clone, "exp", "run", "-S", "analysis.checkpoint=epoch_009")
    finally:
        _run(clone, "git", "restore", ".")


def test_the_plot_of_the_trajectory_draws_every_head(clone):
    _reproduced(clone)
    shown = json.loads(_dvc(clone, "plots", "show", "--json", "metrics/trajectory.csv"))
    (plot,) = shown["data"]["metrics/trajectory.csv"]
    encoding = plot["content"]["spec"]["encoding"]
    assert [encoding[channel]["field"] for channel in ("x", "y", "color")] == ["epoch", "value", "head"]
    drawn = {(row["head"], row["measure"]) for row in plot["content"]["data"]["values"] if row["head"]}
    assert drawn == {(f"L{i}H{j}", measure) for i in range(3) for j in range(3) for measure in MEASURES}


def test_an_experiment_changes_a_parameter_and_can_be_compared(clone):
    _reproduced(clone)
    _dvc(clone, "exp", "run", "-n", "longer", "-S", "train.num_epochs=4")
    with (clone / "metrics/training.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4
    diff = json.loads(_dvc(clone, "metrics", "diff", "--json"))["metrics/train.json"]
    assert "test.paren.exact_match" in diff or "best_epoch" in diff
    named = json.loads(_dvc(clone, "metrics", "diff", "--json", "HEAD", "longer"))
    assert named["metrics/train.json"] == diff


def test_a_failing_stage_says_why_and_stops(clone):
    text = (clone / "params.yaml").read_text()
    try:
        (clone / "params.yaml").write_text(text.replace("batch_size: 64", "batch_size: none"))
        with pytest.raises(AssertionError, match=r"params.yaml: train.batch_size: must be a valid integer, not 'none'"):
            _dvc(clone, "repro", "train")
    finally:
        (clone / "params.yaml").write_text(text)
