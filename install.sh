#!/usr/bin/env bash
# Installs or updates kaalia: a release in a venv of its own below /opt/kaalia, the configuration if there is none, the
# units. Safe to repeat; tenants run on meanwhile. `--dry-run` prints each step and changes nothing.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dry_run=no
prefix=
python=
source=$here
ports=40000-40799
start=yes
pip_options=()
doing=install
jupyter='jupyter_server>=2.14,<3'
# shellcheck source=scripts/steps.sh
. "$here/scripts/steps.sh"

usage() {
    cat <<'USAGE'
Usage: install.sh [OPTION]...

  --dry-run            print each step, change nothing
  --ports START-END    range of ports that reach this machine (default 40000-40799), for a new configuration
  --source PATH        what to install: a checkout or a wheel (default: the checkout of this script)
  --python PATH        a Python of version 3.11 or newer (default: the newest found)
  --pip-option OPTION  an option for pip, such as --no-index; may be repeated
  --no-start           do not enable and start the daemon
  --prefix DIR         install below DIR and leave systemd and groups alone, for packaging and tests
  --help
USAGE
}

while [ $# -gt 0 ]; do
    case $1 in
        --dry-run) dry_run=yes ;;
        --no-start) start=no ;;
        --ports) ports=$(value_of "$@"); shift ;;
        --source) source=$(value_of "$@"); shift ;;
        --python) python=$(value_of "$@"); shift ;;
        --pip-option) pip_options+=("$(value_of "$@")"); shift ;;
        --pip-option=*) pip_options+=("${1#*=}") ;;
        --prefix) prefix=$(value_of "$@"); shift ;;
        --help) usage && exit 0 ;;
        *) fail "$1 is no option" "see install.sh --help" 2 ;;
    esac
    shift
done

check_prefix "$prefix"
opt=$prefix/opt/kaalia
etc=$prefix/etc/kaalia
units=$prefix/etc/systemd/system
links=$prefix/usr/local/bin
known=$prefix/var/lib/vastai_kaalia
sysctl_file=$prefix/etc/sysctl.d/99-z-kaalia-ports.conf

check_machine() {
    [ "$(uname -s)" = Linux ] || fail "this is $(uname -s), not Linux" "use a Linux machine" 2
    if [ -z "$prefix" ] && [ "$dry_run" = no ]; then
        [ "$(id -u)" = 0 ] || fail "this is not root" "use sudo" 2
        [ -d /run/systemd/system ] || fail "systemd does not run here" "start 'kaalia daemon' by your own means" 2
    fi
    [[ $ports =~ ^[0-9]{4,5}-[0-9]{4,5}$ ]] || fail "$ports is no range of ports" "write START-END" 2
    [ -e "$source" ] || fail "there is no $source" "name a checkout or a wheel with --source" 2
    command -v docker >/dev/null || say "note: Docker is not installed yet; the daemon waits for it"
}

find_python() {
    local candidate
    for candidate in ${python:+"$python"} python3.14 python3.13 python3.12 python3.11 python3; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python=$(command -v "$candidate")
            return
        fi
        [ -z "$python" ] || fail "$python is no Python 3.11 or newer with venv" "install python3.11 and python3.11-venv" 2
    done
    fail "there is no Python 3.11 or newer with venv" "install python3.11 and python3.11-venv, or use --python" 2
}

# The release's name: the same source gives the same name, so that repeating changes nothing.
release_name() {
    local digest
    if [ -d "$source" ]; then
        digest=$(cd "$source" && find kaalia pyproject.toml -type f ! -name '*.pyc' -print0 | sort -z |
            xargs -0 sha256sum | sha256sum)
    else
        digest=$(sha256sum <"$source")
    fi
    printf '%s-%s' "$("$python" -c 'import sys; print("py%d.%d" % sys.version_info[:2])')" "${digest:0:12}"
}

install_release() {
    local release=$opt/releases/$1
    if [ -e "$release/.complete" ]; then
        say "release $1 is installed already"
    else
        step mkdir -p "$opt/releases"
        step rm -rf "$release"
        step "$python" -m venv "$release"
        step "$release/bin/python" -m pip install --quiet --disable-pip-version-check "${pip_options[@]}" "$source" ||
            fail "pip could not install $source" "see above; behind a mirror, --pip-option and PIP_* variables reach pip"
        step touch "$release/.complete"
    fi
}

# Switch to the release at once, after it has shown that it can read the configuration.
switch_release() {
    step "$opt/releases/$1/bin/python" -P -m kaalia.daemon.run --config "$etc/kaalia.yaml" --check
    step ln -sfn "releases/$1" "$opt/current.new"
    step mv -T "$opt/current.new" "$opt/current"
    step mkdir -p "$links"
    step ln -sfn "${opt#"$prefix"}/current/bin/kaalia" "$links/kaalia"
}

# What the unit starts, compiled as it is started there: by a start, and what such a start imports later.
compile_release() {
    local options=(-P -OO -X no_debug_ranges -X "pycache_prefix=$opt/current/pycache")
    local packages=("$opt"/current/lib/python*/site-packages/{kaalia,prometheus_client})
    step env PYTHONDONTWRITEBYTECODE= "$opt/current/bin/python" "${options[@]}" -m kaalia.daemon \
        --config "$etc/kaalia.yaml" --check
    step "$opt/current/bin/python" "${options[@]}" -m compileall -qq "${packages[@]}" ||
        say "note: not all could be compiled; the daemon's start takes a little longer"
}

