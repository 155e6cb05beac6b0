// The module aminet_fast._compiled._C. Importing it runs the static registrations of the other files; its one function
// tells which copy of the kernels runs here.
#include <Python.h>

#include "cpu/capability.h"

namespace {

PyObject* cpu_capability(PyObject*, PyObject*) {
  return PyUnicode_FromString(aminet::capability_name(aminet::capability()));
}

PyMethodDef methods[] = {
    {"cpu_capability", cpu_capability, METH_NOARGS, "Which copy of the CPU kernels runs: portable, avx2 or avx512."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C() { return PyModule_Create(&module); }
