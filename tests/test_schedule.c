/* Schedules: exact values at their corners. */
#include "harness.h"

#include <math.h>

static void check_number(double actual, double expected) {
    ck_assert_msg(fabs(actual - expected) < 1e-15, "%.17g is not %.17g", actual, expected);
}

START_TEST(schedules) {
    check_number(heed_schedule_constant(123, 0.5), 0.5);
    check_number(heed_schedule_warmup_cosine(0, 4, 12, 1), 0.25);
    check_number(heed_schedule_warmup_cosine(3, 4, 12, 1), 1);
    check_number(heed_schedule_warmup_cosine(4, 4, 12, 1), 1);
    check_number(heed_schedule_warmup_cosine(6, 4, 12, 2), 1 + sqrt(0.5));
    check_number(heed_schedule_warmup_cosine(8, 4, 12, 1), 0.5);
    check_number(heed_schedule_warmup_cosine(12, 4, 12, 1), 0);
    check_number(heed_schedule_warmup_cosine(99, 4, 12, 1), 0);
    check_number(heed_schedule_warmup_cosine(0, 0, 10, 1), 1);
    check_number(heed_schedule_warmup_cosine(0, 0, 0, 1), 0);
    check_number(heed_schedule_warmup_cosine(7, 10, 5, 1), 0.8);
    check_number(heed_schedule_warmup_cosine(-1, 10, 20, 1), 0);
    check_number(heed_schedule_warmup_linear(1, 4, 12, 1), 0.5);
    check_number(heed_schedule_warmup_linear(4, 4, 12, 1), 1);
    check_number(heed_schedule_warmup_linear(6, 4, 12, 1), 0.75);
    check_number(heed_schedule_warmup_linear(12, 4, 12, 1), 0);
    check_number(heed_schedule_warmup_linear(13, 4, 12, 1), 0);
    check_number(heed_schedule_step(9, 10, 0.5, 1), 1);
    check_number(heed_schedule_step(10, 10, 0.5, 1), 0.5);
    check_number(heed_schedule_step(39, 10, 0.5, 1), 0.125);
    check_number(heed_schedule_step(39, 0, 0.5, 1), 1);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("schedule");
    TCase *tcase = test_case(suite, "schedule");
    tcase_add_test(tcase, schedules);
    return test_main(suite);
}
