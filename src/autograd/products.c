/* The matrix product. */
#include "autograd/tape.h"

static heed_status matmul_backward(struct heed_backward *b) {
    struct heed_matmul_args *args = b->args;
    args->y.data = NULL;
    args->dy = heed_dy(b, 0);
    args->da = heed_dx_expanded(b, 0, &args->a);
    args->db = heed_dx_expanded(b, 1, &args->b);
    return heed_backward_run(b);
}

static const struct heed_op op_matmul = {"matmul", HEED_PRODUCT, matmul_backward, NULL};

heed_tensor heed_matmul(heed_tensor a, heed_tensor b) {
    struct heed_call c;
    if (!heed_call_begin(&c, &op_matmul, NULL, 2, (heed_tensor[]){a, b}) || !heed_call_float(&c, 0, "a") ||
        !heed_call_float(&c, 1, "b"))
        return heed_call_end(&c);
    struct heed_view va = heed_call_view(&c, 0), vb = heed_call_view(&c, 1);
    struct heed_matmul_args args = {0};
    int64_t size[HEED_MAX_RANK];
    int rank = 0;
    char one[112], two[112];
    if (va.rank < 2 || vb.rank < 2 || va.size[va.rank - 1] != vb.size[vb.rank - 2] ||
        !heed_shape_broadcast(va.rank - 2, va.size, vb.rank - 2, vb.size, &rank, size)) {
        heed_call_fail(&c, HEED_ERROR_SHAPE, "%s does not match %s",
                       heed_named_shape("a", &va, one, sizeof one),
                       heed_named_shape("b", &vb, two, sizeof two));
        return heed_call_end(&c);
    }
    rank += 2;
    size[rank - 2] = va.size[va.rank - 2];
    size[rank - 1] = va.size[va.rank - 1];
    heed_view_expand(&va, rank, size, &args.a);
    size[rank - 2] = vb.size[vb.rank - 2];
    size[rank - 1] = vb.size[vb.rank - 1];
    heed_view_expand(&vb, rank, size, &args.b);
    size[rank - 2] = va.size[va.rank - 2];
    args.y = heed_call_output(&c, va.dtype, rank, size);
    heed_call_save_view(&c, &args.a);
    heed_call_save_view(&c, &args.b);
    return heed_call_run(&c, HEED_PRIMITIVE_MATMUL, &args, sizeof args);
}
