#!/usr/bin/env bash
# Removes kaalia; the reverse of install.sh. Keeps configuration and state unless --purge, and refuses while rented
# containers run, since nobody would end them at their agreed time. Removes no container, network, image or volume, and
# says what is left.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dry_run=no
prefix=
purge=no
force=no
running=
engine=
doing=uninstall
# shellcheck source=scripts/steps.sh
. "$here/scripts/steps.sh"

usage() {
    cat <<'USAGE'
Usage: uninstall.sh [OPTION]...

  --dry-run     print each step, change nothing
  --purge       remove configuration, state and the machine's key too; the machine must enrol anew afterwards
  --force       go on although rented containers run, or Docker cannot be asked
  --prefix DIR  uninstall what install.sh --prefix DIR installed
  --help
USAGE
}

while [ $# -gt 0 ]; do
    case $1 in
        --dry-run) dry_run=yes ;;
        --purge) purge=yes ;;
        --force) force=yes ;;
        --prefix) prefix=$(value_of "$@"); shift ;;
        --help) usage && exit 0 ;;
        *) fail "$1 is no option" "see uninstall.sh --help" 2 ;;
    esac
    shift
done

check_prefix "$prefix"
opt=$prefix/opt/kaalia
etc=$prefix/etc/kaalia
units=$prefix/etc/systemd/system
sysctl_file=$prefix/etc/sysctl.d/99-z-kaalia-ports.conf

# The engine that the daemon uses; Docker's usual socket when that cannot be read any more.
docker_host() {
    "$opt/current/bin/python" -P -c '
import os, pathlib, sys
from kaalia.config import load
print(load(pathlib.Path(sys.argv[1]), os.environ).docker.host)' "$etc/kaalia.yaml" 2>/dev/null ||
        printf 'unix:///var/run/docker.sock\n'
}

# The part of the machine's name that no other daemon's has; nothing when it was never enrolled.
machine_key() {
    "$opt/current/bin/python" -P -c '
import os, pathlib, sys
from kaalia.config import load
from kaalia.sync.enroll import load_key
from kaalia.wire.signature import key_id
print(key_id(load_key(load(pathlib.Path(sys.argv[1]), os.environ).state_dir)))' "$etc/kaalia.yaml" 2>/dev/null || true
}

refuse_while_rented() {
    local host
    host=$(docker_host)
    # No socket: no engine, hence no container of ours that runs under one.
    [ -S "${host#unix://}" ] || return 0
    engine=$host
    # Those of contracts: what kaalia runs beside them is nobody's rental.
    if ! running=$(docker --host "$host" ps --quiet --filter label=io.kaalia.contract 2>&1); then
        if [ "$force" = yes ]; then
            printf 'note: Docker cannot be asked whether rented containers run: %s\n' "$running"
            return 0
        fi
        fail "Docker at $host cannot be asked whether rented containers run: $running" \
            "make docker ps work, or use --force"
    fi
    [ -z "$running" ] && return 0
    if [ "$force" = no ]; then
        fail "$(printf '%s\n' "$running" | wc -l) rented container(s) run on this machine" \
            "wait for their end (see: kaalia contracts), or use --force and leave them running on their own"
    fi
    printf 'note: rented containers run on: %s\n' "$(printf '%s' "$running" | tr '\n' ' ')"
}

# What still runs, or may, keeps its walls, its ports, its limits and its way in.
keep_network() {
    [ -n "$running" ] || return 1
    [ -z "$prefix" ] || return 0
    printf 'kept: the chains KAALIA-* of the firewall (walls, published ports, counters) and connections to relays, for %s\n' \
        "what still runs; run uninstall.sh again when it has ended"
}

remove_walls() {
    [ -z "$prefix" ] || return 0
    keep_network || remove_firewall
}

# Objects of kaalia's as Docker lists them, one a line; none when it does not answer.
ours() { docker --host "$engine" "$@" --quiet --filter label=io.kaalia.machine 2>/dev/null || true; }

