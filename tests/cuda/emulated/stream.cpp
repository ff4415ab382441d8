#include "emulated/stream.h"

#include "emulated/block.h"
#include "emulated/memory.h"

#include <cstdlib>
#include <deque>
#include <random>
#include <vector>

/* CUDA's headers declare these two, and nobody defines them but a runtime. */
struct CUevent_st {
    int64_t recorded,
        done;            /* how often: the number of the last record, and of the last one that was reached */
    cudaStream_t stream; /* of the last record */
};

namespace emulated {
namespace {
struct operation {
    std::function<void()> work; /* empty for events */
    cudaEvent_t record, hold;   /* NULL: no such */
    int64_t number;             /* of the record, or of that which is waited for */
};
} // namespace
} // namespace emulated

struct CUstream_st {
    std::deque<emulated::operation> queue;
    int device;
};

namespace emulated {

static std::vector<cudaStream_t> streams;
static std::vector<cudaEvent_t> events;

static unsigned schedule() {
    const char *text = getenv("HEED_CUDA_SCHEDULE");
    return text ? (unsigned)strtoul(text, NULL, 10) : 0;
}

static unsigned long random_below(unsigned long end) {
    static std::mt19937 random(schedule());
    return random() % end;
}

template <typename T> static bool is_among(const std::vector<T> &all, T one) {
    for (T other : all)
        if (other == one) return true;
    return false;
}

template <typename T> static void take_away(std::vector<T> *all, T one) {
    for (size_t i = 0; i < all->size(); i++) {
        if ((*all)[i] != one) continue;
        all->erase(all->begin() + (std::ptrdiff_t)i);
        return;
    }
}

/* ---- doing what is queued ---- */

static bool is_ready(cudaStream_t stream) {
    if (stream->queue.empty()) return false;
    const operation &next = stream->queue.front();
    return !next.hold || next.hold->done >= next.number;
}

static void do_next(cudaStream_t stream) {
    const operation next = stream->queue.front();
    stream->queue.pop_front();
    if (next.record && next.record->done < next.number) next.record->done = next.number;
    if (!next.work) return;
    enter();
    next.work();
    leave();
}

/* Goes on until the record of this number was reached, by way of whatever its stream waits for. */
static void reach(cudaEvent_t event, int64_t number) {
    while (event->done < number) {
        cudaStream_t stream = event->stream;
        if (stream->queue.empty()) fail("an event that nobody will reach is waited for");
        if (is_ready(stream))
            do_next(stream);
        else
            reach(stream->queue.front().hold, stream->queue.front().number);
    }
}

static void do_anything() {
    cudaStream_t stream = streams[random_below(streams.size())];
    if (is_ready(stream)) do_next(stream);
}

static void finish(cudaStream_t stream) {
    while (!stream->queue.empty()) {
        if (schedule() > 1) do_anything();
        if (is_ready(stream))
            do_next(stream);
        else if (!stream->queue.empty())
            reach(stream->queue.front().hold, stream->queue.front().number);
    }
}

static void put(cudaStream_t stream, operation what) {
    stream->queue.push_back(std::move(what));
    if (schedule() == 0) finish(stream);
    for (unsigned long n = schedule() > 1 ? random_below(3) : 0; n > 0; n--) do_anything();
}

/* ---- streams ---- */

void stream_check(const char *who, cudaStream_t stream, int device) {
    if (!is_among(streams, stream)) fail("%s: %p is no stream", who, static_cast<void *>(stream));
    if (device >= 0 && device != stream->device)
        fail("%s: the stream is of device %d, and the thread's device is %d", who, stream->device, device);
}

cudaStream_t stream_new(int device) {
    locked lock;
    streams.push_back(new CUstream_st{{}, device});
    return streams.back();
}

void stream_free(cudaStream_t stream) {
    locked lock;
    finish(stream);
    take_away(&streams, stream);
    delete stream;
}

int64_t streams_living() {
    locked lock;
    return (int64_t)streams.size();
}

void stream_do(cudaStream_t stream, std::function<void()> work) {
    locked lock;
    put(stream, {std::move(work), NULL, NULL, 0});
}

void stream_wait(cudaStream_t stream) {
    locked lock;
    finish(stream);
}

void stream_wait_all() {
    locked lock;
    for (size_t i = 0; i < streams.size(); i++) finish(streams[i]);
}

/* ---- events ---- */

void event_check(const char *who, cudaEvent_t event) {
    if (!is_among(events, event)) fail("%s: %p is no event", who, static_cast<void *>(event));
}

cudaEvent_t event_new() {
    locked lock;
    events.push_back(new CUevent_st());
    return events.back();
}

void event_free(cudaEvent_t event) {
    locked lock;
    if (event->recorded > event->done) reach(event, event->recorded);
    take_away(&events, event);
    delete event;
}

int64_t events_living() {
    locked lock;
    return (int64_t)events.size();
}

void event_record(cudaEvent_t event, cudaStream_t stream) {
    locked lock;
    event->stream = stream;
    put(stream, {{}, event, NULL, ++event->recorded});
}

/* An event that was never recorded holds nobody up. */
void event_wait(cudaEvent_t event) {
    locked lock;
    reach(event, event->recorded);
}

void event_hold(cudaEvent_t event, cudaStream_t stream) {
    locked lock;
    put(stream, {{}, NULL, event, event->recorded});
}

bool event_done(cudaEvent_t event) {
    locked lock;
    return event->done >= event->recorded;
}

} // namespace emulated
