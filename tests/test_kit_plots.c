/* Plots: libpng reads them back, they show what they should, and a disk that is full leaves the old file. */
#include "harness.h"

#include <heed/kit.h>
#include <math.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "harness_files.h"

static char directory[TEST_PATH_BYTES], path[TEST_PATH_BYTES];
static heed_ctx *ctx;

static void set_up(void) {
    test_directory_make(directory);
    test_path(directory, "plot.png", path);
    ctx = test_ref();
}

static void tear_down(void) {
    heed_ctx_free(ctx);
    test_directory_remove(directory);
}

/* ---- pictures ---- */

struct picture {
    int width, height;
    unsigned char *rgb;
};

static struct picture read_back(void) {
    png_image image = {.version = PNG_IMAGE_VERSION};
    ck_assert_msg(png_image_begin_read_from_file(&image, path), "%s", image.message);
    image.format = PNG_FORMAT_RGB;
    struct picture picture = {(int)image.width, (int)image.height, malloc(PNG_IMAGE_SIZE(image))};
    ck_assert_msg(png_image_finish_read(&image, NULL, picture.rgb, 0, NULL), "%s", image.message);
    return picture;
}

static unsigned pixel(const struct picture *p, int x, int y) {
    const unsigned char *rgb = p->rgb + ((size_t)y * (size_t)p->width + (size_t)x) * 3;
    return (unsigned)rgb[0] << 16 | (unsigned)rgb[1] << 8 | rgb[2];
}

static int count_colour(const struct picture *p, unsigned colour) {
    int count = 0;
    for (int y = 0; y < p->height; y++)
        for (int x = 0; x < p->width; x++) count += pixel(p, x, y) == colour;
    return count;
}

enum { FIRST = 0x2864b4, SECOND = 0xd8641e };

static const double two_x[] = {0, 1000}, two_y[] = {1, 2};

/* ---- curves ---- */

START_TEST(curves_are_where_they_should_be) {
    const double x[] = {0, 500, 1000}, low[] = {1, 1, 1}, high[] = {3, 3, 3};
    const heed_curve curves[] = {{"training", 3, x, low}, {"validation", 3, x, high}};
    const heed_plot_options options = {.title = "title", .x_label = "step", .y_label = "loss"};
    ck_assert_int_eq(heed_plot_curves(ctx, path, 2, curves, &options), HEED_OK);
    struct picture p = read_back();
    ck_assert(p.width == 900 && p.height == 560);
    ck_assert_int_eq(test_directory_count(directory), 1);
    /* Along the middle column the second curve comes first, near the top; the first near the bottom. */
    int top = -1, bottom = -1;
    for (int y = 0; y < p.height; y++) {
        unsigned colour = pixel(&p, 300, y);
        if (colour == SECOND && top < 0) top = y;
        if (colour == FIRST) bottom = y;
    }
    ck_assert(top > 20 && top < 80 && bottom > 420 && bottom < 520);
    free(p.rgb);
}
END_TEST

START_TEST(curves_of_any_size_and_number_are_drawn) {
    const heed_plot_options small = {.width = 160, .height = 160}, wide = {.width = 8192, .height = 161};
    heed_curve curves[6];
    for (int c = 0; c < 6; c++) curves[c] = (heed_curve){"a", 2, two_x, two_y};
    for (int count = 0; count <= 6; count++) {
        ck_assert_int_eq(heed_plot_curves(ctx, path, count, curves, &small), HEED_OK);
        struct picture p = read_back();
        ck_assert(p.width == 160 && p.height == 160);
        free(p.rgb);
    }
    ck_assert_int_eq(heed_plot_curves(ctx, path, 1, curves, &wide), HEED_OK);
    struct picture p = read_back();
    ck_assert(p.width == 8192 && p.height == 161 && count_colour(&p, FIRST) > 1000);
    free(p.rgb);
}
END_TEST

