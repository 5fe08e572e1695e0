# Sourced, never run: makes the virtual environment with the pinned versions, once, and activates it.
# FEDMQ_VENV chooses its folder (default: .venv of the checkout).

fedmq_environment() {
    local root venv stamp python candidate candidates log
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
    venv="${FEDMQ_VENV:-$root/.venv}"
    # The stamp is the text that decided what was installed, and the path that the editable install
    # points to: equal text, same environment.
    stamp="$(echo "$root"; cat "$root/setup.cfg" "$root/pyproject.toml" "$root/constraints.txt")"

    if [[ ! -x "$venv/bin/python" || "$(cat "$venv/fedmq.stamp" 2>/dev/null)" != "$stamp" ]]; then
        # 3.11 first: the pinned versions were tested with it.
        candidates=(python3.11 python3 python3.14 python3.13 python3.12)
        if [[ -n "${PYTHON:-}" ]]; then
            candidates=("$PYTHON")
        fi
        for candidate in "${candidates[@]}"; do
            if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
                python="$candidate"
                break
            fi
        done
        if [[ -z "${python:-}" ]]; then
            echo "fedmq: no Python 3.11 or newer found; install one, or name it in the variable PYTHON" >&2
            return 1
        fi
        if [[ -e "$venv" && ! -f "$venv/fedmq.stamp" ]]; then
            echo "fedmq: $venv is there and was not made by this script; choose another folder with FEDMQ_VENV" >&2
            return 1
        fi
        echo "fedmq: making the environment in $venv (a few minutes, once)" >&2
        log="$(mktemp)"
        if ! { "$python" -m venv --clear "$venv" &&
            "$venv/bin/python" -m pip install --disable-pip-version-check -c "$root/constraints.txt" -e "$root[test]"; } \
            >"$log" 2>&1; then
            # An empty stamp says that the folder is ours: the next try may replace it.
            mkdir -p "$venv" && : >"$venv/fedmq.stamp"
            tail -n 20 "$log" >&2
            echo "fedmq: the environment could not be made; the whole log is $log" >&2
            return 1
        fi
        rm -f "$log"
        echo "$stamp" >"$venv/fedmq.stamp"
    fi
    # A PYTHONPATH of the caller's could put other versions before the pinned ones.
    unset PYTHONPATH
    source "$venv/bin/activate"
}

fedmq_environment
