/* How many processors the process may use. */
#ifndef HEED_SRC_TENSOR_PROCESSORS_H
#define HEED_SRC_TENSOR_PROCESSORS_H

#include <heed/base.h>

/* The lesser of the processors it may run on and the quota of its control group; ≥ 1. */
int heed_processors(void);

/* The processors that the quotas of control groups (version 1 or 2) leave, rounded up; INT_MAX if there is no
 * quota. `groups` is a file like /proc/self/cgroup, `mount` a folder like /sys/fs/cgroup. */
int heed_cgroup_processors(const char *groups, const char *mount);

#endif
