# Sourced by scripts/demo and scripts/test: makes .venv where it is missing, brings it up to date, puts it on PATH.
# $1 is a list of scripts/locks, e.g. cpu. Nothing is installed whose SHA-256 is not in such a list, or that it lacks.
python=${PYTHON:-python3}
if [ ! -x .venv/bin/python ]; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        { echo "Precedent needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 1; }
    "$python" -m venv .venv
fi

pip_install() { .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "$@"; }
install_locked() { pip_install --require-hashes --no-build-isolation -r "scripts/locks/$1.txt" "${@:2}"; }
has_torch() {
    .venv/bin/python -c "from importlib.metadata import version; assert version('torch').partition('+')[0] == '$1'" 2>/dev/null
}

stamp=.venv/installed-$1-$(cat pyproject.toml "scripts/locks/$1.txt" scripts/locks/torch.txt | sha256sum | cut -c1-16)
if [ ! -e "$stamp" ]; then
    echo "installing $1 into .venv (1.7 GB on disk, once)" >&2
    # The CPU build for Linux has an index of torch's own, for those whose package index lacks it; alone and by hash.
    if ! has_torch "$(sed -n "s/^torch==\([0-9.]*\)+cpu .*/\1/p" scripts/locks/torch.txt)"; then
        install_locked torch 2>/dev/null || install_locked torch --index-url https://download.pytorch.org/whl/cpu ||
            { echo "scripts/locks/torch.txt has no build of torch for this Python and processor, or another is offered;" \
                "take Python 3.11 to 3.14 (PYTHON=...), or add its SHA-256 there" >&2; exit 1; }
    fi
    install_locked build
    install_locked "$1"
    pip_install --no-build-isolation -e .
    touch "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
