/**
 * @file heed.h
 * @brief Includes the headers of libheed in the order in which a user meets them.
 *
 * `<heed/io.h>` (files) and `<heed/kit.h>` (help for programs) belong to libheed_kit and are included
 * apart.
 */
#ifndef HEED_HEED_H
#define HEED_HEED_H

#include <heed/base.h>
#include <heed/context.h>
#include <heed/tensor.h>
#include <heed/ops.h>
#include <heed/mask.h>
#include <heed/score.h>
#include <heed/attention.h>
#include <heed/autograd.h>
#include <heed/module.h>
#include <heed/cache.h>
#include <heed/layers.h>
#include <heed/transformer.h>
#include <heed/optim.h>

#endif
