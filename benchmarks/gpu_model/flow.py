"""How often a warp runs each basic block of a CUDA C++ kernel: what the emulator counted, put into the SASS.

What a thread loads, stores, copies, multiplies and waits for was counted by place in the source (counted.py); SASS has
these instructions with their places (lined.py). A block's passes are the least that explain the counts, where as many
warps come into a block as go out of it: a linear programme, because unrolled loops and both ways of a branch have
several copies of one line.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from . import sass
from .lined import Instruction, Place

NEAR = 3  # lines that the compilers may disagree by
WELL = 0.05  # off in products: more is worth another try
NO_MATTER = 0.02  # weight of more passes than a predicated instruction was seen to have
LEFT_OVER = 0.1  # weight of what was found at no common place
SLACK = 1e-6
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
    partly: bool  # some are: a thread's passes may be as many as a warp's
    weight: float = 1.0


@dataclass
class Flow:
    blocks: list[Block]
    passes: list[float]  # of each block by one warp
    unknown: int  # loops of which nothing says how often they run: taken for one pass or none
    explained: float  # of what was counted, by weight, the part that the passes give


def event(instruction: str) -> tuple[str, int] | None:
    """What the emulator calls it, and how much of it: bytes of a thread, or 1; None for what is not counted."""
    if instruction.startswith("@!PT"):
        return None
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
        if ".DIV" in sass.opcode(last.text):  # for lanes that are not together, which nobody counts on
            return [after], False
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
    for together in (partial(_together, near=0), partial(_together, near=NEAR), _by_frames):
        groups = list(together(left_code, left_sites))
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


Group = tuple[set[int], set[int]]  # numbers of instructions, of sites


def _together(code: list[tuple], sites: list[Site], near: int) -> list[Group]:
    """Those whose places are the same as far as both go; the innermost lines may be so far apart."""
    index: dict[tuple, list[int]] = defaultdict(list)
    for n, (_, instruction, kind, _) in enumerate(code):
        if instruction.place:
            index[kind, instruction.place[0][0]].append(n)
    fitting = []
    for site in sites:
        near_by = index[site.event, site.place[0][0]] if site.place else []
        fitting.append([n for n in near_by if _same(code[n][1].place, site.place, near)])
    return _joined(fitting)


def _by_frames(code: list[tuple], sites: list[Site]) -> list[Group]:
    """Each site with the instructions that have most of its lines: g++ may forget the innermost ones."""
    fitting = []
    for site in sites:
        common = [
            len(set(site.place).intersection(instruction.place)) if kind == site.event else 0
            for _, instruction, kind, _ in code
        ]
        most = max(common, default=0)
        fitting.append([n for n, found in enumerate(common) if found == most > 0])
    return _joined(fitting)


def _joined(fitting: list[list[int]]) -> list[Group]:
    """Sites that have an instruction in common are one group. fitting: by site."""
    owner: dict[int, int] = {}  # of instructions: a site of their group
    groups: dict[int, Group] = {}
    for n, given in enumerate(fitting):
        if not given:
            continue
        those, these = set(given), {n}
        for other in {owner[m] for m in given if m in owner}:
            more = groups.pop(other)
            those |= more[0]
            these |= more[1]
        groups[n] = those, these
        owner |= dict.fromkeys(those, n)
    return list(groups.values())


def _same(a: Place, b: Place, near: int) -> bool:
    """Whether one chain begins as the other."""
    if a[0][0] != b[0][0] or abs(a[0][1] - b[0][1]) > near:
        return False
    return all(x == y for x, y in zip(a[1:], b[1:], strict=False))


def _observation(code: list[tuple], sites: list[Site]) -> Observation:
    blocks: dict[int, float] = defaultdict(float)
    for n, _, _, unit in code:
        blocks[n] += unit
    threads, warps = (sum(getattr(site, of) * site.unit for site in sites) for of in ("threads", "warps"))
    guarded = [i.guarded for _, i, *_ in code]
    return Observation(dict(blocks), threads, warps, all(guarded), any(guarded))


def flow(code: list[Instruction], sites: list[Site]) -> Flow:
    """Passes of each block by one warp."""
    found = _flow(code, sites)
    if _off(found, sites) > WELL:
        # nvcc may fold two calls of one function into one, which has the place of either.
        placed = [replace(i, place=_folded(i.place)) for i in code], [replace(s, place=_folded(s.place)) for s in sites]
        found = min(found, _flow(*placed), key=lambda one: _off(one, sites))
    return found


def _off(found: Flow, sites: list[Site]) -> float:
    """The relative error of all products, which no kernel has by the way, wherever they are."""
    counted = sum(site.threads for site in sites if site.event.startswith("product"))
    given = sum(
        passes
        for block, passes in zip(found.blocks, found.passes, strict=True)
        for instruction in block.instructions
        if (event(instruction.text) or ("",))[0].startswith("product")
    )
    return abs(given - counted) / counted if counted else 0.0


def _folded(place: Place) -> Place:
    """Without the line that the innermost function is called from."""
    return place[:1] + place[2:]


def _flow(code: list[Instruction], sites: list[Site]) -> Flow:
    blocks = blocks_of(code)
    seen, left = observations(blocks, sites)
    given = {n for one in seen for n in one.blocks}
    undone = {n for n, block in enumerate(blocks) if n not in given and (kinds := _events(block)) and not kinds & left}
    by_thread = _solved(blocks, seen, undone)
    # A warp passes where any of its threads does: as often more than a thread as was counted in the block.
    shares: dict[int, list[float]] = defaultdict(list)
    for one in seen:
        if one.threads > 0 and one.weight == 1:
            for n in one.blocks:
                shares[n].append(one.warps / one.threads)
    passes = [x * min(shares.get(n, [1.0])) for n, x in enumerate(by_thread)]
    known = {n for one in seen if one.weight == 1 for n in one.blocks}
    unknown = sum(_unknown(blocks, loop, by_thread, known, left) for loop in loops_of(blocks))
    total = sum(one.weight for one in seen)
    missed = sum(one.weight * min(1.0, _missed(one, by_thread)) for one in seen)
    return Flow(blocks, passes, unknown, 1 - missed / total if total else 0.0)


def _events(block: Block) -> set[str]:
    """What is counted of its instructions."""
    return {found[0] for i in block.instructions if (found := event(i.text))}


def _unknown(blocks: list[Block], loop: tuple[int, int], passes: list[float], given: set[int], left: set[str]) -> bool:
    """Whether nothing says how often a loop runs. given: blocks that counts are of; left: events at no known place.

    What was counted at no place of a loop was not done, if all that was counted is at some place.
    """
    inside = range(loop[0], loop[1] + 1)
    if given.intersection(inside):
        return False
    events = set().union(*(_events(blocks[n]) for n in inside))
    return bool(events & left) if events else passes[loop[0]] > 0


def _missed(one: Observation, passes: list[float]) -> float:
    given = sum(unit * passes[n] for n, unit in one.blocks.items())
    if given > one.threads and (one.guarded or (one.partly and given <= one.warps + SLACK)):
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


def _solved(blocks: list[Block], seen: list[Observation], undone: set[int]) -> list[float]:
    """Passes of each block by a thread. undone: blocks with instructions that nobody was seen to run."""
    ways = Ways(blocks)
    least = ways.explaining(seen)
    return ways.passes(ways.fullest(seen, least, undone))


class Ways:
    """The ways through a kernel, as a linear programme: a variable for every edge, that is how often it is taken."""

    def __init__(self, blocks: list[Block]) -> None:
        self.blocks = blocks
        self.edges = [(n, to) for n, block in enumerate(blocks) for to in [*block.to, *([-1] if block.ends else [])]]
        self.into: dict[int, list[int]] = defaultdict(list)
        for e, (_, to) in enumerate(self.edges):
            self.into[to].append(e)
        self.sizes = [len(blocks[n].instructions) for n, _ in self.edges]

    def passes(self, taken: list[float]) -> list[float]:
        """Of each block; the first is come into from outside."""
        return [float(n == 0) + sum(taken[e] for e in self.into[n]) for n in range(len(self.blocks))]

    def _conserved(self) -> Rows:
        """As many leave a block as come."""
        rows = Rows()
        for n in range(len(self.blocks)):
            rows.add([(e, -1.0) for e in self.into[n]], float(n == 0))
        for e, (n, _) in enumerate(self.edges):
            rows.put(n, e, 1.0)
        return rows

    def explaining(self, seen: list[Observation]) -> list[float]:
        """Least absolute relative error of the counts, and of those ways the ones with fewest instructions."""
        rows, seen = self._conserved(), [one for one in seen if one.threads > 0]
        most = max([1.0, *(one.threads / unit for one in seen for unit in one.blocks.values())])
        scale = PARSIMONY / most / sum(len(block.instructions) for block in self.blocks)
        cost = [scale * size for size in self.sizes]
        bounds: list[tuple[float, float | None]] = [(0.0, None)] * len(cost)
        for one in seen:
            terms = [(e, unit / one.threads) for n, unit in one.blocks.items() for e in self.into[n]]
            terms += [(len(cost), 1.0), (len(cost) + 1, -1.0), (len(cost) + 2, -1.0)]
            rows.add(terms, 1.0 - one.blocks.get(0, 0.0) / one.threads)
            # Too few passes; as many as warps had; too many.
            cost += [one.weight, one.weight * NO_MATTER, one.weight * (NO_MATTER if one.guarded else 1.0)]
            bounds += [(0.0, None), (0.0, max(0.0, one.warps / one.threads - 1) if one.partly else 0.0), (0.0, None)]
        return rows.solved(cost, bounds=bounds)[: len(self.edges)]

    def fullest(self, seen: list[Observation], least: list[float], undone: set[int]) -> list[float]:
        """Of the ways that explain the counts as well, with as many passes of every loop, that with most instructions.

        Nothing counts arithmetic alone: of two ways the one with more of it is taken, as for Triton's kernels both are.
        """
        rows, limits = self._conserved(), Rows()
        for one in seen:
            terms = [(e, unit) for n, unit in one.blocks.items() for e in self.into[n]]
            value = sum(factor * least[e] for e, factor in terms)
            limits.add([(e, -factor) for e, factor in terms], -value + SLACK * (1 + value))
            if not one.guarded:
                limits.add(terms, value + SLACK * (1 + value))
        bounds: list[tuple[float, float | None]] = []
        for (n, to), taken in zip(self.edges, least, strict=True):
            slack = SLACK * (1 + taken)
            back = 0 <= to <= n
            most = taken + slack if back or to in undone else None
            bounds.append((max(0.0, taken - slack) if back else 0.0, most))
        return rows.solved([-float(size) for size in self.sizes], limits, bounds)


class Rows:
    """Equations, or upper limits, of a linear programme."""

    def __init__(self) -> None:
        self.right: list[float] = []
        self.terms: list[tuple[int, int, float]] = []  # row, column, factor

    def add(self, terms: list[tuple[int, float]], right: float) -> None:
        self.terms += [(len(self.right), column, factor) for column, factor in terms]
        self.right.append(right)

    def put(self, row: int, column: int, factor: float) -> None:
        self.terms.append((row, column, factor))

    def matrix(self, columns: int) -> Any:
        from scipy.sparse import coo_array

        row, column, factor = zip(*self.terms, strict=True)
        return coo_array((factor, (row, column)), shape=(len(self.right), columns)).tocsr()

    def solved(self, cost: list[float], limits: Rows | None = None, bounds: Any = (0, None)) -> list[float]:
        """The variables at the least cost. Raises ValueError where there are none."""
        from scipy.optimize import linprog

        upper = (limits.matrix(len(cost)), limits.right) if limits is not None and limits.right else (None, None)
        found = linprog(cost, *upper, self.matrix(len(cost)), self.right, bounds)
        if found.x is None:
            raise ValueError(f"no passes explain the counts: {found.message}")
        return [float(x) for x in found.x]


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
