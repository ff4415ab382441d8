/* Learning rates as functions of the step. */
#include <heed/optim.h>

#include <math.h>

double heed_schedule_constant(int64_t step, double peak) {
    (void)step;
    return peak;
}

/* How far `step` is on the way from warmup to total, in [0, 1]. */
static double progress(int64_t step, int64_t warmup, int64_t total) {
    if (step >= total) return 1;
    return (double)(step - warmup) / (double)(total - warmup);
}

static double warming(int64_t step, int64_t warmup, double peak) {
    return step < 0 ? 0 : peak * (double)(step + 1) / (double)warmup;
}

double heed_schedule_warmup_cosine(int64_t step, int64_t warmup, int64_t total, double peak) {
    const double pi = 3.14159265358979323846;
    if (step < warmup) return warming(step, warmup, peak);
    return peak * 0.5 * (1 + cos(pi * progress(step, warmup, total)));
}

double heed_schedule_warmup_linear(int64_t step, int64_t warmup, int64_t total, double peak) {
    if (step < warmup) return warming(step, warmup, peak);
    return peak * (1 - progress(step, warmup, total));
}

double heed_schedule_step(int64_t step, int64_t every, double factor, double peak) {
    if (every < 1 || step < 0) return peak;
    const int64_t drops = step / every;
    return peak * pow(factor, (double)drops);
}
