// What the units that know Python share: checks of arrays, and each unit's part of kelm._native.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <string>

#include "isa.hpp"

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

void bind_linear(nb::module_ &m);

}  // namespace kelm
