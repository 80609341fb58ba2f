// kelm._native. The units named module*.cpp are the only ones that know Python: they check shapes, let the
// interpreter go on, and call a kernel.
#include "module.hpp"

#include "rms_norm.hpp"

namespace kelm {
namespace {

auto rms_norm_of(Isa isa) {
#if defined(__x86_64__)
    if (isa >= Isa::avx512) return rms_norm_avx512;
    if (isa >= Isa::avx2) return rms_norm_avx2;
#endif
    (void)isa;
    return rms_norm_portable;
}

void rms_norm(ConstRows2 x, ConstVector weight, Rows2 out, float eps, bool unit_offset, int isa) {
    const auto kernel = rms_norm_of(isa_of(isa));
    require(out.shape(0) == x.shape(0) && out.shape(1) == x.shape(1), "out must have the shape of x");
    require(weight.shape(0) == x.shape(1), "weight must have one value for each column of x");
    require(contiguous_rows(x) && contiguous_rows(out) && contiguous_rows(weight),
            "the last dimension must be contiguous");
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

nb::list machine_isas() {
    nb::list found;
    for (int isa = 0; isa < kIsas; ++isa)
        if (machine_has(static_cast<Isa>(isa))) found.append(isa);
    return found;
}

}  // namespace
}  // namespace kelm

NB_MODULE(_native, m) {
    m.doc() = "Kelm's CPU kernels; use kelm.ops.native";
    m.def("machine_isas", &kelm::machine_isas);
    // noconvert: an array of another dtype or device is an error, never a silent copy.
    m.def("rms_norm", &kelm::rms_norm, nanobind::arg("x").noconvert(), nanobind::arg("weight").noconvert(),
          nanobind::arg("out").noconvert(), nanobind::arg("eps"), nanobind::arg("unit_offset"), nanobind::arg("isa"));
    kelm::bind_linear(m);
    kelm::bind_step(m);
}
