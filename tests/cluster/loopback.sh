#!/usr/bin/env bash
# A working day on `ray up`, in namespaces of its own. Arguments: folder to work in, Python of the tested environment.
set -euo pipefail
work=$1 python=$2
mount -t proc proc /proc
ip link set lo up
export HOME=$work/home TMPDIR=$work RAY_TMPDIR=$work RAY_USAGE_STATS_ENABLED=0 RAY_UP_enable_autoscaler_v2=0
export PATH=$work/home/samtune-env/bin:$PATH
mkdir -p /run/sshd
/usr/sbin/sshd -f "$work/sshd_config"
cluster=$work/cluster.yaml

step() { echo "\$ $*"; "$@" </dev/null 2>&1 | tr -d '\r'; }
step ray up --yes --no-config-cache "$cluster"
step ray rsync-up "$cluster" "$work/my.yaml" '~/my.yaml'
step ray exec "$cluster" 'curl -sf http://127.0.0.1:5000/health && \
  samtune search --space ~/my.yaml --num-trials 2 --name loopback \
  --storage-path ~/studies --tracking-uri http://127.0.0.1:5000 --json > ~/search.json && \
  samtune status loopback --storage-path ~/studies'
mkdir "$work/code"
export RAY_AUTH_MODE=token  # the token is in this home, as `ray up` has brought it
step ray job submit --address http://127.0.0.1:8265 --working-dir "$work/code" -- \
  samtune search --resume loopback --num-trials 3 --storage-path "$HOME/studies"
curl -s -X POST -H 'Content-Type: application/json' -d '{"experiment_ids": ["1"]}' \
  http://127.0.0.1:5000/api/2.0/mlflow/runs/search > "$work/runs.json"
step ray down --yes "$cluster"
echo "left: $(pgrep -c 'raylet|gcs_server' || true)"
