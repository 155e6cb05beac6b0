"""How often a warp runs each basic block of a CUDA C++ kernel: what the emulator counted, put into the SASS.

What a thread loads, stores, copies, multiplies and waits for was counted by place in the source (counted.py); SASS has
these instructions with their places (lined.py). A block's passes are the least that explain the counts, where as many
warps come into a block as go out of it: a linear programme, because unrolled loops and both ways of a branch have
several copies of one line.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from . import sass
from .lined import Instruction, Place

NEAR = 3  # lines that the compilers may disagree by
NO_MATTER = 0.02  # weight of more passes than a predicated instruction was seen to have
LEFT_OVER = 0.1  # weight of what was found at no common place
PARSIMONY = 1e-3  # of all instructions, against the relative error of a count
PLAIN_BRANCH = re.compile(r"(BRA|JMP)(\.\w+)*\s+`")
BARRIER = re.compile(r"\b(B\d+)\b")


@dataclass
class Block:
    instructions: list[Instruction]
    to: list[int] = field(default_factory=list)  # blocks that may come next
    ends: bool = False  # the kernel may end with it


@dataclass(frozen=True)
class Site:
    """What was counted at a place: a warp's executions and those of a thread, on average."""

    place: Place
    event: str  # of counters.h, with the kind of memory: "load shared"
    unit: int  # bytes, or 1
    warps: float
    threads: float


@dataclass
class Observation:
    """Instructions and counts of the same places."""

    blocks: dict[int, float]  # how much one pass of a block adds
    threads: float  # what was counted
    warps: float
    guarded: bool  # the instructions are all predicated: passes may be more
    weight: float = 1.0


@dataclass
class Flow:
    blocks: list[Block]
    passes: list[float]  # of each block by one warp
    unknown: int  # loops of which nothing says how often they run: taken for one pass or none
    explained: float  # of what was counted, by weight, the part that the passes give


def event(instruction: str) -> tuple[str, int] | None:
    """What the emulator calls it, and how much of it: bytes of a thread, or 1; None for what is not counted."""
    base = sass.opcode(instruction).split(".")[0]
    if base in ("LDG", "LD", "STG", "ST", "LDS", "STS"):
        kind = "load" if base[0] == "L" else "store"
        return f"{kind} {'shared' if base[-1] == 'S' else 'global'}", sass.width(instruction)
    if base == "HMMA":
        return ("product_tf32" if "TF32" in instruction else "product"), 1
    if base == "BAR":
        return "barrier", 1
    named = {"LDGSTS": "copy", "LDSM": "matrices", "SHFL": "shuffle"}
    named |= dict.fromkeys(("ATOM", "ATOMG", "ATOMS", "RED"), "atomic")
    return (named[base], 1) if base in named else None


def blocks_of(code: list[Instruction]) -> list[Block]:
    """The kernel's basic blocks, and how they follow each other."""
    targets = {i.target for i in code if i.target}
    blocks: list[Block] = []
    label_of: dict[str, int] = {}
    fresh = True
    for instruction in code:
        if fresh or targets.intersection(instruction.labels):
            blocks.append(Block([]))
        label_of |= dict.fromkeys(instruction.labels, len(blocks) - 1)
        blocks[-1].instructions.append(instruction)
        fresh = sass.opcode(instruction.text).split(".")[0] in ("BRA", "JMP", "EXIT", "RET", "BRX", "BSYNC")
    joins: dict[str, str] = {}
    for n, block in enumerate(blocks):
        for instruction in block.instructions:
            if (found := BARRIER.search(instruction.text)) and sass.opcode(instruction.text) == "BSSY":
                joins[found[1]] = instruction.target
        block.to, block.ends = _ways(block.instructions[-1], n + 1, label_of, joins)
        block.to = [to for to in block.to if to < len(blocks)]
    return blocks


