"""The text of the batch script. `@name@` is filled in by `SlurmJob`."""

SCRIPT = r"""#!/bin/bash
@directives@
#
# Written by `samtune slurm`; submit it with `sbatch FILE`. The first time it starts the study, after a pre-emption, the
# end of its time or a lost node it resumes it: submit it again, or let Slurm requeue it.
# The space, the storage path and the environment below must be at the same place on every node (a shared file system).

set -uo pipefail

export PATH=@bin@:"$PATH"   # the environment that wrote this script
study=@study@
where=(@where@)

# -- Ray on all nodes of the job ---------------------------------------------------------------------------------------

# Other users of the nodes can reach Ray's ports: a token of this job alone keeps them out.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN
export RAY_DISABLE_IMPORT_WARNING=1

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts[0]}   # where this script runs
address=$(getent ahostsv4 "$head" | awk '$1 !~ /^127[.]/ {print $1; exit}')
address=${address:-$(hostname -I | awk '{print $1}')}
port=$((20000 + SLURM_JOB_ID % 20000))   # several jobs may share a node
ray=(ray start --block --disable-usage-stats --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus=@gpus@)

started=()
start_on() {   # start_on NODE ARGUMENT...: Ray, as a step of this job that Slurm ends with it
  # Since Slurm 22.05 a step does not inherit the CPUs: without the option Ray would have one core.
  srun --nodes=1 --ntasks=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --nodelist="$1" --overlap \
    "${ray[@]}" "${@:2}" > "ray-$SLURM_JOB_ID-$1.log" 2>&1 &
  started+=($!)
}

start_on "$head" --head --node-ip-address="$address" --port="$port" --include-dashboard=false \
  --temp-dir="/tmp/ray-$SLURM_JOB_ID"
for host in "${hosts[@]:1}"; do
  start_on "$host" --address="$address:$port"
done

# A node that does not come is not waited for longer: the search uses those that did, and it when it comes.
python - "$address:$port" "${#hosts[@]}" <<'PYTHON'
import subprocess, sys, time
address, wanted = sys.argv[1], int(sys.argv[2])
found, end = 0, time.monotonic() + 300
while found < wanted and time.monotonic() < end:
    status = subprocess.run(["ray", "status", f"--address={address}"], capture_output=True, text=True)
    active = status.stdout.partition("Active:")[2].partition("Pending:")[0]
    found = sum(int(line.split()[0]) for line in active.splitlines() if line.split() and line.split()[0].isdigit())
    time.sleep(1)
print(f"Ray runs on {found} of {wanted} nodes", flush=True)
sys.exit(0 if found else 1)
PYTHON
ready=$?

# -- the search --------------------------------------------------------------------------------------------------------

code=1
told=""
if [ "$ready" -eq 0 ]; then
  if samtune status "$study" "${where[@]}" > /dev/null 2>&1; then
    search=(--resume "$study")
  else
    search=(--space @space@ --name "$study"@new@)
  fi
  samtune search "${search[@]}" "${where[@]}" --address "$address:$port" --trust < /dev/null &
  driver=$!
  # Slurm sends SIGTERM before it ends the job: the running trials are saved, which takes seconds.
  trap 'told=yes; kill -TERM "$driver" 2> /dev/null' TERM
  wait "$driver"
  code=$?
  while kill -0 "$driver" 2> /dev/null; do   # the signal ended the wait, not the search
    wait "$driver"
    code=$?
  done
fi

trap '' TERM
kill "${started[@]}" 2> /dev/null
wait "${started[@]}" 2> /dev/null
if [ -n "$told" ] && [ "$code" -eq 143 ]; then
  echo "stopped by Slurm, with the running trials saved: the job is queued again"
  scontrol requeue "$SLURM_JOB_ID" || echo "not requeued here: submit the script again to resume"
fi
exit "$code"
"""
