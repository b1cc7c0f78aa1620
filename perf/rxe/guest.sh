# shellcheck shell=bash
# What starting one guest and two have in common. Sourced by run and run-pair; sets and reads the variables named RXE_….
rxe_here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
rxe_tree=$(cd "$rxe_here/../.." && pwd)
rxe_cache=$rxe_here/cache${RXE_KERNEL:+.$RXE_KERNEL}

: "${RXE_MEMORY_MIB:=3072}" "${RXE_CPUS:=2}" "${RXE_HUGE_MIB:=64}" "${RXE_MEMLOCK_KIB:=unlimited}"
: "${RXE_TIMEOUT_SECONDS:=600}" "${RXE_ACCELERATION:=auto}"

fail() { # exit code, message
    echo "perf/rxe: error: $2" >&2
    exit "$1"
}

# Writes what a guest finds in /run/rxe: session directory, job, interactive or not, [side, address, peer's address].
write_session() {
    local session=$1 job=$2 interactive=$3 side=${4:-} address=${5:-10.9.0.1} peer=${6:-10.9.0.1} name
    {
        printf 'RXE_TREE=%q\nRXE_INTERACTIVE=%q\n' "$rxe_tree" "$interactive"
        printf 'RXE_SIDE=%q\nRXE_ADDRESS=%q\nRXE_PEER=%q\n' "$side" "$address" "$peer"
        printf 'RXE_HUGE_MIB=%q\nRXE_MEMLOCK_KIB=%q\n' "$RXE_HUGE_MIB" "$RXE_MEMLOCK_KIB"
        # What the caller set for the job: the tools' place, and the project's own variables.
        printf 'export PATH=%q\n' "$PATH"
        for name in ${!PAGEFERRY_@}; do printf 'export %s=%q\n' "$name" "${!name}"; done
        if [ "$interactive" = yes ]; then printf 'export TERM=%q\nstty -F /dev/hvc0 %s\n' "${TERM:-linux}" "$(terminal_size)"; fi
    } >"$session/settings"
    printf '%s\n' "$job" >"$session/job"
}

terminal_size() { stty size 2>/dev/null | sed -E 's/([0-9]+) ([0-9]+)/rows \1 cols \2/'; }

# Sets RXE_ACCELERATION to kvm or tcg. /dev/kvm may be there and yet run no kernel, so a boot decides, once for each boot of this host.
choose_acceleration() {
    case $RXE_ACCELERATION in
        kvm | tcg) ;;
        auto)
            local known
            known=$rxe_cache/acceleration.$(cat /proc/sys/kernel/random/boot_id)
            if [ ! -s "$known" ]; then
                rm -f "$rxe_cache"/acceleration.*
                if probe_kvm; then echo kvm >"$known"; else echo tcg >"$known"; fi
            fi
            RXE_ACCELERATION=$(cat "$known")
            ;;
        *) fail 64 "RXE_ACCELERATION is '$RXE_ACCELERATION'; use auto, kvm or tcg" ;;
    esac
    case $RXE_ACCELERATION in
        kvm) echo "soft-RoCE guest: KVM" >&2 ;;
        tcg) echo "soft-RoCE guest: software emulation (TCG); its times are not those of hardware" >&2 ;;
    esac
}

probe_kvm() {
    [ -r /dev/kvm ] && [ -w /dev/kvm ] || return 1
    local session result=1
    session=$(mktemp -d /tmp/pageferry-rxe.XXXXXX)
    write_session "$session" true no
    if RXE_ACCELERATION=kvm RXE_TIMEOUT_SECONDS=15 boot_guest "$session" >/dev/null 2>&1; then result=0; fi
    rm -rf "$session"
    return "$result"
}

