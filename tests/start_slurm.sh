#!/usr/bin/env bash
# Start Slurm on this machine alone, for `CELLZOO_SLURM=1 pytest tests/test_clusters.py`.
# `make test` does not use it. Run as root, on Debian after `apt-get install slurm-wlm munge`.
# All files are written to FOLDER.
set -euo pipefail
folder=${1:?usage: start_slurm.sh FOLDER}
host=$(hostname -s)
mkdir -p "$folder"/{spool,state,log,run}

[ -s /etc/munge/munge.key ] || mungekey --create
install -d -o munge -g munge /run/munge /var/log/munge /var/lib/munge
pgrep -x munged >/dev/null || runuser -u munge -- munged

cat > "$folder/slurm.conf" <<CONF
ClusterName=cellzoo
SlurmctldHost=$host
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
NodeName=$host CPUs=2 State=UNKNOWN
PartitionName=low Nodes=$host Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=30 State=UP
PartitionName=high Nodes=$host PriorityTier=10 PreemptMode=OFF State=UP
CONF
install -d /etc/slurm
ln -sf "$folder/slurm.conf" /etc/slurm/slurm.conf
pgrep -x slurmctld >/dev/null || slurmctld
sleep 1
pgrep -x slurmd >/dev/null || slurmd
sleep 2
sinfo
