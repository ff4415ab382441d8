"""Medians of two files of results, heed-bench's and a peer's, which may each have several lines for a case, and their ratios.

    ratios.py HEED.jsonl PEER.jsonl
"""
import json
import statistics
import sys


def medians(path):
    times, bytes_moved = {}, {}
    with open(path) as file:
        for line in file:
            result = json.loads(line)
            times.setdefault(result["case"], []).append(result["median_ms"])
            bytes_moved[result["case"]] = result.get("bytes", 0)
    return {case: statistics.median(ms) for case, ms in times.items()}, bytes_moved


def main():
    heed, bytes_moved = medians(sys.argv[1])
    peer, _ = medians(sys.argv[2])
    print(f"{'case':28} {'heed ms':>10} {'peer ms':>10} {'ratio':>7} {'GB/s':>8}")
    for case, ms in heed.items():
        other = f"{peer[case]:10.4f} {peer[case] / ms:6.2f}x" if case in peer else f"{'–':>10} {'–':>7}"
        rate = f"{bytes_moved[case] / ms / 1e6:8.0f}" if bytes_moved[case] else ""
        print(f"{case:28} {ms:10.4f} {other} {rate}")


if __name__ == "__main__":
    main()
