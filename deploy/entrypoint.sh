#!/bin/sh
# Verifies the repository, then becomes tritonserver with the variant that was asked for.
#
#   SCENELOOM_REPOSITORY     folder that sceneloom export wrote; /models
#   SCENELOOM_VARIANT        tensorrt, tensorrt-throughput, onnxruntime, onnxruntime-tensorrt or embedded; tensorrt
#   SCENELOOM_ENCODED        on also serves the encoded path, in two Python processes around the same model; off
#   SCENELOOM_SHARED_MEMORY  on lets clients register shared memory; off
#   SCENELOOM_ADMIN_KEY      opens the restricted APIs to who sends it; without it nobody can
#
# Arguments go to tritonserver.
set -eu

repository=${SCENELOOM_REPOSITORY:-/models}
variant=${SCENELOOM_VARIANT:-tensorrt}

sceneloom verify "$repository" --variant "$variant"

# Triton takes every folder of its repository for a model and stops at one that is none, so it sees the models alone.
models=synthesis
if [ "${SCENELOOM_ENCODED:-off}" = on ]; then
    models="synthesis synthesis_decode synthesis_encode synthesis_encoded"
fi
served=$(mktemp -d)
for name in $models; do
    if [ ! -d "$repository/$name" ]; then
        echo "$repository/$name: missing; an older version exported it, export again" >&2
        exit 1
    fi
    ln -s "$(realpath "$repository")/$name" "$served/$name"
done

# What clients of a picture service have no use for. Triton closes an API by asking for a header; a random value that
# nobody is told closes it to everybody.
restricted=model-repository,trace,logging
if [ "${SCENELOOM_SHARED_MEMORY:-off}" != on ]; then
    restricted=$restricted,shared-memory
fi
key=${SCENELOOM_ADMIN_KEY:-$(head -c 32 /dev/urandom | sha256sum | cut -c 1-64)}

exec tritonserver \
    "--model-repository=$served" \
    "--model-config-name=$variant" \
    --model-control-mode=none \
    --disable-auto-complete-config \
    --exit-on-error=true \
    --strict-readiness=true \
    --exit-timeout-secs=30 \
    "--http-restricted-api=$restricted:sceneloom-admin=$key" \
    "--grpc-restricted-protocol=$restricted:sceneloom-admin=$key" \
    "$@"
