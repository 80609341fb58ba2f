#include "step.hpp"

#include <algorithm>
#include <cstring>
#include <new>

#include "linear.hpp"
#include "rms_norm.hpp"
#include "row_ops.hpp"

namespace kelm {
namespace {

constexpr std::int64_t kAlign = 16;  // floats of a line
constexpr std::int64_t kPieceFloats = 16384;  // that a thread's piece of a phase has at least

using AttentionPiece = void (*)(const Attention &, const KvSpan &, std::int64_t, std::int64_t, std::int64_t);

AttentionPiece attention_of(Isa isa) {
#if defined(__x86_64__)
    if (isa >= Isa::avx512) return attention_avx512;
    if (isa >= Isa::avx2) return attention_avx2;
#endif
    (void)isa;
    return attention_portable;
}

auto rms_norm_of(Isa isa) {
#if defined(__x86_64__)
    if (isa >= Isa::avx512) return rms_norm_avx512;
    if (isa >= Isa::avx2) return rms_norm_avx2;
#endif
    (void)isa;
    return rms_norm_portable;
}

class Run {
  public:
    Run(const StepPlan &plan, const std::vector<KvBlocks> &kv, float *memory, Pool::Turn &turn, Isa isa,
        const StepBatch &batch)
        : plan_(plan), kv_(kv), memory_(memory), turn_(turn), isa_(isa), rows_(row_ops_of(isa)), batch_(batch),
          positions_(batch.rows),
          span_of_(batch.rows) {
        for (std::size_t s = 0; s < batch.spans.size(); ++s)
            for (std::int64_t r = 0; r < batch.spans[s].rows; ++r) {
                positions_[batch.spans[s].row + r] = batch.spans[s].context + r;
                span_of_[batch.spans[s].row + r] = s;
            }
    }

    void all() {
        const auto &ops = plan_.ops;
        for (std::size_t first = 0, end; first < ops.size(); first = end) {
            for (end = first + 1; end < ops.size() && ops[end].phase == ops[first].phase; ++end) {}
            phase(first, end);
        }
    }

  private:
    void phase(std::size_t first, std::size_t end) {
        const StepOp &op = plan_.ops[first];
        if (op.kind == StepKind::linear) return multiply(op);
        if (op.kind == StepKind::attention) return attend(op);
        std::int64_t floats = 0;
        for (std::size_t i = first; i < end; ++i) floats += plan_.ops[i].count * plan_.ops[i].width;
        in_rows(buffer(op.out).picked, floats, [&](std::int64_t from, std::int64_t to) {
            for (std::size_t i = first; i < end; ++i)
                for (std::int64_t row = from; row < to; ++row) row_op(plan_.ops[i], row);
        });
    }

    // Rows in pieces, for `floats` of work a row. Rows of one KV block stay together (write_kv).
    template <typename Piece>
    void in_rows(bool picked, std::int64_t floats, const Piece &piece) {
        const std::int64_t rows = picked ? batch_.picked_rows : batch_.rows;
        const std::int64_t least = std::max<std::int64_t>(1, kPieceFloats / std::max<std::int64_t>(1, floats));
        if (rows <= least) return piece(0, rows);
        std::vector<std::int64_t> cuts{0};
        for (std::int64_t row = 1; row < rows; ++row) {
            const bool inside = !picked && span_of_[row] == span_of_[row - 1] && positions_[row] % kBlockTokens;
            if (row - cuts.back() >= least && !inside) cuts.push_back(row);
        }
        cuts.push_back(rows);
        turn_.run(static_cast<std::int64_t>(cuts.size()) - 1,
                  [&](std::int64_t i) { piece(cuts[i], cuts[i + 1]); });
    }

    void row_op(const StepOp &op, std::int64_t row) {
        float *out = at(op.out, row) + op.out_column;
        const float *x = op.x < 0 ? nullptr : at(op.x, op.kind == StepKind::pick ? batch_.picked[row] : row) + op.x_column;
        const std::int64_t size = op.count * op.width;
        switch (op.kind) {
            case StepKind::embed: return embed(op, row, out);
            case StepKind::angles: return rows_.angles(positions_[row], vector(op.vector), op.width, op.a, out);
            case StepKind::rms_norm:
                return rms_norm_of(isa_)({x, vector(op.vector), out, op.count, op.width, op.width, op.width, op.a, false});
            case StepKind::layer_norm:
                return rows_.layer_norm(x, vector(op.vector), vector(op.other), op.width, op.a, out);
            case StepKind::rotate: return rows_.rotate(out, x, op.count, op.width);
            case StepKind::spread: return spread(op, x, out);
            case StepKind::gather_heads:
                for (std::int64_t i = 0; i < op.count; ++i) std::copy_n(x + i * op.step, op.width, out + i * op.width);
                return;
            case StepKind::write_kv: return write(op, row);
            case StepKind::activate: return rows_.activate(x, size, op.activation, out);
            case StepKind::gate: return rows_.gate(x, size, op.activation, out);
            case StepKind::add: return rows_.add(x, size, out);
            case StepKind::pick: std::copy_n(x, size, out); return;
            case StepKind::low_rank:
                return rows_.low_rank(x, op.step, vector(op.vector), vector(op.other), op.count, op.width, out);
            case StepKind::soft_cap: return rows_.soft_cap(out, size, op.a);
            default: return;
        }
    }

