#!/usr/bin/env bash
# Checks the project on a GPU, in 9 minutes at most. Prints a line for each check, and why it failed.
#
#   tests/gpu_check.sh [FOLDER]     logs and the benchmarks' tables (JSON) go to FOLDER; default: .gpu_check
#
# $PYTHON (default: python3) has this project's dependencies, with PyTorch 2.11 or newer for CUDA; a CUDA toolkit of the
# same major version is installed. Exit status: 0 if every check passed, 1 if not, 2 where there is no GPU.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

readonly SECONDS_IN_ALL=540
python=${PYTHON:-python3}
folder=${1:-.gpu_check}

if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    echo "gpu_check: $python finds no PyTorch with a CUDA GPU here" >&2
    exit 2
fi
mkdir -p "$folder"
export PYTHONPATH=$PWD
status=0

# check NAME LIMIT COMMAND...: runs the command, for LIMIT seconds at most.
check() {
    local name=$1 limit=$2 left=$((SECONDS_IN_ALL - SECONDS)) start=$SECONDS result=passed log code=0
    shift 2
    log=$folder/${name// /_}.log
    ((limit > left)) && limit=$left
    if ((limit <= 0)); then
        echo "$name: not run, the time is up"
        status=1
        return
    fi
    timeout "$limit" "$@" >"$log" 2>&1 || code=$?
    if ((code == 124)); then
        result="stopped after $limit s"
    elif ((code != 0)); then
        result="failed with status $code"
    elif grep -q ' skipped' "$log" && ! grep -q ' passed' "$log"; then
        result=skipped
    fi
    echo "$name: $result, $((SECONDS - start)) s, $log"
    if [[ $result != passed ]]; then
        status=1
        tail -n 5 "$log"
    fi
}

pytest=("$python" -m pytest -q -p no:cacheprovider)
"$python" -c 'import torch; print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}")'
check "build" 240 "$python" -c 'from pilot.ops import build; print([build.load(x).build_facts() for x in ("cpu", "cuda")])'
check "operators" 120 "${pytest[@]}" tests/ops/test_cuda.py -k "not sweep and not sanitizer"
check "sweeps of every family" 60 "${pytest[@]}" tests/ops/test_cuda.py -k sweep
check "memcheck" 90 "${pytest[@]}" tests/ops/test_cuda.py -k "sanitizer and memcheck"
check "racecheck" 90 "${pytest[@]}" tests/ops/test_cuda.py -k "sanitizer and racecheck"
check "benchmarks" 120 "${pytest[@]}" tests/benchmarks/test_cuda_attention.py \
    --benchmark-enable --benchmark-json="$folder/attention.json"
check "exhaustive sweep" 120 "${pytest[@]}" tests/benchmarks/test_cuda_sweep.py \
    --benchmark-enable --benchmark-json="$folder/sweep.json"

sed -E 's/^( +train_size:) [0-9]+/\1 60000/; s/^( +num_epochs:) [0-9]+/\1 1/' params.yaml >"$folder/params.yaml"
check "data" 60 "$python" -m stages.generate --config "$folder/params.yaml" --output-dir "$folder/data"
check "training" 90 "$python" -m stages.train --config "$folder/params.yaml" --data-dir "$folder/data" \
    --output-dir "$folder/runs" --device cuda
exit "$status"
