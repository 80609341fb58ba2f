// The step in kelm._native; use kelm.ops.step.
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "module.hpp"
#include "step.hpp"

namespace kelm {
namespace {

using Numbers1 = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using Numbers2 = nb::ndarray<const std::int64_t, nb::ndim<2>, nb::device::cpu, nb::c_contig>;
using Floats2 = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu, nb::c_contig>;
using Floats1 = nb::ndarray<const float, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using Table = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using Arena = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::device::cpu, nb::c_contig>;

constexpr std::size_t kOpNumbers = 17, kOpFloats = 2, kBufferNumbers = 3, kMatrixNumbers = 3, kGroupNumbers = 8;

StepOp op_of(const std::int64_t *n, const float *f) {
    const auto whole = [n](int i) { return static_cast<int>(n[i]); };
    require(n[0] >= 0 && n[0] < kStepKinds && n[15] >= 0 && n[15] < kActivations && n[16] >= 0 && n[16] <= 3,
            "an op of an unknown kind");
    return {static_cast<StepKind>(n[0]), whole(1), whole(2), whole(3), whole(4), whole(5), n[6], n[7], n[8],
            whole(9), whole(10), whole(11), whole(12), whole(13), n[14], static_cast<Activation>(n[15]),
            static_cast<Epilogue>(n[16]), f[0], f[1]};
}

bool within(int index, std::size_t size) { return index >= 0 && static_cast<std::size_t>(index) < size; }

// Columns that an op takes from each row of x, and puts into each row of out.
std::int64_t columns_of_x(const StepOp &op, const StepPlan &plan) {
    switch (op.kind) {
        case StepKind::linear: return plan.matrices[op.matrix].inputs;
        case StepKind::gate: return (op.width + 15) / 16 * 32;
        case StepKind::gather_heads: return op.count * op.step;
        case StepKind::write_kv: return 2 * op.count * op.width;
        case StepKind::rotate: return op.width;
        case StepKind::low_rank: return op.step;
        default: return op.count * op.width;
    }
}

std::int64_t columns_of_out(const StepOp &op, const StepPlan &plan) {
    switch (op.kind) {
        case StepKind::linear:
            return op.epilogue == Epilogue::none ? plan.matrices[op.matrix].outputs : op.width;
        case StepKind::angles: return 2 * op.width;
        case StepKind::spread: return op.count * op.step;
        case StepKind::write_kv: return 0;
        case StepKind::low_rank: return op.width;
        default: return op.count * op.width;
    }
}

void check_buffer(const StepPlan &plan, int number, int column, std::int64_t columns) {
    require(within(number, plan.buffers.size()) && column >= 0 && column + columns <= plan.buffers[number].pitch,
            "an op does not fit its buffers");
}

void check_op(const StepPlan &plan, const StepOp &op) {
    const bool multiplies = op.kind == StepKind::linear || op.kind == StepKind::embed;
    require(op.count >= 0 && op.width >= 1 && op.step >= 0, "an op of no size");
    require(!multiplies || within(op.matrix, plan.matrices.size()), "an op without its matrix");
    for (const int vector : {op.vector, op.other})
        require(vector == -1 || (within(vector, plan.vectors.size()) &&
                                 plan.vectors[vector].size >= (op.kind == StepKind::low_rank ? 1 : op.kind == StepKind::linear
                                                                    ? plan.matrices[op.matrix].outputs
                                                                    : op.width)),
                "an op does not fit its vector");
    const std::int64_t made = op.epilogue == Epilogue::gate ? (op.width + 15) / 16 * 32 : op.width;
    require(op.kind != StepKind::linear || op.epilogue == Epilogue::none || made <= plan.matrices[op.matrix].outputs,
            "an op does not fit its matrix");
    require(op.kind != StepKind::low_rank ||
                (op.vector >= 0 && op.other >= 0 && plan.vectors[op.vector].size == op.count * op.step &&
                 plan.vectors[op.other].size == op.count * op.width),
            "an op does not fit its vectors");
    const bool scaled = op.kind == StepKind::angles || op.kind == StepKind::rms_norm || op.kind == StepKind::layer_norm;
    require(!scaled || op.vector >= 0, "an op without its vector");
    require(op.kind != StepKind::layer_norm || op.other >= 0, "an op without its vector");
    check_buffer(plan, op.out, op.out_column, columns_of_out(op, plan));
    const bool reads = op.kind != StepKind::embed && op.kind != StepKind::angles && op.kind != StepKind::soft_cap;
    if (reads) check_buffer(plan, op.x, op.x_column, columns_of_x(op, plan));
}

Step *make(Numbers2 ops, Floats2 scalars, Numbers2 buffers, Numbers2 shapes, std::vector<Bytes> matrices,
           std::vector<Floats1> vectors) {
    require(ops.shape(1) == kOpNumbers && scalars.shape(1) == kOpFloats && scalars.shape(0) == ops.shape(0) &&
                buffers.shape(1) == kBufferNumbers && buffers.shape(0) >= 1 && shapes.shape(1) == kMatrixNumbers &&
                shapes.shape(0) == matrices.size(),
            "a plan of the wrong form");
    StepPlan plan{};
    for (std::size_t i = 0; i < buffers.shape(0); ++i) {
        const std::int64_t *n = buffers.data() + i * kBufferNumbers;
        require(n[0] >= 0 && n[0] % 16 == 0 && n[1] >= 1, "a buffer of the wrong form");
        plan.buffers.push_back({n[0], n[1], n[2] != 0});
        if (i + 1 < buffers.shape(0)) plan.row_floats = std::max(plan.row_floats, n[0] + n[1]);
    }
    for (std::size_t i = 0; i < matrices.size(); ++i) {
        const std::int64_t *n = shapes.data() + i * kMatrixNumbers;
        plan.matrices.push_back(packed_of(matrices[i], n[0], n[1], static_cast<int>(n[2])));
    }
    for (const auto &vector : vectors) plan.vectors.push_back({vector.data(), static_cast<std::int64_t>(vector.size())});
    for (std::size_t i = 0; i < ops.shape(0); ++i) {
        plan.ops.push_back(op_of(ops.data() + i * kOpNumbers, scalars.data() + i * kOpFloats));
        check_op(plan, plan.ops.back());
    }
    return new Step(std::move(plan));
}

// Each group's own memory, and one row: slab_bytes, block_bytes, per_slab, layers, kv_heads, head_dim, type (KvType),
// blocks.
void attach(Step &step, std::vector<Arena> arenas, Numbers2 groups) {
    require(groups.shape(1) == kGroupNumbers && groups.shape(0) == arenas.size(), "groups of the wrong form");
    std::vector<KvBlocks> found;
    for (std::size_t g = 0; g < groups.shape(0); ++g) {
        const std::int64_t *n = groups.data() + g * kGroupNumbers;
        const std::int64_t item = n[6] == 1 ? 2 : 4, layer = n[4] * 2 * kBlockTokens * n[5] * item;
        require(n[5] % 16 == 0 && n[5] <= kMaxHeadDim && n[4] >= 1, "a head that the kernels do not know");
        require(layer * n[3] == n[1] && n[1] * n[2] <= n[0] &&
                    n[0] * (n[7] / n[2]) <= static_cast<std::int64_t>(arenas[g].size()),
                "blocks do not fit their slabs");
        found.push_back({arenas[g].data(), n[0], n[1], n[2], layer, n[4], n[5], static_cast<KvType>(n[6])});
    }
    for (const auto &op : step.plan().ops)
        if (op.kind == StepKind::attention || op.kind == StepKind::write_kv) {
            require(within(op.group, found.size()), "an op without its KV group");
            const KvBlocks &kv = found[op.group];
            require(op.layer >= 0 && (op.layer + 1) * kv.layer_bytes <= kv.block_bytes && op.width == kv.head_dim &&
                        op.count % kv.kv_heads == 0,
                    "an op does not fit its KV group");
        }
    step.kv() = std::move(found);
}

void check_table(const Table &table, const StepSpan &span, std::int64_t window, std::int64_t blocks) {
    const std::int64_t end = span.context + span.rows;
    require(static_cast<std::int64_t>(table.shape(0)) * kBlockTokens >= end, "a block table is too short");
    const std::int64_t first = window > 0 ? std::max<std::int64_t>(0, span.context - window + 1) / kBlockTokens : 0;
    for (std::int64_t i = first; i * kBlockTokens < end; ++i)
        require(table.data()[i] >= 0 && table.data()[i] < blocks, "a block table names no block of the arena");
}

void check_embedding(const StepPlan &plan, const StepOp &op, const StepBatch &batch) {
    for (std::int64_t i = 0; i < batch.rows; ++i)
        require(batch.tokens[i] >= 0 && batch.tokens[i] < plan.matrices[op.matrix].outputs,
                "a token that is not in the vocabulary");
    for (const StepSpan &span : batch.spans)
        require(op.vector < 0 || (span.context + span.rows) * op.width <= plan.vectors[op.vector].size,
                "a position that the table has no row for");
}

StepBatch batch_of(const Step &step, const Numbers1 &tokens, const Numbers2 &spans, const Numbers1 &picked) {
    StepBatch batch{};
    batch.tokens = tokens.data();
    batch.rows = static_cast<std::int64_t>(tokens.shape(0));
    batch.picked = picked.data();
    batch.picked_rows = static_cast<std::int64_t>(picked.shape(0));
    require(batch.picked_rows <= batch.rows && spans.shape(1) == 3, "more rows of logits than rows");
    std::int64_t row = 0;
    for (std::size_t s = 0; s < spans.shape(0); ++s) {
        const std::int64_t *n = spans.data() + s * 3;
        require(n[0] == row && n[1] >= 1 && n[2] >= 0, "spans must follow one another");
        batch.spans.push_back({n[0], n[1], n[2]});
        row += n[1];
    }
    require(row == batch.rows, "spans must cover all rows");
    for (std::int64_t i = 0; i < batch.picked_rows; ++i)
        require(batch.picked[i] >= 0 && batch.picked[i] < batch.rows, "logits of a row that is not there");
    for (const auto &op : step.plan().ops)
        if (op.kind == StepKind::embed) check_embedding(step.plan(), op, batch);
    return batch;
}

// `windows` and `blocks` have one number for each KV group, `tables` one list of arrays.
void run(Step &step, Pool &pool, int isa, Numbers1 tokens, Numbers2 spans, std::vector<std::vector<Table>> tables,
         Numbers1 windows, Numbers1 blocks, Numbers1 picked, Rows2 logits) {
    const Isa chosen = isa_of(isa);
    StepBatch batch = batch_of(step, tokens, spans, picked);
    require(tables.size() == step.kv().size() && windows.size() == tables.size() && blocks.size() == tables.size(),
            "tables are not those of the KV groups");
    for (std::size_t g = 0; g < tables.size(); ++g) {
        require(tables[g].size() == batch.spans.size(), "every span needs a table");
        batch.tables.emplace_back();
        for (std::size_t s = 0; s < batch.spans.size(); ++s) {
            check_table(tables[g][s], batch.spans[s], windows.data()[g], blocks.data()[g]);
            batch.tables.back().push_back(tables[g][s].data());
        }
    }
    require(static_cast<std::int64_t>(logits.shape(0)) == batch.picked_rows &&
                static_cast<std::int64_t>(logits.shape(1)) == step.plan().buffers.back().pitch && contiguous_rows(logits),
            "logits are " + shape_of(logits));
    batch.logits = logits.data();
    const nb::gil_scoped_release release;
    Pool::Turn turn(pool);
    step.run(turn, chosen, batch);
}

}  // namespace

void bind_step(nb::module_ &m) {
    nb::class_<Step>(m, "Step")
        .def(nb::new_(&make), nb::arg("ops"), nb::arg("scalars"), nb::arg("buffers"), nb::arg("shapes"),
             nb::arg("matrices"), nb::arg("vectors"))
        .def("attach", &attach, nb::arg("arenas"), nb::arg("groups"))
        .def("run", &run, nb::arg("pool"), nb::arg("isa"), nb::arg("tokens"), nb::arg("spans"), nb::arg("tables"),
             nb::arg("windows"), nb::arg("blocks"), nb::arg("picked"), nb::arg("logits").noconvert());
}

}  // namespace kelm
