# shellcheck shell=bash
# What install.sh and uninstall.sh have in common: steps that a dry run only prints, refusals, sets of ports.
# The script that reads this sets `dry_run` and `doing` (the words after "cannot").

fail() {
    # shellcheck disable=SC2154 # set by the script that reads this
    printf '%s: cannot %s: %s\n  remedy: %s\n' "${0##*/}" "$doing" "$1" "$2" >&2
    exit "${3:-1}"
}

say() { printf '%s\n' "$*"; }

# Print a step; unless this is a dry run, do it.
step() {
    printf '+ %s\n' "$*"
    # shellcheck disable=SC2154 # set by the script that reads this
    if [ "$dry_run" = no ]; then "$@"; fi
}

# Print a step that writes stdin to a file; unless this is a dry run, do it, whole or not at all.
write() {
    printf '+ write %s (mode %s)\n' "$1" "$2"
    if [ "$dry_run" = no ]; then
        cat >"$1.new"
        chmod "$2" "$1.new"
        mv "$1.new" "$1"
    else
        cat >/dev/null
    fi
}

# The value of the option $1, which is $2.
value_of() {
    if [ $# -lt 2 ] || [ -z "$2" ]; then fail "$1 wants a value" "see ${0##*/} --help" 2; fi
    printf '%s' "$2"
}

check_prefix() {
    case $1 in "" | /*) ;; *) fail "--prefix $1 is no absolute path" "begin it with /" 2 ;; esac
}

# Two sets of ports as the kernel writes them, such as 8080,40000-40799: `port_set A + B` is both, `A - B` without B.
port_set() {
    awk -v one="$1" -v sign="$2" -v other="$3" '
        function mark(list, value,    count, parts, at, ends, port) {
            count = split(list, parts, /[, \t\n]+/)
            for (at = 1; at <= count; at++) {
                if (parts[at] == "") continue
                if (split(parts[at], ends, "-") == 1) ends[2] = ends[1]
                for (port = ends[1] + 0; port <= ends[2] + 0; port++) marked[port] = value
            }
        }
        BEGIN {
            mark(one, 1)
            mark(other, sign == "+")
            for (port = 0; port <= 65536; port++) {
                if (marked[port] && !inside) { inside = 1; first = port }
                if (!marked[port] && inside) {
                    inside = 0
                    text = text comma first (port - 1 > first ? "-" (port - 1) : "")
                    comma = ","
                }
            }
            print text
        }'
}

# Ports that the kernel gives to no outgoing connection by itself; $1: the prefix.
reserved_ports() { cat "$1/proc/sys/net/ipv4/ip_local_reserved_ports" 2>/dev/null || true; }

# The set that install.sh noted as $1 (range or before) in its file $2.
noted() { sed -n "s/^# $1: //p" "$2"; }

# Takes effect at once; $1: the set.
reserve_ports() {
    step sysctl -q -w "net.ipv4.ip_local_reserved_ports=$1" ||
        say "note: the kernel did not take that; it will at the next boot, and kaalia status tells until then"
}

# All chains of kaalia with the jumps to them, as input of iptables-restore; $1: iptables or ip6tables, $2: the table.
firewall_removal() {
    "$1-save" -t "$2" 2>/dev/null | awk -v table="$2" '
        /^:KAALIA-/ { chain = substr($1, 2); flush = flush "-F " chain "\n"; drop = drop "-X " chain "\n" }
        /^-A / && !/^-A KAALIA-/ && / -[jg] KAALIA-/ { sub(/^-A/, "-D"); jumps = jumps $0 "\n" }
        END { if (flush != "") printf "*%s\n%s%s%sCOMMIT\n", table, jumps, flush, drop }'
}

# Takes down walls around tenants' networks, published ports and counters.
remove_firewall() {
    local program table change
    for program in iptables ip6tables; do
        command -v "$program-restore" >/dev/null || continue
        for table in mangle filter nat raw; do
            change=$(firewall_removal "$program" "$table")
            [ -n "$change" ] || continue
            step "$program-restore" --wait 5 --noflush <<<"$change" ||
                say "note: table $table keeps kaalia's chains; see: $program-save -t $table"
        done
    done
}

# Ids of the objects with a label $3 that Docker ($1) lists by the words from $4 on, and that were made with the machine's
# key $2: another daemon's may be there too.
made_by() {
    local host=$1 key=$2 label=$3
    shift 3
    docker --host "$host" "$@" --filter "label=$label" --format '{{.ID}} {{.Label "io.kaalia.machine"}}' |
        awk -v end="@$key" 'substr($2, length($2) - length(end) + 1) == end { print $1 }'
}

# Networks of nobody on a Docker Engine, each with a container that holds it open; $2: the machine's key, nothing when it
# has none. While there is a contract's container, running or not, all stay.
remove_sandboxes() {
    local host=$1 key=$2 contracts found
    [ -n "$key" ] || return 0
    contracts=$(made_by "$host" "$key" io.kaalia.contract ps --all) || return 0
    [ -z "$contracts" ] || return 0
    mapfile -t found < <(made_by "$host" "$key" io.kaalia.sandbox ps --all)
    [ ${#found[@]} -eq 0 ] || step docker --host "$host" rm --force "${found[@]}"
    mapfile -t found < <(made_by "$host" "$key" io.kaalia.sandbox network ls)
    [ ${#found[@]} -eq 0 ] || step docker --host "$host" network rm "${found[@]}"
}
