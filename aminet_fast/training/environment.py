"""Environment variables that the libraries of a run read by themselves: the run's own options win over all of them.

They are left over from another project, come from a file of `accelerate config`, or are set by `accelerate launch`.
Accelerate's are held away while it works for a run, or refused where they choose another engine. Those of the other
libraries that change numbers are written down (`numeric_variables`): they were read before a run could hold them away.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

PREFIX = "ACCELERATE_"
# Of its variables those that change nothing in the numbers: what a launcher tells the processes that it starts.
HARMLESS = {"ACCELERATE_DEBUG_MODE", "ACCELERATE_CPU_AFFINITY", "ACCELERATE_LOG_LEVEL"}
USE_CPU = "ACCELERATE_USE_CPU"
ENGINES = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism configuration",
    "ACCELERATE_USE_SAGEMAKER": "SageMaker's data parallelism",
}
# Which instructions, algorithms and precisions the libraries choose, or in what order they sum.
NUMERIC = (
    "ATEN_CPU_CAPABILITY",
    "CUBLASLT_WORKSPACE_SIZE",
    "CUBLAS_WORKSPACE_CONFIG",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "KMP_DETERMINISTIC_REDUCTION",
    "MIOPEN_FIND_ENFORCE",
    "MIOPEN_FIND_MODE",
    "MKL_CBWR",
    "MKL_DEBUG_CPU_TYPE",
    "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_NUM_THREADS",
    "NCCL_ALGO",
    "NCCL_PROTO",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OMP_DYNAMIC",
    "OPENBLAS_CORETYPE",
    "PYTORCH_TUNABLEOP_ENABLED",
    "ROCBLAS_INTERNAL_FP16_ALT_IMPL",
    "TORCHDYNAMO_DISABLE",
    "TORCHINDUCTOR_EMULATE_PRECISION_CASTS",
    "TORCHINDUCTOR_MAX_AUTOTUNE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCH_BLAS_PREFER_HIPBLASLT",
    "TORCH_COMPILE_DISABLE",
    "TORCH_CUDNN_V8_API_DISABLED",
    "TORCH_LINALG_PREFER_CUSOLVER",
    "TRITON_DEFAULT_FP_FUSION",
    "TRITON_F32_DEFAULT",
    "TRITON_INTERPRET",
)


def is_on(name: str) -> bool:
    """Whether a variable is set to yes, as Accelerate reads it; what it does not know is no."""
    return os.environ.get(name, "").lower() in ("y", "yes", "t", "true", "on", "1")


def refuse_engines() -> None:
    """Raise ValueError where a variable chooses an engine that would train another way than the options say."""
    for name, engine in ENGINES.items():
        if is_on(name) and not (engine.startswith("SageMaker") and _no_sagemaker()):
            raise ValueError(
                f"{name}={os.environ[name]} asks for {engine}, with which nothing here trains; unset it (unset {name}),"
                " or leave its option out of accelerate launch and accelerate config"
            )


def _no_sagemaker() -> bool:
    return os.environ.get("ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE") == "NO"


@contextmanager
def without_accelerates_own() -> Iterator[None]:
    """Inside, Accelerate finds none of its variables but the harmless ones; afterwards all are as they were.

    For as long as a run lasts: not only `Accelerator` reads them, also what `prepare` makes.
    """
    held = {name: value for name, value in os.environ.items() if name.startswith(PREFIX) and name not in HARMLESS}
    for name in held:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(held)


def numeric_variables() -> str | None:
    """Those that are set, as "MKL_CBWR=AVX2 NCCL_ALGO=Ring"; None where none is."""
    return " ".join(f"{name}={os.environ[name]}" for name in NUMERIC if name in os.environ) or None