def _ways(last: Instruction, after: int, label_of: dict[str, int], joins: dict[str, str]) -> tuple[list[int], bool]:
    """Where a block's last instruction leads, and whether out of the kernel."""
    base = sass.opcode(last.text).split(".")[0]
    if base in ("BRA", "JMP"):
        there = [label_of[last.target]] if last.target in label_of else []
        always = not last.guarded and PLAIN_BRANCH.match(last.text)
        return list(dict.fromkeys(there if always else [*there, after])), False
    if base in ("EXIT", "RET", "BRX"):
        return ([after] if last.guarded else []), True
    if base == "BSYNC" and (found := BARRIER.search(last.text)) and joins.get(found[1]) in label_of:
        return list(dict.fromkeys([label_of[joins[found[1]]], *([after] if last.guarded else [])])), False
    return [after], False


def observations(blocks: list[Block], sites: list[Site]) -> tuple[list[Observation], set[str]]:
    """Counts beside the instructions of the same place; what has none is put together by kind: of these the events."""
    code = [(n, i, *found) for n, block in enumerate(blocks) for i in block.instructions if (found := event(i.text))]
    found: list[Observation] = []
    left_sites, left_code = list(sites), code
    for near in (0, NEAR):
        groups = list(_together(left_code, left_sites, near))
        found += [
            _observation([left_code[n] for n in those], [left_sites[n] for n in these]) for those, these in groups
        ]
        used_code, used_sites = ({n for group in groups for n in group[which]} for which in (0, 1))
        left_code = [item for n, item in enumerate(left_code) if n not in used_code]
        left_sites = [site for n, site in enumerate(left_sites) if n not in used_sites]
    left = {site.event for site in left_sites}
    for kind in left:
        those = [item for item in left_code if item[2] == kind]
        if those:
            found.append(_observation(those, [site for site in left_sites if site.event == kind]))
            found[-1].weight = LEFT_OVER
    return found, left


def _together(code: list[tuple], sites: list[Site], near: int) -> Iterator[tuple[set[int], set[int]]]:
    """(numbers of instructions, of sites) whose places are the same as far as both go."""
    index: dict[tuple, list[int]] = defaultdict(list)
    for n, (_, instruction, kind, _) in enumerate(code):
        if instruction.place:
            index[kind, instruction.place[0][0]].append(n)
    owner: dict[int, int] = {}  # of instructions: a site of their group
    groups: dict[int, tuple[set[int], set[int]]] = {}
    for n, site in enumerate(sites):
        if not site.place:
            continue
        fitting = [m for m in index[site.event, site.place[0][0]] if _same(code[m][1].place, site.place, near)]
        if not fitting:
            continue
        those, these = set(fitting), {n}
        for other in {owner[m] for m in fitting if m in owner}:
            more = groups.pop(other)
            those |= more[0]
            these |= more[1]
        groups[n] = those, these
        owner |= dict.fromkeys(those, n)
    yield from groups.values()


def _same(a: Place, b: Place, near: int) -> bool:
    """Whether one chain begins as the other; the innermost lines may be so far apart."""
    if a[0][0] != b[0][0] or abs(a[0][1] - b[0][1]) > near:
        return False
    return all(x == y for x, y in zip(a[1:], b[1:], strict=False))


def _observation(code: list[tuple], sites: list[Site]) -> Observation:
    blocks: dict[int, float] = defaultdict(float)
    for n, _, _, unit in code:
        blocks[n] += unit
    threads, warps = (sum(getattr(site, of) * site.unit for site in sites) for of in ("threads", "warps"))
    return Observation(dict(blocks), threads, warps, all(i.guarded for _, i, *_ in code))


def flow(code: list[Instruction], sites: list[Site]) -> Flow:
    """Passes of each block by one warp."""
    blocks = blocks_of(code)
    seen, left = observations(blocks, sites)
    by_thread = _solved(blocks, seen)
    # A warp passes where any of its threads does: as often more than a thread as was counted in the block.
    shares: dict[int, list[float]] = defaultdict(list)
    for one in seen:
        if one.threads > 0 and one.weight == 1:
            for n in one.blocks:
                shares[n].append(one.warps / one.threads)
    passes = [x * min(shares.get(n, [1.0])) for n, x in enumerate(by_thread)]
    given = {n for one in seen if one.weight == 1 for n in one.blocks}
    unknown = sum(_unknown(blocks, loop, by_thread, given, left) for loop in loops_of(blocks))
    total = sum(one.weight for one in seen)
    missed = sum(one.weight * min(1.0, _missed(one, by_thread)) for one in seen)
    return Flow(blocks, passes, unknown, 1 - missed / total if total else 0.0)


