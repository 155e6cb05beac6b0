// The module aminet_fast._compiled._C_cuda. Importing it runs the static registrations of the other files; its one function tells
// what it was compiled for. It can be imported where there is no driver.
#include <Python.h>

#include "cuda/device.h"

namespace {

PyObject* runtime_version(PyObject*, PyObject*) { return PyLong_FromLong(CUDART_VERSION); }

PyMethodDef methods[] = {
    {"runtime_version", runtime_version, METH_NOARGS, "CUDA's version at the build: 13000 is 13.0."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C_cuda", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C_cuda() { return PyModule_Create(&module); }
