"""What the peers share: timing a case as heed-bench does, and the command line."""
import argparse
import json
import statistics
import time


def status_bytes(key):
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    return 0


def measure(make, seconds):
    """Runs make()'s function for `seconds`, at least 5 times, after two runs that do not count."""
    before = status_bytes("VmRSS:")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    run = make()
    for _ in range(2):
        run()
    times, start = [], time.perf_counter()
    while len(times) < 5 or time.perf_counter() - start < seconds:
        t = time.perf_counter()
        run()
        times.append((time.perf_counter() - t) * 1e3)
    return {"min_ms": min(times), "median_ms": statistics.median(times), "runs": len(times),
            "peak_bytes": max(0, status_bytes("VmHWM:") - before)}


def main(cases, prepare):
    """`prepare(threads)` makes the peer use that many threads (0: its own choice) and returns what is to be told of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--case", choices=cases)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=2)
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(cases))
        return
    about = prepare(arguments.threads)
    for name in [arguments.case] if arguments.case else cases:
        print(json.dumps({"case": name, **measure(cases[name], arguments.seconds), **about}), flush=True)
