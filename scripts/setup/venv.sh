#!/usr/bin/env bash
# Make a virtual environment with lazyvid (editable) and everything its tests need, in the versions of constraints.txt.
#
#   PYTHON=python3 scripts/setup/venv.sh .venv
#
# TORCH_INDEX: URL of an index to take torch from. Without it torch comes from pip's usual index; where that serves
# the CUDA build, name PyTorch's index of CPU builds here and several GB are not downloaded.
set -euo pipefail

venv=${1:?usage: venv.sh DIRECTORY}
python=${PYTHON:-python3}
cd "$(dirname "$0")/../.."

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    found=$("$python" --version 2>/dev/null) || found="not there"
    echo "error: lazyvid needs Python 3.11 or later; '$python' is $found. Name another: make venv PYTHON=python3.11" >&2
    exit 1
fi

# Debian splits ensurepip off into python3-venv, without which `python3 -m venv` fails half way.
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "Installing Debian's python3-venv"
        apt-get -qq update >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y python3-venv >/dev/null
    else
        echo "error: '$python' has no ensurepip; install it first (on Debian: sudo apt-get install python3-venv)." >&2
        exit 1
    fi
fi

# One whose Python has moved or was only half made is made anew.
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "Making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
fi

# Modules are compiled when they are first imported: most of torch's and pyarrow's never are.
pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet install --no-compile --constraint constraints.txt)
# torch first and alone: it may come from an index of its own, and it is the largest part.
echo "Installing torch"
"${pip[@]}" ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch setuptools
echo "Installing the other packages"
# setuptools is there already, so that building lazyvid needs no environment (and no unpinned version) of its own.
"${pip[@]}" --no-build-isolation --editable '.[dev]'
# What every process imports is compiled now, also where PYTHONDONTWRITEBYTECODE is set: torch alone costs each start of a
# worker a second otherwise.
env -u PYTHONDONTWRITEBYTECODE "$venv/bin/python" - <<'PY'
import importlib

import torch

for name in ("lazyvid.cli", "lazyvid.training.datamodule", "lance", "pyarrow.parquet", "s3fs", "hypothesis", "pytest"):
    importlib.import_module(name)
print(f"Ready: torch {torch.__version__}, CUDA {'available' if torch.cuda.is_available() else 'not available'}")
PY
