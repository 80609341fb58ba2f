// kelm._native: the only unit that knows Python. Checks shapes, lets the interpreter go on, calls a kernel.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "isa.hpp"
#include "rms_norm.hpp"

namespace nb = nanobind;

namespace kelm {
namespace {

using Rows = nb::ndarray<float, nb::ndim<2>, nb::device::cpu>;
using ConstRows = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;
using ConstVector = nb::ndarray<const float, nb::ndim<1>, nb::device::cpu>;

void require(bool holds, const char *message) {
    if (!holds) throw nb::value_error(message);
}

// A row of one float, or an array without floats, may carry any stride.
template <typename Array>
bool packed_rows(const Array &a) {
    return a.size() == 0 || a.shape(a.ndim() - 1) == 1 || a.stride(a.ndim() - 1) == 1;
}

auto kernel_of(int isa) {
    require(isa >= 0 && isa <= static_cast<int>(best_isa()), "this machine does not have that instruction set");
#if defined(__x86_64__)
    if (isa == static_cast<int>(Isa::avx512)) return rms_norm_avx512;
    if (isa == static_cast<int>(Isa::avx2)) return rms_norm_avx2;
#endif
    return rms_norm_portable;
}

void rms_norm(ConstRows x, ConstVector weight, Rows out, float eps, bool unit_offset, int isa) {
    const auto kernel = kernel_of(isa);
    require(out.shape(0) == x.shape(0) && out.shape(1) == x.shape(1), "out must have the shape of x");
    require(weight.shape(0) == x.shape(1), "weight must have one value for each column of x");
    require(packed_rows(x) && packed_rows(out) && packed_rows(weight), "the last dimension must be contiguous");
    const RmsNorm op{x.data(),
                     weight.data(),
                     out.data(),
                     static_cast<std::int64_t>(x.shape(0)),
                     static_cast<std::int64_t>(x.shape(1)),
                     x.stride(0),
                     out.stride(0),
                     eps,
                     unit_offset};
    if (x.size() == 0) return;
    const nb::gil_scoped_release release;
    kernel(op);
}

}  // namespace
}  // namespace kelm

NB_MODULE(_native, m) {
    m.doc() = "Kelm's CPU kernels; use kelm.ops.native";
    m.def("best_isa", [] { return static_cast<int>(kelm::best_isa()); });
    // noconvert: an array of another dtype or device is an error, never a silent copy.
    m.def("rms_norm", &kelm::rms_norm, nb::arg("x").noconvert(), nb::arg("weight").noconvert(),
          nb::arg("out").noconvert(), nb::arg("eps"), nb::arg("unit_offset"), nb::arg("isa"));
}