# Prints QEMU's arguments, one a line (paths here have no line breaks).
guest_arguments() { # session directory
    local command_line="console=ttyS0 quiet panic=-1 mitigations=off"
    printf '%s\n' -machine pc -smp "$RXE_CPUS" -m "$RXE_MEMORY_MIB" -nodefaults -no-user-config -display none -no-reboot \
        -kernel "$rxe_cache/vmlinux" -initrd "$rxe_cache/initramfs" -serial "file:$1/console" \
        -chardev "stdio,id=job,signal=off" -device virtio-serial-pci -device virtconsole,chardev=job \
        -virtfs "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap" \
        -virtfs "local,path=$1,mount_tag=session,security_model=none" \
        -virtfs "local,path=$rxe_tree,mount_tag=tree,security_model=none,multidevs=remap"
    if [ "$RXE_ACCELERATION" = kvm ]; then
        printf '%s\n' -accel kvm -cpu host
    else
        # Without these features the kernel takes paths that emulation runs two to three times faster.
        printf '%s\n' -accel "tcg,thread=multi" -cpu "max,-erms,-pclmulqdq,-smap,-smep,-la57"
        command_line+=" tsc=reliable no_timer_check"
        # QEMU before 8.1 may run a breakpoint that the kernel has just taken back while it patches itself ("int3: 0000"), when
        # another processor translates the code meanwhile. Nearly all patching is at the start, so one processor starts alone;
        # guest-session brings the others up. They need no loop calibration, which fails there after a second.
        command_line+=" maxcpus=1 noreplace-smp lpj=12000000"
    fi
    printf '%s\n' -append "$command_line${RXE_KERNEL_ARGUMENTS:+ $RXE_KERNEL_ARGUMENTS}"
}

# Boots a guest on a session directory, [further QEMU arguments], and waits for its end; returns its job's status, 70 when the
# guest ended without one, 75 when that was the emulation's fault. rxe_pid is QEMU's parent meanwhile.
boot_guest() {
    local session=$1 arguments status=0
    shift
    mapfile -t arguments < <(guest_arguments "$session")
    arguments+=("$@")
    if grep -q '^RXE_INTERACTIVE=yes' "$session/settings"; then
        qemu-system-x86_64 "${arguments[@]}" <&0 &
    else
        timeout --foreground --kill-after=5 "$RXE_TIMEOUT_SECONDS" qemu-system-x86_64 "${arguments[@]}" </dev/null &
    fi
    rxe_pid=$!
    echo "$rxe_pid" >"$session/pid"
    wait "$rxe_pid" || status=$?
    rxe_pid=
    if [ -s "$session/status" ]; then return "$(cat "$session/status")"; fi
    explain_end "$session" "$status"
}

explain_end() { # session directory, QEMU's status
    # Told to end by run-pair, which says why itself.
    [ ! -e "$1/given-up" ] || return 70
    local console=$1/console
    [ -z "${RXE_CONSOLE:-}" ] || cp "$console" "$RXE_CONSOLE"
    if [ "$2" = 124 ] || [ "$2" = 137 ]; then
        echo "perf/rxe: error: the job had not ended after $RXE_TIMEOUT_SECONDS s; RXE_TIMEOUT_SECONDS allows more" >&2
        return 70
    fi
    if [ "$RXE_ACCELERATION" = tcg ] && grep -q 'int3: 0000' "$console" 2>/dev/null; then
        echo "perf/rxe: error: QEMU's emulation broke the guest's kernel, a fault of QEMU before 8.1; run it again" >&2
        return 75
    fi
    echo "perf/rxe: error: the guest ended without a status (QEMU's: $2); the end of its console:" >&2
    { grep -aE -m 3 "BUG:|Oops|Kernel panic|rxe-guest:" "$console"; tail -n 8 "$console"; } 2>/dev/null | tr -d "\r" | sed "s/^/  console: /" >&2
    return 70
}

# Ends the guest that boot_guest waits for, when this script is told to end.
end_with_guest() {
    trap 'kill "${rxe_pid:-}" 2>/dev/null; exit 130' INT
    trap 'kill "${rxe_pid:-}" 2>/dev/null; exit 143' TERM HUP
}
