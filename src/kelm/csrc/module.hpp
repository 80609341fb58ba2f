// What the units that know Python share: checks of arrays, and each unit's part of kelm._native.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <string>

#include "isa.hpp"
#include "packed.hpp"

namespace kelm {

namespace nb = nanobind;

using Rows2 = nb::ndarray<float, nb::ndim<2>, nb::device::cpu>;
using ConstRows2 = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;
using ConstVector = nb::ndarray<const float, nb::ndim<1>, nb::device::cpu>;

inline void require(bool holds, const std::string &message) {
    if (!holds) throw nb::value_error(message.c_str());
}

// A row of one element, or an array without elements, may carry any stride.
template <typename Array>
bool contiguous_rows(const Array &a) {
    return a.size() == 0 || a.shape(a.ndim() - 1) == 1 || a.stride(a.ndim() - 1) == 1;
}

template <typename Array>
std::string shape_of(const Array &a) {
    std::string text = "[";
    for (std::size_t i = 0; i < a.ndim(); ++i) text += (i ? ", " : "") + std::to_string(a.shape(i));
    return text + "]";
}

inline Isa isa_of(int isa) {
    require(machine_has(static_cast<Isa>(isa)), "this machine does not have that instruction set");
    return static_cast<Isa>(isa);
}

inline Packed packed_shape(const std::uint8_t *data, std::int64_t outputs, std::int64_t inputs, int format) {
    require(format >= 0 && format < kFormats, "no such format: " + std::to_string(format));
    require(outputs >= 0 && outputs <= kMostOutputs && inputs >= 1 && inputs <= kMostInputs,
            "a matrix of " + std::to_string(outputs) + " outputs and " + std::to_string(inputs) +
                " inputs; outputs are 0 to 2^32, inputs 1 to 2^24");
    return {data, outputs, inputs, static_cast<Format>(format)};
}

template <typename Array>
Packed packed_of(const Array &data, std::int64_t outputs, std::int64_t inputs, int format) {
    const Packed packed = packed_shape(data.data(), outputs, inputs, format);
    require(static_cast<std::int64_t>(data.shape(0)) == packed.bytes() && contiguous_rows(data),
            "data has " + std::to_string(data.shape(0)) + " bytes, the matrix " + std::to_string(packed.bytes()) +
                " contiguous ones");
    // Nothing lies anywhere: an empty array's address is its library's choice.
    require(packed.bytes() == 0 || reinterpret_cast<std::uintptr_t>(data.data()) % kLine == 0,
            "data must start on a line of 64 bytes");
    return packed;
}

void bind_linear(nb::module_ &m);
void bind_step(nb::module_ &m);

}  // namespace kelm