START_TEST(curves_with_odd_numbers_are_drawn) {
    static const struct {
        double x[4], y[4];
        bool shown;
    } odd[] = {
        {{0, 1, 2, 3}, {1, NAN, 2, 1}, true},
        {{0, 1, 2, 3}, {NAN, NAN, NAN, NAN}, false},
        {{0, 1, 2, 3}, {INFINITY, -INFINITY, 1e308, -1e308}, false},
        {{0, 1, NAN, INFINITY}, {1, 2, 3, 4}, true},
        {{5, 5, 5, 5}, {7, 7, 7, 7}, true},
        {{0, 0, 0, 0}, {0, 0, 0, 0}, true},
        {{-1e299, 1e299, 0, 1}, {-1e299, 1e299, 1e-300, 0}, true},
        {{1e15, 1e15 + 1, 1e15 + 2, 1e15 + 3}, {1e-320, 2e-320, 3e-320, 0}, true},
        {{3, 1, 2, 0}, {-1, -2, 0.5, 1e-9}, true},
    };
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        const heed_curve curve = {"", 4, odd[i].x, odd[i].y};
        ck_assert_int_eq(heed_plot_curves(ctx, path, 1, &curve, NULL), HEED_OK);
        struct picture p = read_back();
        ck_assert_msg((count_colour(&p, FIRST) > 0) == odd[i].shown, "case %d", (int)i);
        free(p.rgb);
    }
    test_ok(ctx);
}
END_TEST

START_TEST(long_and_strange_labels_are_cut) {
    char *label = malloc(100001);
    memset(label, 'W', 100000);
    label[100000] = 0;
    for (int i = 0; i < 256; i++) label[i] = (char)(i + 1 < 256 ? i + 1 : 1);
    const heed_curve curve = {label, 2, two_x, two_y};
    const heed_plot_options options = {.title = label, .x_label = label, .y_label = label};
    ck_assert_int_eq(heed_plot_curves(ctx, path, 1, &curve, &options), HEED_OK);
    free(read_back().rgb);
    free(label);
}
END_TEST

START_TEST(wrong_plots_are_refused) {
    const heed_curve good = {"a", 2, two_x, two_y}, unnamed = {NULL, 2, two_x, two_y},
                     empty = {"a", 2, two_x, NULL}, negative = {"a", -1, two_x, two_y};
    heed_curve many[7];
    for (int c = 0; c < 7; c++) many[c] = good;
    heed_plot_curves(ctx, path, 7, many, NULL);
    test_error(ctx, HEED_ERROR_ARGUMENT, "7 curves", "too many curves");
    heed_plot_curves(ctx, path, -1, many, NULL);
    test_error(ctx, HEED_ERROR_ARGUMENT, "-1 curves", "a negative number of curves");
    const heed_curve *const wrong[] = {&unnamed, &empty, &negative};
    for (int i = 0; i < 3; i++) {
        heed_plot_curves(ctx, path, 1, wrong[i], NULL);
        test_error(ctx, HEED_ERROR_ARGUMENT, "curve 0", "a curve that is none");
    }
    heed_plot_curves(ctx, path, 1, &good, &(heed_plot_options){.width = 159});
    test_error(ctx, HEED_ERROR_ARGUMENT, "159 x 560", "too small");
    heed_plot_curves(ctx, path, 1, &good, &(heed_plot_options){.height = 8193});
    test_error(ctx, HEED_ERROR_ARGUMENT, "900 x 8193", "too large");
    heed_plot_curves(ctx, path, 1, &good, &(heed_plot_options){.reserved = {1}});
    test_error(ctx, HEED_ERROR_ARGUMENT, "reserved", "reserved space");
    heed_plot_curves(ctx, NULL, 1, &good, NULL);
    test_error(ctx, HEED_ERROR_ARGUMENT, "no path", "no path");
    heed_plot_curves(ctx, directory, 1, &good, NULL);
    test_error(ctx, HEED_ERROR_IO, "is a directory", "a directory");
    ck_assert_int_eq(test_directory_count(directory), 0);
}
END_TEST