install_configuration() {
    step mkdir -p "$etc"
    if [ -e "$etc/kaalia.yaml" ]; then
        say "$etc/kaalia.yaml exists and is kept"
        return
    fi
    write "$etc/kaalia.yaml" 0644 <<CONFIG
# Configuration of the kaalia daemon; read at its start. All keys: docs/configuration.md
# Check a change with: kaalia daemon --check; then: systemctl restart kaalia (tenants run on)
ports:
  # Ports of this machine that the router lets through from outside.
  range: $ports
  # The address that renters connect to; auto: the one of the default route, if it is public.
  public_ip: auto
log:
  # One JSON object a line, for journald; text is for people.
  format: json
CONFIG
}

# Renters' ports lie where the kernel takes ports for outgoing connections: without this, one of those may sit on a port
# that is promised to a renter. Named to be read last, since of several files the last one counts.
reserve_range() {
    local range before now
    range=$("$opt/releases/$1/bin/python" -P -c '
import os, pathlib, sys
from kaalia.config import load
ports = load(pathlib.Path(sys.argv[1]), os.environ).ports
print(f"{ports.first}-{ports.last}")' "$etc/kaalia.yaml" 2>/dev/null) || range=$ports
    now=$(reserved_ports "$prefix")
    before=$now
    if [ -e "$sysctl_file" ]; then
        before=$(noted before "$sysctl_file")
        now=$(port_set "$now" - "$(port_set "$(noted range "$sysctl_file")" - "$before")")
    fi
    now=$(port_set "$now" + "$range")
    step mkdir -p "${sysctl_file%/*}"
    write "$sysctl_file" 0644 <<CONFIG
# Written by kaalia's install.sh from ports.range: no outgoing connection takes a port of renters.
# All that was reserved then is here too; after a change of either, run install.sh again.
# range: $range
# before: $before
net.ipv4.ip_local_reserved_ports = $now
CONFIG
    [ -n "$prefix" ] || reserve_ports "$now"
}

install_units() {
    step mkdir -p "$units"
    local unit
    for unit in kaalia.service kaalia-marketplace.service kaalia-relay.service; do
        write "$units/$unit" 0644 <"$here/systemd/$unit"
    done
    [ -z "$prefix" ] || return 0
    getent group kaalia >/dev/null || step groupadd --system kaalia
    step systemctl daemon-reload
    if [ "$start" = yes ]; then
        step systemctl enable kaalia.service
        # An update takes effect by a restart; workloads are not touched by it.
        step systemctl restart kaalia.service
    fi
}

# What lets renters in by ssh; docs/access.md. Without a network the one that is there goes on to serve.
install_kit() {
    local folder
    [ -z "$prefix" ] || return 0
    folder=$("$opt/releases/$1/bin/python" -P -c '
import os, pathlib, sys
from kaalia.config import load
print(load(pathlib.Path(sys.argv[1]), os.environ).kits_path)' "$etc/kaalia.yaml" 2>/dev/null) || folder=/var/lib/kaalia/kit
    step install -d -m 0700 /var/lib/kaalia
    step "$here/scripts/build-kit" --into "$folder" ||
        say "note: no new access kit; without one, ssh and jupyter mode are refused (kit_missing) until scripts/build-kit has run"
}

# What `kaalia self-test machine` puts into a container to try Jupyter, with this release's Python: in a folder of its own,
# so that the daemon has none of it. 55 MB; without it the test says that Jupyter was not tried.
fetch_jupyter() {
    local folder=$opt/releases/$1/share/kaalia/jupyter
    [ ! -e "$folder" ] || return 0
    step rm -rf "$folder.new"
    if step "$opt/releases/$1/bin/python" -m pip install --quiet --disable-pip-version-check --retries 1 "${pip_options[@]}" \
        --target "$folder.new" "$jupyter"; then
        step mv "$folder.new" "$folder"
    else
        rm -rf "$folder.new"
        say "note: pip could not fetch $jupyter: the self-test does not try Jupyter until install.sh has run again"
    fi
}

# Where hosts look for them. A file of another daemon that lives there is left alone.
install_known_scripts() {
    local script
    step mkdir -p "$known"
    for script in test_nvml.py send_mach_info.py; do
        if [ -e "$known/$script" ] && ! grep -q '^MODULE = "kaalia\.' "$known/$script"; then
            say "note: $known/$script is not kaalia's and is kept; use: kaalia nvml, kaalia send-report"
        else
            write "$known/$script" 0755 <"$here/scripts/$script"
        fi
    done
}

# Keep this release and the one before it, to which `ln -sfn` can go back.
forget_old_releases() {
    local old
    [ -d "$opt/releases" ] || return 0
    find "$opt/releases" -mindepth 1 -maxdepth 1 -printf '%T@ %p\n' | sort -rn | cut -d' ' -f2- | tail -n +3 |
        while read -r old; do
            [ "$old" = "$opt/releases/$1" ] || step rm -rf "$old"
        done
}

check_machine
find_python
name=$(release_name)
install_release "$name"
install_configuration
switch_release "$name"
compile_release
reserve_range "$name"
install_kit "$name"
install_known_scripts
install_units
fetch_jupyter "$name"
forget_old_releases "$name"
if [ "$dry_run" = yes ]; then
    say "dry run: nothing was changed"
else
    say "done; next: kaalia enroll URL --token-file FILE, then: kaalia status"
fi
