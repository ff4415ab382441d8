#include "harness_attention.h"

#include <math.h>

#define EACH_CELL(t, r, c)                                                                                   \
    for (int r = 0; r < (t)->rows; r++)                                                                      \
        for (int c = 0; c < (t)->columns; c++)

#define DEFINE_WAVE(forward, backward, tile_type, real, sine, cosine)                                        \
    static void forward(const tile_type *t) {                                                                \
        const real *call = t->param[WAVE_CALL], head = *t->param[WAVE_HEAD];                                 \
        EACH_CELL(t, r, c) {                                                                                 \
            const int64_t at = r * t->row_stride + c;                                                        \
            const real s = t->s[at], place = (real)((t->query + r + 2 * (t->key + c)) % 5) / 16;             \
            t->aux[0][at] = s;                                                                               \
            t->aux[1][at] = head * cosine(s + call[1]);                                                      \
            t->s[at] = s + s * call[0] / 8 + head * sine(s + call[1]) + place +                              \
                       t->param[WAVE_QUERY][r] * t->param[WAVE_KEY][c] / 8;                                  \
        }                                                                                                    \
    }                                                                                                        \
    static void backward(const tile_type *t) {                                                               \
        const real *call = t->param[WAVE_CALL];                                                              \
        EACH_CELL(t, r, c) {                                                                                 \
            const int64_t at = r * t->row_stride + c;                                                        \
            const real s = t->aux[0][at], slope = t->aux[1][at], g = t->g[at];                               \
            if (t->dparam[WAVE_CALL]) {                                                                      \
                t->dparam[WAVE_CALL][0] += g * s / 8;                                                        \
                t->dparam[WAVE_CALL][1] += g * slope;                                                        \
            }                                                                                                \
            if (t->dparam[WAVE_HEAD]) *t->dparam[WAVE_HEAD] += g * sine(s + call[1]);                        \
            if (t->dparam[WAVE_QUERY]) t->dparam[WAVE_QUERY][r] += g * t->param[WAVE_KEY][c] / 8;            \
            if (t->dparam[WAVE_KEY]) t->dparam[WAVE_KEY][c] += g * t->param[WAVE_QUERY][r] / 8;              \
            t->g[at] = g * (1 + call[0] / 8 + slope);                                                        \
        }                                                                                                    \
    }

DEFINE_WAVE(wave, wave_backward, heed_tile, float, sinf, cosf)
DEFINE_WAVE(wave_f64, wave_backward_f64, heed_tile_f64, double, sin, cos)

/* The same for the device "cuda", in both types. CUDA's sin() would need local memory for large numbers. */
static const char wave_cuda[] =
    "enum { CALL, HEAD, QUERY, KEY };\n"
    "__device__ real turns(real x) { return x * (real)0.31830988618379067154; }\n"
    "__device__ real forward(real s, const heed_cell &at) {\n"
    "    const real *call = at.param[CALL], place = (real)((at.query + 2 * at.key) % 5) / 16;\n"
    "    return s + s * call[0] / 8 + *at.param[HEAD] * sinpi(turns(s + call[1])) + place +\n"
    "           *at.param[QUERY] * *at.param[KEY] / 8;\n"
    "}\n"
    "__device__ real backward(real s, real g, const heed_cell &at, const heed_sums &sums) {\n"
    "    const real *call = at.param[CALL], u = turns(s + call[1]), slope = *at.param[HEAD] * cospi(u);\n"
    "    sums.add(CALL, 0, g * s / 8);\n"
    "    sums.add(CALL, 1, g * slope);\n"
    "    sums.add(HEAD, 0, g * sinpi(u));\n"
    "    sums.add(QUERY, 0, g * *at.param[KEY] / 8);\n"
    "    sums.add(KEY, 0, g * *at.param[QUERY] / 8);\n"
    "    return g * (1 + call[0] / 8 + slope);\n"
    "}\n";
static const char ramp_cuda[] = "__device__ real forward(real s, const heed_cell &at) {\n"
                                "    return s + fabs((real)(at.query - at.key)) / 8;\n"
                                "}\n";

static void ramp(const heed_tile *t) {
    EACH_CELL(t, r, c)
    t->s[r * t->row_stride + c] += fabsf((float)(t->query + r - t->key - c)) / 8;
}

static void ramp_f64(const heed_tile_f64 *t) {
    EACH_CELL(t, r, c)
    t->s[r * t->row_stride + c] += fabs((double)(t->query + r - t->key - c)) / 8;
}

#define WAVE_SCOPES                                                                                          \
    { HEED_PER_CALL, HEED_PER_HEAD, HEED_PER_QUERY, HEED_PER_KEY }

const heed_stage_rule test_wave = {.name = "wave",
                                   .n_aux = 2,
                                   .n_params = WAVE_PARAMS,
                                   .scope = WAVE_SCOPES,
                                   .forward = wave,
                                   .backward = wave_backward,
                                   .forward_f64 = wave_f64,
                                   .backward_f64 = wave_backward_f64,
                                   .cuda = wave_cuda};
const heed_stage_rule test_wave_f32 = {.name = "wave",
                                       .n_aux = 2,
                                       .n_params = WAVE_PARAMS,
                                       .scope = WAVE_SCOPES,
                                       .forward = wave,
                                       .backward = wave_backward,
                                       .cuda = wave_cuda};
const heed_stage_rule test_ramp = {
    .name = "ramp", .forward = ramp, .forward_f64 = ramp_f64, .cuda = ramp_cuda};