def _unknown(blocks: list[Block], loop: tuple[int, int], passes: list[float], given: set[int], left: set[str]) -> bool:
    """Whether nothing says how often a loop runs. given: blocks that counts are of; left: events at no known place.

    What was counted at no place of a loop was not done, if all that was counted is at some place.
    """
    inside = range(loop[0], loop[1] + 1)
    if given.intersection(inside):
        return False
    events = {found[0] for n in inside for i in blocks[n].instructions if (found := event(i.text))}
    return bool(events & left) if events else passes[loop[0]] > 0


def _missed(one: Observation, passes: list[float]) -> float:
    given = sum(unit * passes[n] for n, unit in one.blocks.items())
    if one.guarded and given > one.threads:
        return 0.0
    return abs(given - one.threads) / max(one.threads, 1e-9)


def loops_of(blocks: list[Block]) -> list[tuple[int, int]]:
    """(first, last block) of every way back; ways back to one head are one loop, one instruction alone is none."""
    found: dict[int, int] = {}
    for n, block in enumerate(blocks):
        for to in block.to:
            if to < n or (to == n and len(block.instructions) > 1):
                found[to] = max(n, found.get(to, 0))
    return sorted(found.items())


def _solved(blocks: list[Block], seen: list[Observation]) -> list[float]:
    """Least absolute relative error of the counts, and of those passes the ones with fewest instructions."""
    import numpy as np
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    edges = [(n, to) for n, block in enumerate(blocks) for to in [*block.to, *([-1] if block.ends else [])]]
    into: dict[int, list[int]] = defaultdict(list)
    for e, (_, to) in enumerate(edges):
        into[to].append(e)
    most = max([1.0, *(one.threads / unit for one in seen for unit in one.blocks.values())])
    seen = [one for one in seen if one.threads > 0]
    size = sum(len(block.instructions) for block in blocks) * max(1.0, most)
    cost = [PARSIMONY * len(blocks[n].instructions) / size for n, _ in edges]
    for one in seen:
        cost += [one.weight, one.weight * (NO_MATTER if one.guarded else 1.0)]  # too few passes, too many
    rows, columns, values, right = [], [], [], []

    def put(row: int, column: int, value: float) -> None:
        rows.append(row)
        columns.append(column)
        values.append(value)

    for e, (n, to) in enumerate(edges):
        put(n, e, 1.0)
        if to >= 0 and to != n:
            put(to, e, -1.0)
        elif to == n:
            put(n, e, -1.0)
    right += [float(n == 0) for n in range(len(blocks))]
    for number, one in enumerate(seen):
        row = len(blocks) + number
        for n, unit in one.blocks.items():
            for e in into[n]:
                put(row, e, unit / one.threads)
        right.append(1.0 - one.blocks.get(0, 0.0) / one.threads)  # the first block is come into from outside
        put(row, len(edges) + 2 * number, 1.0)
        put(row, len(edges) + 2 * number + 1, -1.0)
    shape = (len(right), len(cost))
    found = linprog(cost, A_eq=coo_array((values, (rows, columns)), shape=shape).tocsr(), b_eq=np.array(right))
    if found.x is None:
        raise ValueError(f"no passes explain the counts: {found.message}")
    return [float(n == 0) + sum(float(found.x[e]) for e in into[n]) for n in range(len(blocks))]


def totals(found: Flow) -> tuple[Counter[str], float, float]:
    """(instructions by class, cycles of the load-store unit, of the tensor cores) of one warp."""
    counts: Counter[str] = Counter()
    lsu = tensor = 0.0
    for block, passes in zip(found.blocks, found.passes, strict=True):
        for instruction in block.instructions:
            if sass.opcode(instruction.text).startswith("NOP"):
                continue
            counts[sass.kind(instruction.text)] += passes
            lsu += passes * sass.lsu_cycles(instruction.text)
            tensor += passes * (sass.tensor_cycles(instruction.text) if "MMA" in instruction.text else 0.0)
    return counts, lsu, tensor
