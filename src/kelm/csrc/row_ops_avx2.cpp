#include "row_ops_rows.hpp"

const kelm::RowOps kelm::avx2_row_ops = kelm::kRowOps;
