// Any CPU: 16 lanes as a plain array, which the compiler may vectorise with what the baseline has.
namespace kelm {
namespace {

struct Lanes {
    float v[16];

    static Lanes fill(float value) {
        Lanes r;
        for (float &lane : r.v) lane = value;
        return r;
    }
    static Lanes load(const float *from) {
        Lanes r;
        for (int l = 0; l < 16; ++l) r.v[l] = from[l];
        return r;
    }
    void store(float *to) const {
        for (int l = 0; l < 16; ++l) to[l] = v[l];
    }
};

inline Lanes operator+(const Lanes &a, const Lanes &b) {
    Lanes r;
    for (int l = 0; l < 16; ++l) r.v[l] = a.v[l] + b.v[l];
    return r;
}
inline Lanes operator*(const Lanes &a, const Lanes &b) {
    Lanes r;
    for (int l = 0; l < 16; ++l) r.v[l] = a.v[l] * b.v[l];
    return r;
}

}  // namespace
}  // namespace kelm

#include "rms_norm_rows.hpp"

void kelm::rms_norm_portable(const RmsNorm &op) { rms_norm_rows(op); }
