#!/usr/bin/env bash
# Install what is missing, and say what is being done. A second call finds nothing to do and returns at once.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=.venv
STAMP=$VENV/.mlipal-setup
PSEUDOS=/usr/share/espresso/pseudo
CP2K_DATA=/usr/share/cp2k
PYTHON=${PYTHON:-python3}
PATH=${PATH//"$PWD/$VENV/bin:"/}  # the Python that makes an environment is not the one inside it

say() { printf '==> %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# -- packages of the distribution: Quantum ESPRESSO and CP2K with their data, Python's venv ----------------------

missing_packages() {
    command -v pw.x >/dev/null || echo quantum-espresso
    [ -d "$PSEUDOS" ] || echo quantum-espresso-data
    command -v cp2k.psmp >/dev/null || echo cp2k
    [ -d "$CP2K_DATA" ] || echo cp2k-data
    # A virtual environment that is already there needs neither of these.
    [ -x "$VENV/bin/python" ] && return
    command -v "$PYTHON" >/dev/null || echo python3
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
}

install_packages() {
    local packages=("$@") sudo=()
    local advice="install these packages and call make again: ${packages[*]}"
    command -v apt-get >/dev/null || die "this is no Debian or Ubuntu (apt-get is missing); $advice"
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "you are not root and there is no sudo; $advice
    as root: apt-get install ${packages[*]}"
        sudo=(sudo)
        [ -t 0 ] || sudo=(sudo -n)  # nobody can type a password: fail at once instead of waiting for one
    fi
    say "installing Debian packages (apt-get): ${packages[*]}"
    local as_root=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive)
    "${as_root[@]}" apt-get update -qq || die "apt-get update failed; $advice"
    "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null \
        || die "apt-get install failed; $advice"
}

mapfile -t packages < <(missing_packages)
[ "${#packages[@]}" -eq 0 ] || install_packages "${packages[@]}"

# -- Python packages, in a virtual environment -------------------------------------------------------------------

# The stamp names what was installed and where; any change of it means that the installation is to be done again.
fingerprint() { printf '%s\n' "$PWD"; cat pyproject.toml constraints.txt scripts/setup.sh | sha256sum; }

if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$(fingerprint)" ] && "$VENV/bin/python" -c '' 2>/dev/null; then
    exit 0
fi

# An environment that was moved, or whose interpreter is gone, is of no use to anybody.
if [ -d "$VENV" ] && ! { [ "$(head -n 1 "$STAMP" 2>/dev/null || echo "$PWD")" = "$PWD" ] && "$VENV/bin/python" -m pip --version >/dev/null 2>&1; }; then
    say "removing $VENV, which does not work here"
    rm -rf "$VENV"
fi
if [ ! -d "$VENV" ]; then
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
        || die "Python 3.11 or later is needed, $PYTHON is $("$PYTHON" --version 2>&1); name another with PYTHON=/path/to/python3.11 make setup"
    say "making a virtual environment in $VENV with $("$PYTHON" --version)"
    "$PYTHON" -m venv "$VENV"
fi

pip() { PIP_DISABLE_PIP_VERSION_CHECK=1 "$VENV/bin/python" -m pip "$@"; }

# PyTorch first and with its exact version: asked for as a range, pip takes the newest build with all of CUDA.
torch=$(grep -E '^torch==' constraints.txt)
say "installing $torch (the longest step, some minutes)"
pip install -qq -c constraints.txt "$torch"
say "installing aiida-mlipal with AiiDA, Quantum ESPRESSO's plugin, MACE and the tools of the tests (some minutes)"
pip install -qq -c constraints.txt -e '.[mace,dev,docs]'
# Without what it asks for: its cp2k-output-tools wants a `regex` of 2020 that has to be compiled, where a new one will do.
say "installing AiiDA's plugin for CP2K"
pip install -qq -c constraints.txt --no-deps aiida-cp2k aiida-gaussian-datatypes cp2k-input-tools cp2k-output-tools \
    regex transitions six
# A module `plumed` with a kernel; what hillclimber itself needs is left out, since only the module is used.
say "installing PLUMED"
pip install -qq -c constraints.txt --no-deps hillclimber

fingerprint > "$STAMP"
say "set up: $("$VENV/bin/python" --version), $(command -v pw.x), $VENV/bin/aiida-mlipal"
