#!/usr/bin/env bash
# Installs the programs that the tests in this folder run beside lorafit: a browser, and Python packages in a
# virtual environment of their own. Does nothing if all is there.
set -euo pipefail
cd "$(dirname "$0")"

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# LORAFIT_CHROMIUM names another Chromium or Chrome.
if ! command -v "${LORAFIT_CHROMIUM:-chromium}" >/dev/null; then
  echo "installing Chromium from the distribution's packages"
  if ! command -v apt-get >/dev/null; then
    echo "error: there is no Chromium, and no apt-get to install it with." >&2
    echo "  Install Chromium, and name it:  LORAFIT_CHROMIUM=/path/to/chrome make test-real" >&2
    exit 1
  fi
  as_root apt-get update -q=2
  DEBIAN_FRONTEND=noninteractive as_root apt-get install -q=2 --no-install-recommends chromium >/dev/null
fi

if [ -f requirements.txt ] && ! cmp -s requirements.txt .venv/installed.txt; then
  echo "installing Python packages into tests/real/.venv"
  rm -rf .venv
  python3 -m venv .venv
  .venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
  cp requirements.txt .venv/installed.txt
fi
