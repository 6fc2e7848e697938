#!/bin/sh
# Refuses a driver that is too old for the image's CUDA, in a sentence: each library would only say that the "driver version
# is insufficient", and the server would not start.
#
# CUDA 13 needs R580, CUDA 12 R525. With an older driver of a data-centre GPU, NVIDIA's Container Toolkit from 1.17.7 on puts
# the image's compatibility libraries first: then nvidia-smi names their CUDA, and nothing is in the way.
set -eu

cuda=${CUDA_VERSION:-13} # of the image
case ${cuda%%.*} in
12) least=525 ;;
13) least=580 ;;
*) exit 0 ;;
esac

if ! command -v nvidia-smi > /dev/null; then
    echo "no nvidia-smi in this container: start it with NVIDIA's Container Toolkit and the driver capability utility, as" \
        "docker-compose.yml does, or use docker-compose.cpu.yml on a host without a GPU" >&2
    exit 1
fi
if ! said=$(nvidia-smi -q 2>&1); then
    echo "nvidia-smi sees no NVIDIA GPU: $(echo "$said" | head -n 1)" >&2
    exit 1
fi
value() {
    echo "$said" | sed -n "s/^$1 *: *\([0-9.]*\).*/\1/p" | head -n 1
}
driver=$(value "Driver Version")
takes=$(value "CUDA Version")
# Words that another version of nvidia-smi writes otherwise are no reason to refuse.
if [ -n "$driver" ] && [ "${driver%%.*}" -lt "$least" ] && [ "${takes%%.*}" != "${cuda%%.*}" ]; then
    echo "the NVIDIA driver is $driver and takes CUDA ${takes:-of its own age} at most; this image has CUDA ${cuda%%.*}, which needs" \
        "driver R$least or newer, or on a data-centre GPU NVIDIA's Container Toolkit 1.17.7 or newer" >&2
    exit 1
fi
