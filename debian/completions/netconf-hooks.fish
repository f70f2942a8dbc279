# Completes netconf-hooks(8) in fish(1): commands, options, interfaces, tunnels.

# Print the names of interfaces: the kernel's devices and those with a record; with an argument, those of stanzas, too.
function __netconf_hooks_interfaces
    for path in /sys/class/net/* /run/netconf-hooks/interfaces/*
        string match --invert --regex '^(lo|bonding_masters)$' (path basename $path)
    end
    if set -q argv[1]
        set -l files /etc/network/interfaces /etc/network/interfaces.d/*
        cat $files 2>/dev/null |
            string match --regex --groups-only '^\s*iface\s+(\S+)' | string match --invert lo
    end
end

# Print the kinds, or the names of the kind on the command line, of the tunnels that there are decisions on; for unhold,
# of those that are held.
function __netconf_hooks_tunnels
    set -l words (commandline --tokenize --cut-at-cursor --current-process | string match --invert -- '-*')
    set -l file /run/netconf-hooks/tunnels
    test "$words[2]" = unhold; and set file /var/lib/netconf-hooks/held
    test -r $file; or return
    for line in (tail -n +2 $file)
        set -l fields (string match --all --regex '\S+' -- $line)
        if test (count $words) -lt 3
            echo $fields[1]
        else if test "$words[3]" = "$fields[1]"
            echo $fields[2]
        end
    end
end

# Print the names of wishes: stanzas with netconf-uplink.
function __netconf_hooks_wishes
    set -l files /etc/network/interfaces /etc/network/interfaces.d/*
    set -l name
    for line in (cat $files 2>/dev/null)
        set -l words (string match --all --regex '\S+' -- $line)
        switch (string lower -- "$words[1]")
            case iface
                set name $words[2]
            case auto 'allow-*' mapping source source-directory template
                set name
            case netconf-uplink netconf_uplink
                set -q name[1]; and echo $name
        end
    end
end

function __netconf_hooks_has_command
    set -l words (commandline --tokenize --cut-at-cursor --current-process | string match --invert -- '-*')
    set -q words[2]; and contains -- $words[2] $argv
end

set -l commands status explain plan probe location check monitor refresh hold unhold want unwant portal \
    release close forget-server import-whereami watch
set -l none "not __netconf_hooks_has_command $commands"

complete -c netconf-hooks -f
complete -c netconf-hooks -n $none -a "$commands"
complete -c netconf-hooks -n $none -s v -l verbose
complete -c netconf-hooks -s h -l help
complete -c netconf-hooks -n "__netconf_hooks_has_command status explain plan probe monitor portal" -l json
complete -c netconf-hooks -n "__netconf_hooks_has_command status" -l color -x -a "auto always never"
complete -c netconf-hooks -n "__netconf_hooks_has_command explain" -l as -r -F
complete -c netconf-hooks -n "__netconf_hooks_has_command portal" -l for -x -a "1m 5m 15m 1h"
complete -c netconf-hooks -n "__netconf_hooks_has_command hold" -l for -x -a "30m 2h 8h 1d"
complete -c netconf-hooks -n "__netconf_hooks_has_command refresh" -l guards
complete -c netconf-hooks -n "__netconf_hooks_has_command check explain plan" -a "(__netconf_hooks_interfaces stanzas)"
complete -c netconf-hooks -n "__netconf_hooks_has_command probe location refresh portal release" \
    -a "(__netconf_hooks_interfaces)"
complete -c netconf-hooks -n "__netconf_hooks_has_command want unwant" -a "(__netconf_hooks_wishes)"
complete -c netconf-hooks -n "__netconf_hooks_has_command hold unhold" -a "(__netconf_hooks_tunnels)"
complete -c netconf-hooks -n "__netconf_hooks_has_command import-whereami" -F
