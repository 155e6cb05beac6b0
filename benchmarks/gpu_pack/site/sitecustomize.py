"""Lets a Triton find what another machine's Triton of the same version compiled; Python imports this as it starts.

The keys of Triton's cache hold hashes of libtriton.so, which differs between Python versions, and ptxas's version. As
the modules that make them are imported, both become constants; sources, signatures, options and architecture stay in
the keys, and no longer depend on the order of launches. And _C_cuda is the pack's, where it has one.

AMINET_PACK_TRITON: the version that the pack is for; under another, or without it, nothing is changed.
AMINET_PACK_MODULE: the pack's _C_cuda.
"""

import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import sys

VERSION = os.environ.get("AMINET_PACK_TRITON", "")
MODULE = os.environ.get("AMINET_PACK_MODULE", "")
KEY = f"aminet-pack-{VERSION}"


def pin_key(module):
    """Of a module that has triton_key, its own or by import."""
    if not hasattr(module, "triton_key"):
        raise ImportError(f"{module.__name__} of Triton {VERSION} has no triton_key: its cache works in another way")
    module.triton_key = lambda: KEY


def pin_ptxas(module):
    """Of Triton's backend for NVIDIA: the architecture alone."""
    module.CUDABackend.hash = lambda self: f"pinned-{self.target.arch}"


def pin_order(module):
    """Of a function's key, which names a global of a function that it calls only where that one had its key already.

    So it depended on what was launched before in the process; now the called one always has its key first.
    """
    update = module.DependenciesFinder._update_hash

    def called_first(self, func):
        func.cache_key  # noqa: B018
        update(self, func)

    module.DependenciesFinder._update_hash = called_first


PINS = {
    "triton.runtime.jit": pin_order,
    "triton.runtime.cache": pin_key,
    "triton.runtime.autotuner": pin_key,
    "triton.backends.nvidia.compiler": pin_ptxas,
}


class Finder(importlib.abc.MetaPathFinder):
    """Finds what Python would find, changes it once it is executed, and knows where _C_cuda is."""

    def find_spec(self, name, path=None, target=None):
        if name == "aminet_fast._compiled" and MODULE:  # the folder may not be there: it is what a build leaves
            spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [os.path.join(folder, "_compiled") for folder in path or ()]
            return spec
        if name == "aminet_fast._compiled._C_cuda" and MODULE:
            return importlib.util.spec_from_file_location(name, MODULE)
        if name not in PINS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            PINS[name](module)

        spec.loader.exec_module = exec_module
        return spec


def installed():
    """Triton's version, "" without one."""
    try:
        return importlib.metadata.version("triton").split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return ""


if VERSION and installed() == VERSION:
    sys.meta_path.insert(0, Finder())