START_TEST(histories_are_plotted_by_step) {
    heed_history *history = heed_history_new(ctx, 2, (const char *[]){"training", "validation"});
    for (int64_t step = 1; step <= 300; step++)
        heed_history_add(history, step, (double[]){3.0 + 1.0 / (double)step, step % 100 ? NAN : 1.0});
    ck_assert_int_eq(heed_history_plot(history, path, &(heed_plot_options){.width = 800, .height = 300}),
                     HEED_OK);
    struct picture p = read_back();
    ck_assert(p.width == 800 && p.height == 300);
    ck_assert(count_colour(&p, FIRST) > 100 && count_colour(&p, SECOND) > 20);
    free(p.rgb);
    ck_assert_int_eq(heed_history_plot(NULL, path, NULL), HEED_ERROR_ARGUMENT);
    heed_history_free(history);
}
END_TEST

/* ---- attention ---- */

START_TEST(attention_maps_show_the_weights) {
    const float weights[2][2][3] = {{{1, 0, 0}, {0, 1, 0}}, {{0, 0, 1}, {0.25f, 0.25f, 0.5f}}};
    heed_tensor t = heed_from(ctx, HEED_F32, TEST_SHAPE(1, 2, 2, 3), weights);
    ck_assert_int_eq(
        heed_plot_attention(t, path, &(heed_attention_plot_options){.queries = "ab", .keys = "xyz"}),
        HEED_OK);
    struct picture labelled = read_back();
    ck_assert_int_eq(heed_plot_attention(t, path, NULL), HEED_OK);
    struct picture p = read_back();
    ck_assert(labelled.width > p.width && labelled.height > p.height);
    /* Full weight is darkest: one cell of 10 by 10 for every one of three weights. */
    ck_assert_int_eq(count_colour(&p, 0x230f46), 300);
    ck_assert_int_eq(count_colour(&labelled, 0x230f46), 300);
    free(p.rgb);
    free(labelled.rgb);
    /* The same as doubles, and through other strides. */
    heed_tensor other = heed_transpose(heed_contiguous(heed_transpose(heed_cast(t, HEED_F64), 2, 3)), 2, 3);
    ck_assert_int_eq(heed_plot_attention(other, path, NULL), HEED_OK);
    p = read_back();
    ck_assert_int_eq(count_colour(&p, 0x230f46), 300);
    free(p.rgb);
    /* No number is red. */
    const float odd[] = {NAN, INFINITY, -5, 7};
    ck_assert_int_eq(heed_plot_attention(heed_from(ctx, HEED_F32, TEST_SHAPE(1, 2, 2), odd), path, NULL),
                     HEED_OK);
    p = read_back();
    ck_assert(count_colour(&p, 0xd02020) == 200 && count_colour(&p, 0x230f46) == 100);
    free(p.rgb);
    test_ok(ctx);
}
END_TEST

START_TEST(attention_maps_of_many_sizes) {
    static const int64_t sizes[][3] = {{1, 1, 1},   {3, 7, 2},   {5, 64, 64},
                                       {16, 65, 3}, {2, 3, 161}, {1, 330, 200}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        heed_tensor t = heed_full(ctx, HEED_F32, 3, sizes[i], 0.5);
        char label[400] = "";
        memset(label, 'x', sizeof label - 1);
        const heed_attention_plot_options options = {.title = "a title", .queries = label, .keys = label};
        ck_assert_int_eq(heed_plot_attention(t, path, &options), HEED_OK);
        free(read_back().rgb);
        heed_free(t);
    }
}
END_TEST

START_TEST(attention_of_wrong_shape_is_refused) {
    static const int64_t wrong[][4] = {{2, 2, 3, 3}, {1, 0, 3, 3},    {1, 2, 0, 3},
                                       {1, 2, 3, 0}, {1, 1, 4097, 1}, {1, 1, 1, 4097}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        heed_tensor t = heed_zeros(ctx, HEED_F32, 4, wrong[i]);
        ck_assert_int_eq(heed_plot_attention(t, path, NULL), HEED_ERROR_SHAPE);
        test_error(ctx, HEED_ERROR_SHAPE, "[heads, queries, keys]", "a shape");
        heed_free(t);
    }
    heed_plot_attention(heed_zeros(ctx, HEED_F32, TEST_SHAPE(3, 3)), path, NULL);
    test_error(ctx, HEED_ERROR_SHAPE, "[heads, queries, keys]", "rank 2");
    heed_plot_attention(heed_zeros(ctx, HEED_I32, TEST_SHAPE(1, 3, 3)), path, NULL);
    test_error(ctx, HEED_ERROR_SHAPE, "f32 or f64", "integers");
    heed_plot_attention(heed_zeros(ctx, HEED_F32, TEST_SHAPE(100, 2000, 1)), path, NULL);
    test_error(ctx, HEED_ERROR_SHAPE, "do not fit", "too large a picture");
    heed_plot_attention(heed_zeros(ctx, HEED_F32, TEST_SHAPE(1, 3, 3)), path,
                        &(heed_attention_plot_options){.reserved = {1}});
    test_error(ctx, HEED_ERROR_ARGUMENT, "reserved", "reserved space");
    ck_assert_int_ne(heed_plot_attention((heed_tensor){0}, path, NULL), HEED_OK);
    ck_assert_int_eq(test_directory_count(directory), 0);
}
END_TEST

