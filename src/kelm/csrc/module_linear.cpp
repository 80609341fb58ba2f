// Packed weights and their products in kelm._native; use kelm.ops.packed.
#include <optional>

#include <nanobind/stl/optional.h>

#include "bandwidth.hpp"
#include "linear.hpp"
#include "module.hpp"

namespace kelm {
namespace {

constexpr int kMostThreads = 1024;

using Data = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::device::cpu>;
using NewData = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::device::cpu>;
using Ids = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::device::cpu>;
using Matrix = nb::ndarray<nb::ro, nb::ndim<2>, nb::device::cpu>;

Element element_of(const Matrix &rows) {
    const auto type = rows.dtype();
    const auto code = static_cast<nb::dlpack::dtype_code>(type.code);
    if (type.lanes == 1 && type.bits == 32 && code == nb::dlpack::dtype_code::Float) return Element::f32;
    if (type.lanes == 1 && type.bits == 16 && code == nb::dlpack::dtype_code::Float) return Element::f16;
    if (type.lanes == 1 && type.bits == 16 &&
        (code == nb::dlpack::dtype_code::Bfloat || code == nb::dlpack::dtype_code::UInt))
        return Element::bf16;
    throw nb::type_error("weights must be float32, float16, bfloat16, or bfloat16's bits as uint16");
}

void pack_rows(Pool &pool, Matrix rows, NewData to, int format) {
    const Element element = element_of(rows);
    const auto packed = packed_of(to, static_cast<std::int64_t>(rows.shape(0)),
                                  static_cast<std::int64_t>(rows.shape(1)), format);
    require(contiguous_rows(rows), "the last dimension must be contiguous");
    bool good;
    {
        const nb::gil_scoped_release release;
        Pool::Turn turn(pool);
        good = pack(turn, {rows.data(), rows.stride(0), element}, packed, to.data());
    }
    require(good, "a weight is not finite, or too large for the format");
}

void unpack_rows(Pool &pool, Data data, std::int64_t outputs, std::int64_t inputs, int format, Ids ids, Rows2 out) {
    const Packed packed = packed_of(data, outputs, inputs, format);
    require(out.shape(0) == ids.shape(0) && static_cast<std::int64_t>(out.shape(1)) == inputs,
            "out is " + shape_of(out) + ", the rows are [" + std::to_string(ids.shape(0)) + ", " +
                std::to_string(inputs) + "]");
    require(contiguous_rows(ids) && contiguous_rows(out), "the last dimension must be contiguous");
    const auto count = static_cast<std::int64_t>(ids.shape(0));
    for (std::int64_t i = 0; i < count; ++i)
        require(ids.data()[i] >= 0 && ids.data()[i] < outputs,
                "id " + std::to_string(ids.data()[i]) + " of " + std::to_string(outputs) + " rows");
    const nb::gil_scoped_release release;
    Pool::Turn turn(pool);
    unpack(turn, packed, ids.data(), count, out.data(), out.stride(0));
}

void multiply(Pool &pool, ConstRows2 x, Data data, std::int64_t outputs, int format, std::optional<ConstVector> bias,
              Rows2 out, int isa) {
    const auto rows = static_cast<std::int64_t>(x.shape(0)), inputs = static_cast<std::int64_t>(x.shape(1));
    const Isa chosen = isa_of(isa);
    const Packed packed = packed_of(data, outputs, inputs, format);
    require(static_cast<std::int64_t>(out.shape(0)) == rows && static_cast<std::int64_t>(out.shape(1)) == outputs,
            "out is " + shape_of(out) + ", the result [" + std::to_string(rows) + ", " + std::to_string(outputs) + "]");
    require(!bias || (static_cast<std::int64_t>(bias->shape(0)) == outputs && contiguous_rows(*bias)),
            "bias must be one contiguous value for each of " + std::to_string(outputs) + " outputs");
    require(contiguous_rows(x) && contiguous_rows(out), "the last dimension must be contiguous");
    const Linear op{x.data(),  rows,          x.stride(0), packed, bias ? bias->data() : nullptr,
                    out.data(), out.stride(0), Epilogue::none, Activation::none, 0};
    const nb::gil_scoped_release release;
    Pool::Turn turn(pool);
    linear(turn, chosen, op);
}

std::uint64_t read_bytes(Pool &pool, Data data) {
    require(contiguous_rows(data) && reinterpret_cast<std::uintptr_t>(data.data()) % 8 == 0 && data.shape(0) % 8 == 0,
            "data must be whole words of 8 bytes");
    const nb::gil_scoped_release release;
    Pool::Turn turn(pool);
    return read_all(turn, reinterpret_cast<const std::uint64_t *>(data.data()),
                    static_cast<std::int64_t>(data.shape(0) / 8));
}

}  // namespace

void bind_linear(nb::module_ &m) {
    nb::class_<Pool>(m, "ThreadPool")
        .def("__init__",
             [](Pool *self, int threads) {
                 require(threads >= 1 && threads <= kMostThreads,
                         std::to_string(threads) + " threads; a pool has 1 to " + std::to_string(kMostThreads));
                 new (self) Pool(threads);
             },
             nb::arg("threads"))
        .def_prop_ro("threads", &Pool::threads);
    m.def("packed_bytes", [](std::int64_t outputs, std::int64_t inputs, int format) {
        return packed_shape(nullptr, outputs, inputs, format).bytes();
    });
    m.def("pack", &pack_rows, nb::arg("pool"), nb::arg("rows").noconvert(), nb::arg("to").noconvert(),
          nb::arg("format"));
    m.def("unpack", &unpack_rows, nb::arg("pool"), nb::arg("data").noconvert(), nb::arg("outputs"), nb::arg("inputs"),
          nb::arg("format"), nb::arg("ids").noconvert(), nb::arg("out").noconvert());
    m.def("linear", &multiply, nb::arg("pool"), nb::arg("x").noconvert(), nb::arg("data").noconvert(),
          nb::arg("outputs"), nb::arg("format"), nb::arg("bias").noconvert().none(), nb::arg("out").noconvert(),
          nb::arg("isa"));
    m.def("read_all", &read_bytes, nb::arg("pool"), nb::arg("data").noconvert());
}

}  // namespace kelm