    void embed(const StepOp &op, std::int64_t row, float *out) {
        unpack_row(plan_.matrices[op.matrix], batch_.tokens[row], out);
        if (op.a != 1.0f)
            for (std::int64_t i = 0; i < op.width; ++i) out[i] *= op.a;
        if (op.vector >= 0) rows_.add(vector(op.vector) + positions_[row] * op.width, op.width, out);
    }

    static void spread(const StepOp &op, const float *x, float *out) {
        for (std::int64_t i = 0; i < op.count; ++i) {
            std::copy_n(x + i * op.width, op.width, out + i * op.step);
            std::fill(out + i * op.step + op.width, out + (i + 1) * op.step, 0.0f);
        }
    }

    KvSpan span(const StepOp &op, std::size_t s) const {
        const StepSpan &one = batch_.spans[s];
        return {one.row, one.rows, one.context, batch_.tables[op.group][s]};
    }

    void write(const StepOp &op, std::int64_t row) {
        const float *keys = at(op.x, 0) + op.x_column;
        const KvWrite write{kv_[op.group], op.layer, keys, keys + op.count * op.width, buffer(op.x).pitch};
        const KvSpan one = span(op, span_of_[row]);
        write_kv(write, one, row - one.row, 1);
    }

    void attend(const StepOp &op) {
        const KvBlocks &kv = kv_[op.group];
        const Attention attention{kv, op.layer, at(op.x, 0) + op.x_column, buffer(op.x).pitch, at(op.out, 0),
                                  buffer(op.out).pitch, op.count, op.a, op.b, op.window};
        const std::int64_t at_once = attention_rows_at_once(attention);
        struct Part {
            std::size_t span;
            std::int64_t first;
        };
        std::vector<Part> parts;
        for (std::size_t s = 0; s < batch_.spans.size(); ++s)
            for (std::int64_t first = 0; first < batch_.spans[s].rows; first += at_once) parts.push_back({s, first});
        const AttentionPiece piece = attention_of(isa_);
        turn_.run(static_cast<std::int64_t>(parts.size()) * kv.kv_heads, [&](std::int64_t i) {
            const Part &part = parts[parts.size() - 1 - i / kv.kv_heads];  // long ones first: the end of a prompt
            const KvSpan one = span(op, part.span);
            piece(attention, one, part.first, std::min(at_once, one.rows - part.first), i % kv.kv_heads);
        });
    }

    void multiply(const StepOp &op) {
        const std::int64_t rows = buffer(op.out).picked ? batch_.picked_rows : batch_.rows;
        const Packed &matrix = plan_.matrices[op.matrix];
        const float *bias = op.vector < 0 ? nullptr : vector(op.vector);
        linear(turn_, isa_, {at(op.x, 0), rows, buffer(op.x).pitch, matrix, bias, at(op.out, 0), buffer(op.out).pitch,
                             op.epilogue, op.activation, op.width});
    }

    const StepBuffer &buffer(int number) const { return plan_.buffers[number]; }

    float *at(int number, std::int64_t row) const {
        const StepBuffer &one = buffer(number);
        if (number + 1 == static_cast<int>(plan_.buffers.size())) return batch_.logits + row * one.pitch;
        // Buffers of picked rows lie among those of all rows: there are no more of them.
        return memory_ + one.offset * batch_.rows + row * one.pitch;
    }

    const float *vector(int number) const { return plan_.vectors[number].data; }

    const StepPlan &plan_;
    const std::vector<KvBlocks> &kv_;
    float *memory_;
    Pool::Turn &turn_;
    const Isa isa_;
    const RowOps &rows_;
    const StepBatch &batch_;
    std::vector<std::int64_t> positions_;
    std::vector<std::size_t> span_of_;
};

}  // namespace

void Step::run(Pool::Turn &turn, Isa isa, const StepBatch &batch) {
    if (batch.rows == 0) return;
    grow(batch.rows);
    Run(plan_, kv_, memory_.get(), turn, isa, batch).all();
}

void Step::grow(std::int64_t rows) {
    const std::int64_t floats = rows * plan_.row_floats;
    if (floats <= floats_) return;
    memory_.reset();
    floats_ = 0;
    const std::int64_t whole = (floats + kAlign - 1) / kAlign * kAlign;
    memory_.reset(static_cast<float *>(std::aligned_alloc(64, static_cast<std::size_t>(whole) * sizeof(float))));
    if (!memory_) throw std::bad_alloc();
    floats_ = whole;
}

}  // namespace kelm
