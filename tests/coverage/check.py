"""Sums llvm-cov's export per file, and holds the splice state machine against
docs/coverage.md: each place there that no test reaches needs a line that says why.

A place is named by its file, its function and the text of its line, so that moving
code about changes nothing. --list prints the places without a line as rows of the
table. Exit status 1 when a line is missing.
"""

import collections
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SRC = ROOT / "dataplane/core/src"
TABLE = ROOT / "docs/coverage.md"
MACHINE = re.compile(r"^(handover/\w+|ingress_\w+|translate|tick)\.rs$")


def places(files, functions):
    """Counts per source position: code regions, and both outcomes of branches."""
    regions, branches = collections.Counter(), collections.Counter()
    for f in functions:
        name = f["filenames"][0]
        for line, col, end_line, end_col, count, file_id, _, kind in f["regions"]:
            if kind == 0 and file_id == 0 and name in files:
                regions[(name, line, col, end_line, end_col)] += count
        for b in f.get("branches", []):
            line, col, _, _, yes, no, file_id = b[:7]
            if file_id == 0 and name in files:
                branches[(name, line, col, True)] += yes
                branches[(name, line, col, False)] += no
    return regions, branches


class Source:
    def __init__(self, path):
        self.lines = path.read_text().splitlines()
        # Tests inside a file are not what is measured.
        tests = [i for i, l in enumerate(self.lines) if l.startswith("#[cfg(test)]")]
        self.end = tests[0] + 1 if tests else len(self.lines) + 1

    def text(self, line):
        return re.sub(r"\s+", " ", self.lines[line - 1].strip())

    def function(self, line):
        for i in range(line - 1, -1, -1):
            m = re.match(r"\s*(?:pub(?:\([a-z]+\))? )?(?:const )?fn (\w+)", self.lines[i])
            if m:
                return m.group(1)
        return "-"


def ratio(hit, all_):
    return f"{hit:5}/{all_:<5} {100 * hit / all_ if all_ else 100:6.2f} %"


def summary(rel, source, regions, branches):
    code = [(k, n) for k, n in regions if k[1] < source.end]
    lines = {}
    for (_, first, _, last, _), n in sorted(code, key=lambda r: (r[0][1], -r[0][3])):
        for line in range(first, last + 1):
            # An inner region comes later and says more.
            lines[line] = n
    sides = [n for k, n in branches if k[1] < source.end]
    hit = [(sum(n > 0 for n in v), len(v)) for v in (list(lines.values()), [n for _, n in code], sides)]
    print(f"{rel:30} lines {ratio(*hit[0])}  regions {ratio(*hit[1])}  branches {ratio(*hit[2])}")
    return hit


def missing(rel, source, regions, branches):
    """Places that no test reaches, each told once: the decision that is never taken,
    or where there is none, the code that is not run."""
    inside = lambda l, c, spans: any((a, b) <= (l, c) < (x, y) for a, b, x, y in spans)
    brace = lambda l, c: source.lines[l - 1][c - 1 :].startswith("}")
    dead = [k[1:] for k, n in regions if n == 0 and k[1] < source.end and not brace(k[1], k[2])]
    outer = [r for r in dead if not inside(r[0], r[1], [d for d in dead if d != r])]
    found, decisions = set(), []
    for (_, line, col, side), n in branches:
        # Within what is not run nothing can be decided; and the rules that the
        # simulator can break hold everywhere else.
        if n == 0 and line < source.end and re.match(r"!?broken\(Mutation::", source.lines[line - 1][col - 1 :]):
            decisions.append(line)
        elif n == 0 and line < source.end and not inside(line, col, dead):
            what = "never true" if side else "never false"
            found.add((rel, source.function(line), source.text(line), what))
            decisions.append(line)
    for line, _, _, _ in outer:
        if not any(0 <= line - d <= 3 for d in decisions):
            found.add((rel, source.function(line), source.text(line), "not run"))
    return found


def explained():
    rows = set()
    for row in TABLE.read_text().splitlines() if TABLE.exists() else []:
        m = re.match(r"\| `([^`]+)` \| `([^`]+)` \| `` (.*?) `` \| (not run|never true|never false) \| (.+) \|$", row)
        if m and m.group(5).strip():
            rows.add(m.groups()[:4])
    return rows


def main():
    export = json.loads(pathlib.Path(sys.argv[1]).read_text())["data"][0]
    names = {f["filename"] for f in export["files"]}
    names = {n for n in names if pathlib.Path(n).is_relative_to(SRC)}
    regions, branches = places(names, export["functions"])
    total, found = [[0, 0] for _ in range(3)], set()
    for name in sorted(names):
        rel = str(pathlib.Path(name).relative_to(SRC))
        source = Source(pathlib.Path(name))
        r = [(k, n) for k, n in regions.items() if k[0] == name]
        b = [(k, n) for k, n in branches.items() if k[0] == name]
        for sums, hit in zip(total, summary(rel, source, r, b)):
            sums[0] += hit[0]
            sums[1] += hit[1]
        if MACHINE.match(rel):
            found |= missing(rel, source, r, b)
    print(f"{'all':30} lines {ratio(*total[0])}  regions {ratio(*total[1])}  branches {ratio(*total[2])}")
    known = explained()
    new = sorted(found - known)
    print(f"coverage: splice state machine: {len(found)} places not reached, {len(new)} of them without a line in docs/coverage.md")
    for row in sorted(known - found):
        print(f"coverage: reached by now, or gone: {' | '.join(row)}")
    for rel, function, text, what in new:
        print(f"| `{rel}` | `{function}` | `` {text} `` | {what} |  |")
    return 1 if new else 0


sys.exit(main())
