# To be sourced by a shell on the GPU machine, in the project's root: . benchmarks/gpu_pack/env.sh
# Afterwards its Python runs from the pack in .gpu. PYTHON=... says which Python.
exports=$("${PYTHON:-python3}" -m benchmarks.gpu_pack.unpack) && eval "$exports"
