/* A stage of a user's own for the tests of attention: smooth, with parameters of every scope, and dependent
 * on the place of the cell. */
#ifndef HEED_TESTS_HARNESS_ATTENTION_H
#define HEED_TESTS_HARNESS_ATTENTION_H

#include <heed/heed.h>

/* s + s·c₀/8 + h·sin(s + c₁) + a·b/8 + ((query + 2·key) mod 5)/16 with c [2] per call, h [heads, 1] per head,
 * a per query and b per key. */
extern const heed_stage_rule test_wave;
enum { WAVE_CALL, WAVE_HEAD, WAVE_QUERY, WAVE_KEY, WAVE_PARAMS };

/* The same without functions for f64. */
extern const heed_stage_rule test_wave_f32;

/* s + the distance of query and key / 8: additive, without parameters or backward. */
extern const heed_stage_rule test_ramp;

#endif
