#!/bin/sh
# Verifies the repository, runs tritonserver with the variant that was asked for, and ends it once it no longer gives the
# golden picture: restart policies act on containers that end, and a server whose model has died still says that it is
# ready.
#
#   SCENELOOM_REPOSITORY     folder that sceneloom export wrote; /models
#   SCENELOOM_VARIANT        tensorrt, tensorrt-throughput, aoti, onnxruntime or embedded; tensorrt
#   SCENELOOM_SHARED_MEMORY  on lets clients register shared memory; off
#   SCENELOOM_ADMIN_KEY      opens the restricted APIs to who sends it; without it nobody can
#   SCENELOOM_START_SECONDS  until the first probe must be right; 600
#   SCENELOOM_PROBE_SECONDS  between two probes; three in a row that fail end the server; 30
#   SCENELOOM_PROBE_URL      HOST:PORT of the gRPC port that is probed; 127.0.0.1:8001
#
# Arguments go to tritonserver.
set -eu

repository=${SCENELOOM_REPOSITORY:-/models}
variant=${SCENELOOM_VARIANT:-tensorrt}

sceneloom verify "$repository" --variant "$variant"
[ "$variant" = embedded ] || sceneloom-driver

# PyTorch unpacks a package into a temporary folder and loads its code from there.
if [ "$variant" = aoti ]; then
    trial=$(mktemp)
    echo '#!/bin/sh' > "$trial"
    chmod u+x "$trial"
    if ! "$trial" 2> /dev/null; then
        echo "${TMPDIR:-/tmp}: nothing can be executed from it, and PyTorch loads the package's code from there: set" \
            "SCENELOOM_TMP=exec for docker-compose.yml, or mount it with exec" >&2
        exit 1
    fi
    rm "$trial"
fi

# Triton takes every folder of its repository for a model and stops at one that is none, so it sees the models alone. Where
# Python runs a model, each of its files is linked alone: Triton writes bytecode beside model.py, and would run bytecode
# that lies there. Engines of Triton's own look for a graph's weights in the folder that the graph lies in.
source=$(realpath "$repository/synthesis")
served=$(mktemp -d)
mkdir "$served/synthesis"
ln -s "$source/config.pbtxt" "$served/synthesis/"
[ ! -d "$source/configs" ] || ln -s "$source/configs" "$served/synthesis/"
if [ "$variant" != embedded ]; then
    ln -s "$source/1" "$served/synthesis/"
    if [ "$variant" = aoti ]; then
        mkdir "$served/synthesis_aoti"
        ln -s "$source/aoti/config.pbtxt" "$source/1" "$served/synthesis_aoti/"
    fi
else
    mkdir "$served/synthesis/1"
    ln -s "$source/1"/* "$served/synthesis/1/"
fi

# What clients of a picture service have no use for. Triton closes an API by asking for a header; a random value that
# nobody is told closes it to everybody.
restricted=model-repository,trace,logging
shared=
if [ "${SCENELOOM_SHARED_MEMORY:-off}" != on ]; then
    restricted=$restricted,shared-memory
elif tritonserver --help 2>&1 | grep -q -e --allow-client-shm; then
    # From 2.68 (26.04) on, this flag alone opens it. Older servers end at a flag that they do not know.
    shared=--allow-client-shm=true
fi
key=${SCENELOOM_ADMIN_KEY:-$(head -c 32 /dev/urandom | sha256sum | cut -c 1-64)}

# Triton parses HTTP forms on the stack of its threads.
# shellcheck disable=SC3045 # dash has it
ulimit -s 131072 2> /dev/null || true
tritonserver \
    "--model-repository=$served" \
    "--model-config-name=$variant" \
    --model-control-mode=none \
    --disable-auto-complete-config \
    --exit-on-error=true \
    --strict-readiness=true \
    --exit-timeout-secs=30 \
    "--http-restricted-api=$restricted:sceneloom-admin=$key" \
    "--grpc-restricted-protocol=$restricted:sceneloom-admin=$key" \
    ${shared:+"$shared"} \
    "$@" &
server=$!

end_if_it_fails() {
    late=$(($(date +%s) + ${SCENELOOM_START_SECONDS:-600}))
    every=${SCENELOOM_PROBE_SECONDS:-30}
    soon=$((every < 5 ? every : 5))
    pause=$soon
    started=
    failed=0
    while [ "$failed" -lt 3 ]; do
        sleep "$pause" >/dev/null 2>&1
        pause=$soon
        if said=$(sceneloom probe "$repository" --url "${SCENELOOM_PROBE_URL:-127.0.0.1:8001}" --timeout 25 2>&1); then
            [ -n "$started" ] || echo "$said"
            started=yes
            failed=0
            pause=$every
        elif [ -n "$started" ] || [ "$(date +%s)" -ge "$late" ]; then
            failed=$((failed + 1))
        fi
    done
    echo "$said; the server is ended after $failed probes that failed" >&2
    # Triton would wait for requests that nobody answers.
    kill -KILL "$server"
}
end_if_it_fails &
watcher=$!
trap 'kill "$watcher" "$server" 2>/dev/null' TERM INT HUP

code=0
wait "$server" || code=$?
# A signal ends a wait before the server has ended.
while kill -0 "$server" 2>/dev/null; do
    code=0
    wait "$server" || code=$?
done
kill "$watcher" 2>/dev/null || true
exit "$code"
