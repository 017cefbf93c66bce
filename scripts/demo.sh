#!/usr/bin/env bash
# A real campaign on this machine: silicon, pw.x, MACE, AiiDA on SQLite and ZeroMQ. All data stay in .demo/.
set -euo pipefail
cd "$(dirname "$0")/.."

export PATH="$PWD/.venv/bin:$PATH"
export AIIDA_PATH="$PWD/.demo/aiida"  # never the user's own ~/.aiida
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
mkdir -p "$AIIDA_PATH"

say() { printf '\n==> %s\n' "$*"; }
run() { printf '$ %s\n' "$*"; "$@"; }
trap 'verdi daemon stop >/dev/null 2>&1 || true' EXIT

say 'Setting up AiiDA in .demo/aiida: profile, computer, codes, pseudopotentials, daemon'
run aiida-mlipal quickstart --workers 2 --example .demo/campaign.yaml

say 'Checking the campaign file and, with one small job each, the codes'
run aiida-mlipal launch examples/silicon.yaml --dry-run
run aiida-mlipal doctor examples/silicon.yaml

say 'Running the campaign: seeds, DFT labels, training, exploration, selection, validation'
log=.demo/launch.log
run aiida-mlipal launch examples/silicon.yaml --wait | tee "$log"
pk=$(sed -n 's/^campaign PK \([0-9]*\)$/\1/p' "$log" | tail -n 1)
[ -n "$pk" ] || { echo 'demo: no line "campaign PK <number>" in .demo/launch.log' >&2; exit 1; }

say 'Looking at what came out'
run aiida-mlipal lineage "$pk"
run aiida-mlipal report "$pk" -o .demo/report.html
