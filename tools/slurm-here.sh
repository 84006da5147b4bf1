#!/usr/bin/env bash
# Start or stop a one-machine Slurm cluster for trying `--launcher slurm`. It has two partitions;
# jobs in `high` preempt jobs in `low`. Needs root and the Debian packages slurm-wlm and munge.
# Writes to the given folder only.
set -euo pipefail

usage="Usage: tools/slurm-here.sh start|stop [FOLDER (default /tmp/slurm-here)]
After start: export SLURM_CONF=FOLDER/slurm.conf"
action=${1:-}
home=$(realpath -m "${2:-/tmp/slurm-here}")
export SLURM_CONF=$home/slurm.conf

fail() {
    echo "slurm-here.sh: error: $1" >&2
    exit 2
}

stop() {
    local name
    for name in slurmd slurmctld munged; do
        if [ -f "$home/$name.pid" ]; then
            kill "$(cat "$home/$name.pid")" 2>/dev/null || true
        fi
    done
}

configure() {
    local host
    host=$(hostname -s)
    mkdir -p "$home/state" "$home/spool" "$home/munge"
    chmod 755 "$home" "$home/munge"
    [ -f "$home/munge/key" ] ||
        (umask 077 && dd if=/dev/urandom of="$home/munge/key" bs=128 count=1 status=none)
    cat >"$SLURM_CONF" <<END
ClusterName=here
SlurmctldHost=$host
SlurmctldPort=${SLURM_HERE_PORT:-16817}
SlurmdPort=$((${SLURM_HERE_PORT:-16817} + 1))
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$home/munge/socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
ReturnToService=2
SlurmdParameters=config_overrides
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool
SlurmctldPidFile=$home/slurmctld.pid
SlurmdPidFile=$home/slurmd.pid
SlurmctldLogFile=$home/slurmctld.log
SlurmdLogFile=$home/slurmd.log
NodeName=$host CPUs=4 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
END
}

start() {
    local attempt
    configure
    munged --force --key-file="$home/munge/key" --socket="$home/munge/socket" \
        --pid-file="$home/munged.pid" --log-file="$home/munge/log" \
        --seed-file="$home/munge/seed" 2>/dev/null ||
        fail "munged does not start: is munge installed, are you root? See $home/munge/log"
    slurmctld
    slurmd
    for attempt in $(seq 60); do
        if sinfo -h -t idle -o %n 2>/dev/null | grep -q .; then
            echo "export SLURM_CONF=$SLURM_CONF"
            return
        fi
        sleep 0.5
    done
    stop
    fail "the node does not come up; see $home/slurmctld.log and $home/slurmd.log"
}

case $action in
    start) start ;;
    stop) stop ;;
    *) echo "$usage" >&2; exit 2 ;;
esac
