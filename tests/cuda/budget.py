#!/usr/bin/env python3
"""Registers, shared memory and local memory of every kernel in libheed_cuda.so, for every target that it was compiled for,
against the table in budget.txt.

usage: budget.py [--cuobjdump PROGRAM] [--table FILE] [--doc FILE] [--sass TARGET...] [--update] LIBRARY
       budget.py [--table FILE] --occupancy

A kernel is named as in the source, without the types that it was made for; what it needs is the most of all those and of all
targets. A kernel without a row is an error, a row without a kernel too, and one that the documentation (--doc) does not name in
backquotes. No kernel may use local memory: neither stack nor, in the machine code of some targets (--sass), an instruction of it.
--update writes the table anew. --occupancy tells what the rows leave of a multiprocessor's 2048 threads on an A100 and an H100, for
blocks of 256.
"""
import argparse
import os
import re
import subprocess
import sys

HEADER = """# What kernels may need: registers of a thread (rounded up to 8, as they are given out), bytes of static shared memory of a
# block (with the 1024 that sm_90 and later keep of it for themselves), and the kernel's name. Written by tests/cuda/budget.py --update, which also checks it.
"""


def run(*command, text=None):
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def demangled(names):
    return run("c++filt", text="\n".join(names) + "\n").splitlines()


def kernel(signature):
    """The name in "void name<types>(parameters)"."""
    name = signature.removeprefix("void ").replace("(anonymous namespace)::", "")
    return re.split(r"[<(]", name, maxsplit=1)[0]


class Needs:
    """The most that a kernel needs, and where."""

    def __init__(self):
        self.most = {"registers": (0, ""), "shared": (0, ""), "stack": (0, "")}

    def add(self, what, number, where):
        self.most[what] = max(self.most[what], (number, where))


def usage(cuobjdump, library):
    """Needs by kernel, and the set of targets."""
    target, name, found, targets = None, None, [], set()
    for line in run(cuobjdump, "--dump-resource-usage", library).splitlines():
        if match := re.match(r"arch = (\w+)", line):
            target = match[1]
            targets.add(target)
        elif match := re.match(r" Function (.+):$", line):
            name = match[1]
        elif match := re.match(r"  REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            registers, stack, shared, local = map(int, match.groups())
            found.append((target, name, registers, shared, stack + local))
    signatures = dict(zip([f[1] for f in found], demangled([f[1] for f in found])))
    kernels = {}
    for target, name, registers, shared, stack in found:
        where = f"{signatures[name]} for {target}"
        needs = kernels.setdefault(kernel(signatures[name]), Needs())
        needs.add("registers", registers, where)
        needs.add("shared", shared, where)
        needs.add("stack", stack, where)
    return kernels, targets


def local_instructions(cuobjdump, library, target):
    """Kernels of one target whose machine code has loads from or stores to local memory, with one of them."""
    name, found = None, {}
    for line in run(cuobjdump, "-sass", "-arch", target, library).splitlines():
        if match := re.match(r"\s*Function : (\S+)", line):
            name = match[1]
        elif match := re.search(r"\b(?:LDL|STL)\b[^;]*", line):
            found.setdefault(name, match[0].strip())
    return dict(zip(demangled(found), found.values())) if found else {}


def read_table(path):
    rows = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                registers, shared, name = line.split(None, 2)
                rows[name.strip()] = (int(registers), int(shared))
    return rows


def write_table(path, kernels):
    with open(path, "w", encoding="utf-8") as file:
        file.write(HEADER)
        for name, needs in sorted(kernels.items()):
            registers = (needs.most["registers"][0] + 7) // 8 * 8
            file.write(f"{registers:3} {needs.most['shared'][0]:6} {name}\n")


def occupancy(registers, shared, shared_of_processor):
    """Percent of 2048 threads, in blocks of 256, that registers and shared memory allow."""
    blocks = min(8, 65536 // (256 * registers))
    if shared:
        blocks = min(blocks, shared_of_processor * 1024 // (shared + 1024))
    return blocks * 256 * 100 // 2048


def undocumented(kernels, path):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    for name in sorted(kernels):
        if f"`{name}`" not in text:
            yield f"{name} is not in {os.path.basename(path)}"


def complaints(kernels, rows):
    for name, needs in sorted(kernels.items()):
        if name not in rows:
            yield f"{name} has no row in the table"
            continue
        for what, most in zip(("registers", "shared"), rows[name]):
            number, where = needs.most[what]
            if number > most:
                yield f"{name} needs {number} {what} ({where}), and its row allows {most}"
    for name, needs in sorted(kernels.items()):
        number, where = needs.most["stack"]
        if number > 0:
            yield f"{name} needs {number} bytes of local memory ({where})"
    for name in sorted(rows.keys() - kernels.keys()):
        yield f"the table has a row for {name}, and there is no such kernel"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cuobjdump", default="cuobjdump")
    parser.add_argument("--table", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "budget.txt"))
    parser.add_argument("--doc")
    parser.add_argument("--sass", nargs="+", default=["sm_90"])
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--occupancy", action="store_true")
    parser.add_argument("library", nargs="?")
    wanted = parser.parse_args()
    if wanted.occupancy:
        for name, (registers, shared) in read_table(wanted.table).items():
            a100, h100 = (occupancy(registers, shared, kib) for kib in (164, 228))
            print(f"{a100:3} % {h100:3} % {name}")
        return 0
    if not wanted.library:
        parser.error("a library must be named")
    kernels, targets = usage(wanted.cuobjdump, wanted.library)
    if not kernels:
        sys.exit(f"{wanted.library} has no kernels")
    if wanted.update:
        write_table(wanted.table, kernels)
    wrong = list(complaints(kernels, read_table(wanted.table)))
    if wanted.doc:
        wrong += undocumented(kernels, wanted.doc)
    for target in wanted.sass:
        for name, instruction in local_instructions(wanted.cuobjdump, wanted.library, target).items():
            wrong.append(f"{name} for {target} has the instruction {instruction}")
    for line in wrong:
        print(line)
    print(f"{len(kernels)} kernels for {' '.join(sorted(targets))}: {len(wrong)} complaints")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
