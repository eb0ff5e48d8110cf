# Shared by scripts/*: Debian packages, a Python, and the virtual environment with every distribution of the workspace.
# shellcheck shell=sh

ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
VENV=$ROOT/.venv
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# Most of the servers that tests start live where only root's PATH looks.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH

say() { printf '%s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

missing_packages() { # NAME...: those that are not installed
    for package in "$@"; do
        case $(dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2>/dev/null) in
            ii* | hi*) ;;
            *) printf '%s ' "$package" ;;
        esac
    done
}

as_root() { # COMMAND...: run it as root, or say which command to run
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
        sudo "$@"
    else
        die "needs root: run this first:  $*"
    fi
}

apt() { # ARGUMENT...: apt-get that asks nothing and waits for another apt to end
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=600 -o APT::Update::Error-Mode=any "$@" \
        </dev/null >&2
}

# A package that brings a daemon would start it; the tests start their own, so this host keeps its peace.
POLICY=/usr/sbin/policy-rc.d

keep_daemons_off() {
    [ -e $POLICY ] && return 0
    as_root sh -c "printf '#!/bin/sh\nexit 101\n' >$POLICY && chmod 755 $POLICY"
    policy_is_ours=yes
    trap 'as_root rm -f $POLICY' EXIT
    trap 'exit 130' INT TERM HUP
}

let_daemons_on() {
    [ "${policy_is_ours:-no}" = yes ] || return 0
    trap - EXIT INT TERM HUP
    as_root rm -f $POLICY
}

need_packages() { # NAME...
    command -v dpkg-query >/dev/null || { say "no dpkg here: needed are $*"; return 0; }
    missing=$(missing_packages "$@")
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" != 0 ] && ! { command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; }; then
        die "needs root for Debian packages. Run this, then $0 again:
  apt-get update && apt-get install -y --no-install-recommends $missing"
    fi
    say "installing Debian packages: $missing"
    apt update || die "apt-get update failed: is this machine online?"
    available=''
    for package in $missing; do
        # spamd, for one, is part of another package on older releases
        if [ -n "$(apt-cache show --no-all-versions "$package" 2>/dev/null)" ]; then
            available="$available $package"
        else
            say "this release has no package $package; tests that need it will say so"
        fi
    done
    [ -n "$available" ] || return 0
    keep_daemons_off
    # shellcheck disable=SC2086  # a list of names
    apt install -y --no-install-recommends $available || die "apt-get could not install $available"
    let_daemons_on
}

usable_python() { # PROGRAM: whether it can make a virtual environment for us
    "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    for candidate in "${PYTHON:-}" /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] && usable_python "$candidate" && { printf '%s\n' "$candidate"; return 0; }
    done
    return 1
}

need_python() { # prints the program; brings python3.11 where the release's own python3 is older
    find_python && return
    need_packages python3 python3-venv python3-pip
    find_python && return
    need_packages python3.11 python3.11-venv
    find_python || die "no Python 3.11 or newer with venv: install one and name it:  PYTHON=/path/to/python3 $0"
}

workspace_stamp() { # KIND: changes when anything that decides what is installed does
    # shellcheck disable=SC2312
    cat "$ROOT/core/pyproject.toml" "$ROOT"/plugins/*/pyproject.toml "$ROOT/requirements-dev.txt" "$ROOT/scripts/lib.sh" |
        { printf '%s %s\n' "$1" "$ROOT"; cat; } | sha256sum | cut -d' ' -f1
}

stamped() { # KIND: whether the environment holds what that kind needs
    [ -x "$VENV/bin/python" ] && [ "$(cat "$VENV/.installed-$1" 2>/dev/null)" = "$(workspace_stamp "$1")" ]
}

need_environment() { # KIND (run: what a user needs; work: that, the test tools and every extra)
    stamped work && return 0
    [ "$1" = run ] && stamped run && return 0
    mkdir -p "$VENV"
    exec 9<"$VENV"
    flock 9 # two scripts at once install once
    if ! { stamped work || stamped "$1"; }; then
        if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
            python=$(need_python) || exit 1
            say "making .venv with $python"
            "$python" -m venv "$VENV" || die "$python cannot make .venv"
        fi
        install_workspace "$1" || die 'pip could not install the workspace'
        workspace_stamp "$1" >"$VENV/.installed-$1"
    fi
    exec 9<&-
}

install_workspace() { # KIND
    kind=$1
    say 'installing the workspace into .venv'
    case $kind in
        run) set -- -e "$ROOT/core[redis]" ;;
        *) set -- -e "$ROOT/core[libmilter,redis,postgresql]" -r "$ROOT/requirements-dev.txt" ;;
    esac
    for plugin in "$ROOT"/plugins/*/; do
        [ -f "$plugin/pyproject.toml" ] && set -- "$@" -e "$plugin"
    done
    "$VENV/bin/python" -m pip install -q --use-pep517 "$@" </dev/null >&2
}
