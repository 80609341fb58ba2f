// A decoder's forward pass for a whole batch, in one call: a flat list of ops over buffers of activations, made by
// models/graph/ from a spec. Consecutive ops that work on rows alone are one phase, which a thread runs op after op over
// a few rows at a time; a linear or attention is a phase of its own. Threads wait for each other between phases only.
//
// A row's result depends on its own sequence only: not on the batch, the chunk, the threads, or which passes made the
// plan.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "attention.hpp"
#include "isa.hpp"
#include "linear.hpp"
#include "packed.hpp"
#include "pool.hpp"

namespace kelm {

// Numbered as in models/graph/ops.py.
enum class StepKind : int {
    embed = 0,       // out = matrix[token] * a (+ vector[position * width ...])
    angles = 1,      // out = cos | sin of position * vector[i], times a
    rms_norm = 2,    // out = x / rms(x) * vector
    layer_norm = 3,  // out = (x - mean) / deviation * vector + other
    linear = 4,      // out = x @ matrix.T + vector, then the epilogue
    rotate = 5,      // `count` heads of `width` in out, by the angles in x
    spread = 6,      // `count` parts of `width` in x, each `step` apart in out, zeros between
    gather_heads = 7,  // the other way round
    write_kv = 8,    // `count` keys and as many values from x, `width` each
    attention = 9,   // out = attention of `count` queries of `width` in x
    activate = 10,   // out = act(x)
    gate = 11,       // out = act(gate) * up, x in turns of 16 (models/packing.py)
    add = 12,        // out += x
    pick = 13,       // out = rows of x whose logits are wanted
    soft_cap = 14,   // out = a * tanh(out / a)
    low_rank = 15,   // out += (x @ A.T) @ B: vector is A [count, `step` of x], other is B [count, width]
};
constexpr int kStepKinds = 16;

struct StepOp {
    StepKind kind;
    int phase;
    int x, x_column, out, out_column;  // buffers, and the first column there
    std::int64_t count, width, step;
    int matrix, vector, other;  // -1: none
    int group, layer;           // of KV
    std::int64_t window;
    Activation activation;
    Epilogue epilogue;
    float a, b;  // scale, factor, eps, score scale; soft cap of scores
};

struct StepBuffer {
    std::int64_t offset;  // floats for each row of the batch, from the start of the memory
    std::int64_t pitch;   // floats from a row to the next
    bool picked;          // has a row for each row of logits, not of the batch
};

struct StepVector {
    const float *data;
    std::int64_t size;
};

struct StepPlan {
    std::vector<StepOp> ops;
    std::vector<StepBuffer> buffers;  // the last one is the caller's logits
    std::vector<Packed> matrices;
    std::vector<StepVector> vectors;
    std::int64_t row_floats;  // of all buffers, for each row
};

struct StepSpan {
    std::int64_t row, rows, context;
};

struct StepBatch {
    const std::int64_t *tokens;
    std::int64_t rows;
    std::vector<StepSpan> spans;
    std::vector<std::vector<const std::int32_t *>> tables;  // [group][span]
    const std::int64_t *picked;
    std::int64_t picked_rows;
    float *logits;  // [picked_rows, pitch of the last buffer]
};

class Step {
  public:
    // The plan's indices are in range, its matrices and vectors have the sizes that its ops say (module_step.cpp).
    explicit Step(StepPlan plan) : plan_(std::move(plan)) {}

    const StepPlan &plan() const { return plan_; }
    std::vector<KvBlocks> &kv() { return kv_; }

    // Throws std::bad_alloc.
    void run(Pool::Turn &turn, Isa isa, const StepBatch &batch);

  private:
    struct Free {
        void operator()(float *p) const { std::free(p); }
    };

    void grow(std::int64_t rows);

    StepPlan plan_;
    std::vector<KvBlocks> kv_;
    std::unique_ptr<float[], Free> memory_;
    std::int64_t floats_ = 0;
};

}  // namespace kelm
