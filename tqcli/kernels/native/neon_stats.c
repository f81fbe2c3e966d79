/* The statistics for AArch64. */
#include "neon.h"

typedef struct {
    float64x2_t v[4];
} D;

#define EACH(name, intrinsic) \
    TQ_INLINE D name(D a, D b) { \
        TQ_UNROLL \
        for (int i = 0; i < 4; i++) a.v[i] = intrinsic(a.v[i], b.v[i]); \
        return a; \
    }
EACH(d_add, vaddq_f64)
EACH(d_sub, vsubq_f64)
EACH(d_mul, vmulq_f64)
EACH(d_larger, vmaxnmq_f64)
#undef EACH

TQ_INLINE D d_set1(double x) {
    const D v = {{vdupq_n_f64(x), vdupq_n_f64(x), vdupq_n_f64(x), vdupq_n_f64(x)}};
    return v;
}

#define d_zero() d_set1(0)

TQ_INLINE D d_abs(D a) {
    TQ_UNROLL
    for (int i = 0; i < 4; i++) a.v[i] = vabsq_f64(a.v[i]);
    return a;
}

TQ_INLINE D d_add_product(D s, D a, D b) {
    TQ_UNROLL
    for (int i = 0; i < 4; i++) s.v[i] = vfmaq_f64(s.v[i], a.v[i], b.v[i]);
    return s;
}

TQ_INLINE D d_load(const double *from) {
    D v;
    TQ_UNROLL
    for (int i = 0; i < 4; i++)
        v.v[i] = vreinterpretq_f64_u8(vld1q_u8((const uint8_t *)(from + 2 * i)));
    return v;
}

TQ_INLINE void d_store(double *to, D v) {
    TQ_UNROLL
    for (int i = 0; i < 4; i++) vst1q_u8((uint8_t *)(to + 2 * i), vreinterpretq_u8_f64(v.v[i]));
}

TQ_INLINE float32x4_t four_floats(const uint8_t *from, enum tq_float type) {
    if (type == TQ_F32) return load_floats(from);
    if (type == TQ_F16) return load_halves(from);
    return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(from)), 16));
}

TQ_INLINE D d_widen(const uint8_t *from, enum tq_float type) {
    const float32x4_t low = four_floats(from, type);
    const float32x4_t high = four_floats(from + 4 * tq_float_size(type), type);
    const D v = {{vcvt_f64_f32(vget_low_f32(low)), vcvt_high_f64_f32(low),
                  vcvt_f64_f32(vget_low_f32(high)), vcvt_high_f64_f32(high)}};
    return v;
}

TQ_INLINE void d_narrow(float *to, D v) {
    store_floats(to, vcvt_high_f32_f64(vcvt_f32_f64(v.v[0]), v.v[1]));
    store_floats(to + 4, vcvt_high_f32_f64(vcvt_f32_f64(v.v[2]), v.v[3]));
}

TQ_INLINE double d_sum(D v) {
    return vaddvq_f64(vaddq_f64(vaddq_f64(v.v[0], v.v[2]), vaddq_f64(v.v[1], v.v[3])));
}

TQ_INLINE double d_max(D v) {
    return vmaxnmvq_f64(vmaxnmq_f64(vmaxnmq_f64(v.v[0], v.v[2]), vmaxnmq_f64(v.v[1], v.v[3])));
}

#define LANES 4

typedef float32x4_t V;

#define v_load(p) load_floats(p)
#define v_store(p, v) store_floats(p, v)
#define v_add(a, b) vaddq_f32(a, b)
#define v_sub(a, b) vsubq_f32(a, b)
#define v_mul(a, b) vmulq_f32(a, b)

/* Partner plus the value itself, or minus it where it has the bit of the stride. */
TQ_INLINE V v_inside(V v) {
    const float signs[2][4] = {{1, -1, 1, -1}, {1, 1, -1, -1}};
    v = vfmaq_f32(vrev64q_f32(v), v, v_load(signs[0]));
    return vfmaq_f32(vextq_f32(v, v, 2), v, v_load(signs[1]));
}

#include "stats_rotate.h"

#include "stats.h"

const tq_stats tq_stats_neon = {errors, moments};
