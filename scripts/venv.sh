# Sourced by scripts/demo and scripts/test: makes .venv where it is missing, brings it up to date, puts it on PATH.
# $1 is what to install, e.g. '.[cpu]'. Versions come from scripts/constraints.txt.
python=${PYTHON:-python3}
if [ ! -x .venv/bin/python ]; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        { echo "Precedent needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 1; }
    "$python" -m venv .venv
fi

pip_install() { .venv/bin/python -m pip install --quiet --disable-pip-version-check -c scripts/constraints.txt "$@"; }

stamp=.venv/installed-$(cat pyproject.toml scripts/constraints.txt | sha256sum | cut -c1-16)-$(printf %s "$1" | tr -dc 'a-z,')
if [ ! -e "$stamp" ]; then
    echo "installing $1 into .venv (1.7 GB on disk, once)" >&2
    # On Linux the plain torch brings 5 GB of CUDA; its CPU build has a version of its own, and an index of its own
    # for those whose package index has none.
    if [ "$(uname -s)" = Linux ] && ! .venv/bin/python -c 'import torch' 2>/dev/null; then
        torch=$(sed -n 's/^torch==/torch==/p' scripts/constraints.txt)
        pip_install "$torch+cpu" 2>/dev/null ||
            pip_install "$torch+cpu" --index-url https://download.pytorch.org/whl/cpu
    fi
    pip_install -e "$1"
    touch "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
