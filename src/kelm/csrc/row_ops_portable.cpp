#include "row_ops_rows.hpp"

const kelm::RowOps kelm::portable_row_ops = kelm::kRowOps;
