/* A plugin that knows other services than these. */
#include "backend/plugin.h"

const struct heed_backend *heed_plugin(const struct heed_services *services) {
    return services->version == HEED_PLUGIN_VERSION + 1 ? (const struct heed_backend *)services->ref : NULL;
}