/* ---- a full disk ---- */

START_TEST(a_full_disk_is_an_error_and_keeps_the_old_file) {
    const heed_curve curve = {"a", 2, two_x, two_y};
    ck_assert_int_eq(heed_plot_curves(ctx, "/dev/full", 1, &curve, NULL), HEED_ERROR_IO);
    test_error(ctx, HEED_ERROR_IO, "No space left", "/dev/full");
    test_file_write(path, "old", 3);
    heed_tensor t = heed_uniform(ctx, HEED_F32, TEST_SHAPE(4, 40, 40), 0, 1);
    heed_history *history = heed_history_new(ctx, 1, (const char *[]){"loss"});
    for (int64_t step = 0; step < 1000; step++) heed_history_add(history, step, (double[]){1.0 / 3.0});
    /* Check writes to a file of its own: nothing is asserted while files cannot grow. */
    struct rlimit limit;
    char error[3][256];
    heed_status status[3];
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = 1000;
    int limited = setrlimit(RLIMIT_FSIZE, &limit);
    for (int i = 0; i < 3; i++) {
        status[i] = i == 0   ? heed_plot_curves(ctx, path, 1, &curve, NULL)
                    : i == 1 ? heed_plot_attention(t, path, NULL)
                             : heed_history_save(history, path);
        snprintf(error[i], sizeof error[i], "%s", heed_error(ctx));
        heed_error_clear(ctx);
    }
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_FSIZE, &limit);
    ck_assert_int_eq(limited, 0);
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(status[i], HEED_ERROR_IO);
        ck_assert_msg(strstr(error[i], "File too large") != NULL, "%d: %s", i, error[i]);
    }
    heed_history_free(history);
    size_t size;
    char *content = test_file_read(path, &size);
    ck_assert_str_eq(content, "old");
    free(content);
    ck_assert_int_eq(test_directory_count(directory), 1);
    /* After an error nothing is written. */
    heed_error_set(ctx, HEED_ERROR_ARGUMENT, "test", "on purpose");
    ck_assert_int_eq(heed_plot_curves(ctx, path, 1, &curve, NULL), HEED_ERROR_ARGUMENT);
    ck_assert_int_eq(heed_plot_attention(t, path, NULL), HEED_ERROR_ARGUMENT);
    content = test_file_read(path, &size);
    ck_assert_str_eq(content, "old");
    free(content);
    heed_error_clear(ctx);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("kit_plots");
    TCase *tests = test_case(suite, "curves");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, curves_are_where_they_should_be);
    tcase_add_test(tests, curves_of_any_size_and_number_are_drawn);
    tcase_add_test(tests, curves_with_odd_numbers_are_drawn);
    tcase_add_test(tests, long_and_strange_labels_are_cut);
    tcase_add_test(tests, wrong_plots_are_refused);
    tcase_add_test(tests, histories_are_plotted_by_step);
    tests = test_case(suite, "attention");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, attention_maps_show_the_weights);
    tcase_add_test(tests, attention_maps_of_many_sizes);
    tcase_add_test(tests, attention_of_wrong_shape_is_refused);
    tests = test_case(suite, "disk");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, a_full_disk_is_an_error_and_keeps_the_old_file);
    return test_main(suite);
}
