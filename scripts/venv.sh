# Sourced by scripts/demo and scripts/test: make .venv where it is missing, bring it up to date, put it on PATH.
# $1 is what to install, e.g. '.[cpu]'. Versions come from scripts/constraints.txt.
python=${PYTHON:-python3}
if [ ! -x .venv/bin/python ]; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        { echo "Precedent needs Python 3.11 or newer, $("$python" --version) found; set PYTHON=/path/to/python3.11" >&2; exit 1; }
    "$python" -m venv .venv
fi
stamp=.venv/installed-$(cat pyproject.toml scripts/constraints.txt | sha256sum | cut -c1-16)-$(printf %s "$1" | tr -dc 'a-z,')
if [ ! -e "$stamp" ]; then
    echo "installing $1 into .venv (about 1 GB, once)" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c scripts/constraints.txt -e "$1"
    touch "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
