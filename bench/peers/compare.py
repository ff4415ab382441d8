"""Runs heed-bench and its peers in turns, process by process, and prints all with their ratios.

    compare.py --heed PROGRAM --peer NAME PYTHON SCRIPT [--peer …] [--case NAME] [--threads N] [--rounds N] [--seconds S]
               [--device NAME] [--precision f32|bf16] [--json] [--save FILE]

Each case takes several rounds of heed, peer, peer, heed, …, so that a machine that gets slower or faster meanwhile does so for
all. What is printed is the median over the rounds of each one's median, and ratio = the peer's time / heed's time: the median
of the ratios of the rounds. --save writes all of it as JSON with machine and versions.
"""
import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys


def one(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def cases_of(python, script):
    listed = subprocess.run([python, script, "--list"], check=True, stdout=subprocess.PIPE, text=True)
    return listed.stdout.split()


def compare(name, heed, peers, arguments):
    common = ["--case", name, "--threads", str(arguments.threads), "--seconds", str(arguments.seconds),
              "--device", arguments.device, "--precision", arguments.precision]
    commands = {"heed": [heed, "--json", *common]}
    commands.update({peer: [python, script, *common] for peer, (python, script, cases) in peers.items() if name in cases})
    rounds = {who: [] for who in commands}
    for _ in range(arguments.rounds):
        for who, command in commands.items():
            rounds[who].append(one(command))
    ratio = {}
    result = {"case": name, "threads": arguments.threads, "device": arguments.device, "precision": arguments.precision}
    for who, rs in rounds.items():
        result[who] = {**rs[-1], "median_ms": statistics.median(r["median_ms"] for r in rs),
                       "min_ms": min(r["min_ms"] for r in rs), "runs": sum(r["runs"] for r in rs),
                       "peak_bytes": max(r["peak_bytes"] for r in rs)}
        if who != "heed":
            ratio[who] = statistics.median(r["median_ms"] / h["median_ms"] for r, h in zip(rs, rounds["heed"]))
    # Of one peer a number, of several one each.
    result["ratio"] = ratio if len(peers) > 1 else next(iter(ratio.values()))
    return result


def processor():
    """Its name, and the numbers that say which it is where a virtual machine does not name it."""
    said = {}
    with open("/proc/cpuinfo") as file:
        for line in file:
            key, _, value = line.partition(":")
            said.setdefault(key.strip(), value.strip())
    if "model name" not in said:
        return platform.processor()
    return f"{said['model name']}, family {said.get('cpu family')}, model {said.get('model')}"


def system():
    return " ".join([platform.system(), platform.machine(), *platform.libc_ver()])


def ratio_of(result, peer):
    return result["ratio"][peer] if isinstance(result["ratio"], dict) else result["ratio"]


def row(result, peers):
    cells = [f"{result['case']:28} {result['heed']['median_ms']:10.3f}"]
    for peer in peers:
        cells.append(f"{result[peer]['median_ms']:10.3f} {ratio_of(result, peer):6.2f}x" if peer in result
                     else f"{'–':>10} {'–':>7}")
    cells.append(f"{result['heed']['peak_bytes'] / 2**20:9.1f}")
    for peer in peers:
        cells.append(f"{result[peer]['peak_bytes'] / 2**20:9.1f}" if peer in result else f"{'–':>9}")
    return " ".join(cells)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--heed", required=True)
    parser.add_argument("--peer", nargs=3, action="append", required=True, metavar=("NAME", "PYTHON", "SCRIPT"))
    parser.add_argument("--case", action="append")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--save")
    arguments = parser.parse_args()
    peers = {name: (python, script, cases_of(python, script)) for name, python, script in arguments.peer}
    listed = subprocess.run([arguments.heed, "--list"], check=True, stdout=subprocess.PIPE, text=True)
    names = [line.split()[0] for line in listed.stdout.splitlines()]
    names = [name for name in names if any(name in cases for _, _, cases in peers.values())]
    for name in arguments.case or []:
        if name not in names:
            sys.exit(f"no case '{name}' is shared with the peers; there are {', '.join(names)}")
    results = []
    if not arguments.json:
        heads = "".join(f" {peer + ' ms':>10} {'ratio':>7}" for peer in peers)
        print(f"{'case':28} {'heed ms':>10}{heads} {'heed MiB':>9}" + "".join(f" {peer + ' MiB':>9}" for peer in peers))
    for name in arguments.case or names:
        results.append(compare(name, arguments.heed, peers, arguments))
        print(json.dumps(results[-1]) if arguments.json else row(results[-1], peers), flush=True)
    if arguments.save:
        with open(arguments.save, "w") as file:
            json.dump({"date": datetime.date.today().isoformat(), "processor": processor(), "system": system(),
                       "processors": len(os.sched_getaffinity(0)), "rounds": arguments.rounds, "seconds": arguments.seconds,
                       "python": platform.python_version(), "results": results}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
