#!/bin/sh
# Makes the environment that every make target runs in, or says plainly why it can't.
# usage: environment.sh FOLDER [PYTHON]; called by the Makefile.
set -eu
folder=$1 python=${2:-} wanted="3.11, 3.12 or 3.13"

stop() {
  printf '%s\n' "$@" >&2
  exit 1
}

version_of() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo "nothing that runs"
}

fits() {
  case $(version_of "$1") in 3.11 | 3.12 | 3.13) ;; *) return 1 ;; esac
}

case "${ANYWHERE:-}$(uname -s) $(uname -m)" in
  "Linux x86_64" | "Linux aarch64" | "Darwin arm64" | 1*) ;;
  *) stop "grainline is for Linux on x86-64 and aarch64 and for macOS on Apple silicon; this is $(uname -s) $(uname -m)." \
    "To try all the same: export ANYWHERE=1" ;;
esac

if [ -x "$folder/bin/python" ]; then
  fits "$folder/bin/python" ||
    stop "The environment in $folder has Python $(version_of "$folder/bin/python"); grainline needs $wanted." \
      "Remove it with 'make clean', and run this again."
else
  if [ -z "$python" ]; then
    for python in python3.11 python3.12 python3.13 python3 ""; do
      if [ -n "$python" ] && fits "$python"; then break; fi
    done
    [ -n "$python" ] || stop "grainline needs Python $wanted, and there is none on the PATH." \
      "Install one (https://www.python.org/downloads), or name it: make quickstart PYTHON=/path/to/python3.12"
  elif ! fits "$python"; then
    stop "grainline needs Python $wanted, and $python is $(version_of "$python")." \
      "Name another: make quickstart PYTHON=/path/to/python3.12"
  fi
fi

torch=$(echo "$folder"/lib/python3*/site-packages/torch)
if [ ! -d "$torch" ]; then
  free=$(df -Pk . | awk 'NR == 2 {print int($4 / 1048576)}')
  [ "$free" -ge 4 ] || stop "The installation needs 4 GiB of free disk here; there are $free GiB." \
    "Free some, and run this again."
  # Which build pip will choose depends on how it is set up, so a disk for the smaller one is no reason to stop.
  if [ "$free" -lt 10 ] && [ "$(uname -s)" = Linux ] && ! grep -q '^torch==.*+cpu' constraints.txt; then
    printf '%s\n' "$free GiB of disk are free: enough for a CPU build of torch. One with CUDA's libraries, as PyPI has for" \
      "Linux on x86-64, needs 10; docs/install.md says how to have the other." >&2
  fi
fi

if [ ! -x "$folder/bin/python" ]; then
  "$python" -m venv "$folder" || {
    rm -rf "$folder"
    stop "$python could not make an environment: see above."
  }
fi

echo "Installing grainline into $folder; this takes minutes the first time."
# A torch that is already there (a CPU build, say) stays, as long as it is in pyproject.toml's range.
if [ -d "$torch" ]; then pin=""; else pin="-c constraints.txt"; fi
# shellcheck disable=SC2086
"$folder/bin/python" -m pip --disable-pip-version-check --no-input install -q $pin -e '.[dev]' ||
  stop "The installation stopped: see above. Running this again goes on from there."