# Docker knows where its objects are; removing them is the owner's own deed.
tell_rest() {
    local containers networks
    [ -n "$engine" ] || return 0
    containers=$(ours ps --all | wc -l)
    networks=$(ours network ls | wc -l)
    [ "$containers$networks" != 00 ] || return 0
    printf 'left in Docker: %s container(s), %s network(s) of kaalia; see: docker ps --all %s\n' "$containers" "$networks" \
        "--filter label=io.kaalia.machine, and docker network ls with the same filter"
}

# With those of stopped contracts their data could not be started any more.
remove_networks() {
    [ -z "$prefix" ] && [ -z "$running" ] && [ -n "$engine" ] || return 0
    remove_sandboxes "$engine" "$(machine_key)"
}

# Connections to relays outlive the daemon. What still runs stays reached.
close_tunnels() {
    local control
    [ -z "$prefix" ] && [ -z "$running" ] || return 0
    for control in /var/lib/kaalia/relay/*.sock; do
        [ -S "$control" ] || continue
        step ssh -F none -S "$control" -O exit relay || true
    done
}

stop_units() {
    local unit
    for unit in kaalia.service kaalia-marketplace.service kaalia-relay.service; do
        if [ -z "$prefix" ] && [ -e "$units/$unit" ] && [ -d /run/systemd/system ]; then
            step systemctl disable --now "$unit"
        fi
        step rm -f "$units/$unit"
    done
    if [ -z "$prefix" ] && [ -d /run/systemd/system ]; then step systemctl daemon-reload; fi
}

# What others reserved, before kaalia or since, stays reserved.
free_ports() {
    local own
    [ -e "$sysctl_file" ] || return 0
    own=$(port_set "$(noted range "$sysctl_file")" - "$(noted before "$sysctl_file")")
    step rm -f "$sysctl_file"
    [ -z "$prefix" ] || return 0
    reserve_ports "$(port_set "$(reserved_ports "$prefix")" - "$own")"
}

# The owner's limits end with us; what they were before is in the state.
restore_power() {
    [ -z "$prefix" ] && [ -x "$opt/current/bin/kaalia" ] && [ -e "$etc/kaalia.yaml" ] || return 0
    step "$opt/current/bin/kaalia" power --restore || printf 'note: power limits of GPUs may still be set; see: nvidia-smi -q -d POWER\n'
}

# Ours only; the folder goes with them when nothing else is in it.
remove_known_scripts() {
    local script folder=$prefix/var/lib/vastai_kaalia
    for script in test_nvml.py send_mach_info.py; do
        if [ -e "$folder/$script" ] && grep -q '^MODULE = "kaalia\.' "$folder/$script"; then
            step rm -f "$folder/$script"
        fi
    done
    if [ "$dry_run" = no ] && [ -d "$folder" ]; then rmdir "$folder" 2>/dev/null || true; fi
}

remove_program() {
    step rm -f "$prefix/usr/local/bin/kaalia"
    step rm -rf "$opt"
    step rm -rf "$prefix/run/kaalia"
}

remove_data() {
    if [ "$purge" = no ]; then
        printf 'kept: %s and %s; --purge removes them\n' "$etc" "$prefix/var/lib/kaalia"
        return
    fi
    step rm -rf "$etc" "$prefix/var/lib/kaalia"
    if [ -z "$prefix" ] && getent group kaalia >/dev/null; then step groupdel kaalia; fi
}

if [ -z "$prefix" ] && [ "$dry_run" = no ] && [ "$(id -u)" != 0 ]; then
    fail "this is not root" "use sudo" 2
fi
refuse_while_rented
stop_units
close_tunnels
free_ports
remove_walls
remove_networks
restore_power
remove_known_scripts
remove_program
remove_data
tell_rest
if [ "$dry_run" = yes ]; then say "dry run: nothing was changed"; else say "done"; fi
