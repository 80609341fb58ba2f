#include "row_ops_rows.hpp"

const kelm::RowOps kelm::avx512_row_ops = kelm::kRowOps;
