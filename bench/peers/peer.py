"""What the peers share: timing a case as heed-bench does, and the command line."""
import argparse
import json
import statistics
import sys
import time


def status_bytes(key):
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    return 0


def time_of(run, wait, count):
    """Milliseconds of each of `count` runs that follow one another without waiting."""
    before = time.perf_counter()
    for _ in range(count):
        run()
    wait()
    return (time.perf_counter() - before) * 1e3 / count


def together(run, wait):
    """Runs that are timed together on a device, as in heed-bench: as many as take about 2 ms."""
    ms = time_of(run, wait, 5)
    return 100 if ms < 0.02 else max(1, int(2 / ms))


def measure(make, seconds, wait):
    """Runs make()'s function for `seconds`, at least 5 times, after two runs that do not count. `wait` waits for the
    device; None: the processor itself."""
    before = status_bytes("VmRSS:")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    run = make()
    count, wait = (together(run, wait), wait) if wait else (1, lambda: None)
    time_of(run, wait, 2)
    times, start = [], time.perf_counter()
    while len(times) < 5 or time.perf_counter() - start < seconds:
        times.append(time_of(run, wait, count))
    return {"min_ms": min(times), "median_ms": statistics.median(times), "runs": len(times) * count,
            "peak_bytes": max(0, status_bytes("VmHWM:") - before)}


def main(cases, prepare):
    """`prepare(arguments)` makes the peer use that many threads (0: its own choice), that device and that precision, and
    returns what is to be told of it, and what waits for the device (None: the processor)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--case", choices=cases)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(cases))
        return
    about, wait = prepare(arguments)
    failed = 0
    for name in [arguments.case] if arguments.case else cases:
        try:
            print(json.dumps({"case": name, **measure(cases[name], arguments.seconds, wait), **about}), flush=True)
        except Exception as problem:  # the other cases say something still
            print(f"{name}: {problem!r}", file=sys.stderr)
            failed += 1
    sys.exit(min(failed, 1))
