"""How heed fares beside a busy neighbour.

    contended.py --heed PROGRAM [--case NAME]... [--rounds N] [--seconds S]

Each case is timed with one thread on an idle machine and with two threads while another process spins on the second of two
processors, in turns; the whole runs on two processors. Printed is the median of the rounds' ratios: contended / one thread.
"""
import argparse
import json
import os
import statistics
import subprocess


def median_ms(command):
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])["median_ms"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--heed", required=True)
    parser.add_argument("--case", action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    arguments = parser.parse_args()
    processors = sorted(os.sched_getaffinity(0))[:2]
    if len(processors) < 2:
        raise SystemExit("two processors are needed")
    os.sched_setaffinity(0, processors)
    print(f"{'case':28} {'1 thread ms':>12} {'contended ms':>13} {'ratio':>6}")
    for name in arguments.case or ["gpt_mini_step", "attn_b1h8s2048d64c_fwdbwd"]:
        command = [arguments.heed, "--json", "--case", name, "--seconds", str(arguments.seconds), "--threads"]
        alone, contended = [], []
        for _ in range(arguments.rounds):
            alone.append(median_ms([*command, "1"]))
            spinner = subprocess.Popen(["taskset", "-c", str(processors[1]), "sh", "-c", "while :; do :; done"])
            try:
                contended.append(median_ms([*command, "2"]))
            finally:
                spinner.kill()
                spinner.wait()
        ratio = statistics.median(c / a for c, a in zip(contended, alone))
        print(f"{name:28} {statistics.median(alone):12.3f} {statistics.median(contended):13.3f} {ratio:6.2f}", flush=True)


if __name__ == "__main__":
    main()
