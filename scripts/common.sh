# shellcheck shell=sh disable=SC2154
# What ./setup, ./pykrun, ./demo, ./test and ./bench share. To be sourced with $here, the checkout's folder, set.

# Sets $uid, this user's number; the first one there is the real one. No process is started for it.
find_uid() {
    if [ ! -r /proc/self/status ]; then
        uid=$(id -u)
        return
    fi
    while read -r key uid _; do
        [ "$key" != Uid: ] || return 0
    done < /proc/self/status
}

# Sets $home: what HOME says, if that is a path from the top; else the account's home.
find_home() {
    home=${HOME-}
    case $home in /*) return ;; esac
    find_uid
    while IFS=: read -r _ _ number _ _ home _; do
        [ "$number" != "$uid" ] || break
        home=
    done < /etc/passwd
    [ "${number:-}" = "$uid" ] || home= # a last line without an end
    [ -n "$home" ] || home=$(getent passwd "$uid" 2> /dev/null | cut -d: -f6) || home=
    case $home in /*) ;; *) home=/ ;; esac
}

# usable HOME: whether there is a cache to read, or one can be made.
usable() {
    [ ! -d "$1/.cache/pykrun" ] || [ ! -r "$1/.cache/pykrun" ] || [ ! -x "$1/.cache/pykrun" ] || return 0
    for place in "$1/.cache/pykrun" "$1/.cache" "$1"; do
        if [ -e "$place" ] || [ -L "$place" ]; then
            [ -d "$place" ] && [ -w "$place" ] && [ -x "$place" ]
            return
        fi
    done
    return 1
}

# Sets $spare, a folder of this user's own below the temporary folder, unless what is there is not theirs alone.
find_spare() {
    find_uid
    case ${TMPDIR-} in /*) spare=$TMPDIR/pykrun-$uid ;; *) spare=/tmp/pykrun-$uid ;; esac
    [ -d "$spare" ] || mkdir -m 700 "$spare" 2> /dev/null || return 1
    # shellcheck disable=SC2012 # of one folder, whose name is at the end
    case $(ls -ldn "$spare" | { read -r mode _ owner _ && echo "$mode $owner"; }) in
        d???--[-S]--[-T]" $uid" | d???--[-S]--[-T]." $uid") ;;
        *) return 1 ;;
    esac
}

# As pykrun.host.cache has it.
find_cache() {
    case ${XDG_CACHE_HOME-} in
        /*)
            cache=$XDG_CACHE_HOME/pykrun
            return
            ;;
    esac
    find_home
    if ! usable "$home" && find_spare; then
        cache=$spare
    else
        cache=$home/.cache/pykrun
    fi
}
find_cache

# Sets $state, the path of this checkout's stamps less their last word. A stamp says what was set up, with which
# interpreter and (when it was set up last) when. They lie beside what they stand for, not in the checkout: that may be
# read-only, and whoever removes the cache removes the stamps with it.
name_stamps() {
    saved=$IFS
    IFS=/
    set -f
    # shellcheck disable=SC2086 # split at the slashes
    set -- $here
    IFS=%
    state=$cache/setup/$*
    set +f
    IFS=$saved
}
name_stamps

# ready WHAT: whether the stamp is there and newer than everything it depends on; sets $python and $venv.
# This is on the way of every ./pykrun, so it starts no process.
ready() {
    stamp=$state.$1
    [ -f "$stamp" ] || return 1
    { read -r python && read -r venv; } < "$stamp" || return 1
    [ -x "$python" ] || return 1
    [ -z "$venv" ] || [ -x "$venv/bin/python" ] || return 1
    case $1 in
        run | cross)
            set -- "$here"/src/krun_init/* "$here"/src/krun_init/*/*.py "$here"/src/pykrun/blob/* \
                "$here"/src/pykrun/kernel/*
            ;;
        lib) set -- "$here"/src/pykrun/clib/* "$here"/src/pykrun/clib/abi/* ;;
        test | docs) set -- "$here/pyproject.toml" ;;
        *) set -- ;;
    esac
    for input in "$here/setup" "$here/scripts/common.sh" "$@"; do
        # shellcheck disable=SC3013 # -nt: not in POSIX, but in dash, bash, busybox, ksh and zsh
        [ -d "$input" ] || [ ! "$input" -nt "$stamp" ] || return 1
    done
}

# make_ready WHAT...: set up what is missing, quietly.
make_ready() {
    for what in "$@"; do
        if ! ready "$what"; then
            "$here/setup" --quiet "$@" || return 1
            ready "$what" || return 1
        fi
    done
}

# Sets $python to the file behind the first interpreter that is new enough (a version manager's wrapper would cost more
# time than a VM takes to boot).
find_python() {
    for candidate in python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
        python=$("$candidate" -I -S -c 'import os, sys
sys.version_info >= (3, 11) or sys.exit(1)
print(os.path.realpath(sys.executable))' 2> /dev/null) && return
    done
    return 1
}

# launch MODULE [ARG...]: become `MODULE.main()` of src. Without site and PYTHON* variables the interpreter starts up to
# five times faster, and no site-packages can change what runs.
launch() {
    module=$1
    shift
    exec "$python" -I -S -X frozen_modules=on -c "import sys, _signal
if _signal.getsignal(2) is _signal.default_int_handler:
    _signal.signal(2, _signal.SIG_DFL)
sys.path.insert(0, sys.argv.pop(1))
from $module import main
sys.exit(main())" "$here/src" "$@"
}
