"""Runs heed-bench and a peer in turns, process by process, and prints both with their ratio.

    compare.py --heed PROGRAM --peer SCRIPT [--case NAME] [--threads N] [--rounds N] [--seconds S] [--json]

Each case takes several rounds of heed, peer, heed, peer …, so that a machine that gets slower or faster meanwhile does so for
both. What is printed is the median over the rounds of each one's median; ratio = the peer's time / heed's time.
"""
import argparse
import json
import statistics
import subprocess
import sys


def one(command):
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.strip().splitlines()[-1])


def compare(name, arguments):
    common = ["--case", name, "--threads", str(arguments.threads), "--seconds", str(arguments.seconds)]
    rounds = {"heed": [], "peer": []}
    for _ in range(arguments.rounds):
        rounds["heed"].append(one([arguments.heed, "--json", *common]))
        rounds["peer"].append(one([sys.executable, arguments.peer, *common]))
    median = {who: statistics.median(r["median_ms"] for r in rs) for who, rs in rounds.items()}
    result = {"case": name, "threads": arguments.threads, "ratio": median["peer"] / median["heed"]}
    for who, rs in rounds.items():
        result[who] = {**rs[-1], "median_ms": median[who], "min_ms": min(r["min_ms"] for r in rs),
                       "runs": sum(r["runs"] for r in rs), "peak_bytes": max(r["peak_bytes"] for r in rs)}
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--heed", required=True)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--case")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    listed = subprocess.run([sys.executable, arguments.peer, "--list"], check=True, stdout=subprocess.PIPE, text=True)
    names = listed.stdout.split()
    if arguments.case:
        if arguments.case not in names:
            sys.exit(f"there is no case '{arguments.case}'; there are {', '.join(names)}")
        names = [arguments.case]
    if not arguments.json:
        print(f"{'case':28} {'heed ms':>10} {'torch ms':>10} {'ratio':>7} {'heed MiB':>9} {'torch MiB':>9}")
    for name in names:
        r = compare(name, arguments)
        if arguments.json:
            print(json.dumps(r), flush=True)
        else:
            print(f"{name:28} {r['heed']['median_ms']:10.3f} {r['peer']['median_ms']:10.3f} {r['ratio']:7.2f} "
                  f"{r['heed']['peak_bytes'] / 2**20:9.1f} {r['peer']['peak_bytes'] / 2**20:9.1f}", flush=True)


if __name__ == "__main__":
    main()
