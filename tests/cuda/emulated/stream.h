/* The streams of the emulated device: queues of copies, fills, kernels and events.
 *
 * Real streams go on beside the host, so what the host forgot to wait for shows only now and then. Here
 * HEED_CUDA_SCHEDULE chooses when queued work is done:
 *   0 (or none)  at once
 *   1            as late as can be: when somebody waits for it
 *   other        at moments chosen at random, streams in any order that events allow */
#ifndef HEED_TESTS_CUDA_EMULATED_STREAM_H
#define HEED_TESTS_CUDA_EMULATED_STREAM_H

#include <cstdint>
#include <driver_types.h>
#include <functional>

namespace emulated {

/* Ends the process if it is no stream, or none of this device (−1: of any); `who` asks. */
void stream_check(const char *who, cudaStream_t stream, int device = -1);

cudaStream_t stream_new(int device);
void stream_free(cudaStream_t stream); /* when its work is done */
int64_t streams_living();

/* Queues work. Device memory is open to it. */
void stream_do(cudaStream_t stream, std::function<void()> work);

/* Returns when the work of this stream, or all work, is done. */
void stream_wait(cudaStream_t stream);
void stream_wait_all();

cudaEvent_t event_new();
void event_free(cudaEvent_t event);
void event_check(const char *who, cudaEvent_t event);
void event_record(cudaEvent_t event, cudaStream_t stream);
void event_wait(cudaEvent_t event);                      /* the host waits */
void event_hold(cudaEvent_t event, cudaStream_t stream); /* the stream waits */
bool event_done(cudaEvent_t event);
int64_t events_living();

} // namespace emulated

#endif
