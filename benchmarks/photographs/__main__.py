"""``python -m benchmarks.photographs planted|recall|seam|consistency|picture``.

Prints a table in Markdown and what was wanted. Exit status: 0 what was wanted is there; 1 it is not; 2 there are no
pictures, or no detector. `picture` makes docs/images/restored.png, out of the sample scene.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from aminet_fast import load_model
from aminet_fast.network.freezing import freeze
from aminet_fast.restoration import FaceNetwork, Restored, detect_faces, open_detector, restore_photograph
from aminet_fast.restoration.align import template_of

from . import pasted, pictures, planted, recall

QUICK = {"eyes": (3.4, 5.0), "angles": (0, 20), "faces": 8}
SCALE = 4  # of consistency and seam
SHRUNK = 3  # of consistency: few of the photographs' faces are small enough to keep their pixels


def run_planted(options: argparse.Namespace) -> bool:
    """The pipeline on faces whose original is known."""
    detector = open_detector(options.detector)
    count = None if options.full else QUICK["faces"] if options.quick else 36
    faces = pictures.portraits(detector, count)
    model = freeze(load_model(options.weights))
    networks = (FaceNetwork(model), FaceNetwork(model, ensemble="flip"))
    sizes = QUICK["eyes"] if options.quick else planted.EYES
    angles = QUICK["angles"] if options.quick else planted.ANGLES
    rows = []
    for eyes in sizes:
        for angle in angles:
            say(f"eyes {eyes:g} pixels apart, turned by {angle} degrees ...")
            rows.append(planted.measure(faces, *networks, detector, eyes, angle))
    print("\n".join(planted.table(rows)))
    ratios = planted.ratios(rows)
    told = ", ".join(f"{ratio:.2f} at {eyes:g} pixels" for eyes, ratio in ratios.items())
    held = min(ratios.values()) >= planted.WANTED
    print(f"\nGain at 20 degrees over that at none: {told} ({verdict(held)}: at least {planted.WANTED})")
    return held


def run_recall(options: argparse.Namespace) -> bool:
    """Faces found in the photographs."""
    detector = open_detector(options.detector)
    totals = {least: recall.Counted(0, 0, 0) for least in recall.MIN_SCORES}
    print("| photograph | faces | " + " | ".join(f"found, extra at {least}" for least in totals) + " | seconds |")
    print("|" + "---|" * (3 + len(totals)))
    for name, boxes in pictures.wild(options.quick).items():
        started = time.monotonic()
        faces = detect_faces(pictures.photograph(name), detector, min_score=min(totals))
        seconds = time.monotonic() - started
        counted = {least: recall.count(boxes, faces, least) for least in totals}
        totals = {least: totals[least] + counted[least] for least in totals}
        print(row(Path(name).name, counted) + f" {seconds:.1f} |", flush=True)
    print(row("all", totals) + " |")
    told = ", ".join(f"{counted.recall:.4f} at {least}" for least, counted in totals.items())
    held = totals[recall.DEFAULT].recall >= recall.WANTED
    wanted = f"at least {recall.WANTED} at {recall.DEFAULT}, the default"
    print(f"\nRecall of {options.detector}: {told} ({verdict(held)}: {wanted})")
    return held


def row(name: str, counted: dict[float, recall.Counted]) -> str:
    there = next(iter(counted.values())).there
    return f"| {name} | {there} | " + " | ".join(f"{one.found}, {one.extra}" for one in counted.values()) + " |"


def run_consistency(options: argparse.Namespace) -> bool:
    """Averages of the result against the pixels of the photographs, shrunk to a third."""
    network = FaceNetwork(freeze(load_model(options.weights)))
    worst = 0.0
    print("| photograph | faces, own pixels | values | largest difference, levels | larger faces | the same of these |")
    print("|" + "---|" * 6)
    for name, photograph, done in restored(network, options, SHRUNK):
        faces, result = pasted.restored_faces(done), np.asarray(done.image)
        found: dict[bool, list[tuple[float, int]]] = {True: [], False: []}
        for window in pasted.windows(faces, template_of(network.expects), photograph.size, SCALE):
            difference = pasted.inconsistency(result, np.asarray(photograph), window)
            found[pasted.keeps_pixels(window.face, network.expects)].append(difference)
        own, larger = (max((difference for difference, _ in found[kept]), default=0.0) for kept in (True, False))
        worst = max(worst, own)
        values = sum(count for _, count in found[True])
        counts = f"{len(found[True])} | {values} | {own:.2f} | {len(found[False])} | {larger:.2f}"
        print(f"| {name} | {counts} |", flush=True)
    held = worst <= pasted.CONSISTENT
    told = f"Largest difference in faces of which the network saw the photograph's own pixels: {worst:.2f} levels"
    print(f"\n{told} ({verdict(held)}: at most {pasted.CONSISTENT:g})")
    return held


def run_seam(options: argparse.Namespace) -> bool:
    """Steps at the border of a face's mask against the background's own."""
    network = FaceNetwork(freeze(load_model(options.weights)))
    worst = 0.0
    print("| photograph | faces restored | largest step beyond the background's | its 99th percentile | ratio |")
    print("|---|---|---|---|---|")
    for name, photograph, done in restored(network, options):
        faces, result, before = pasted.restored_faces(done), np.asarray(done.image), np.asarray(done.before)
        usual = pasted.usual_step(before)
        steps = [
            pasted.seam(result, before, window, SCALE)
            for window in pasted.windows(faces, template_of(network.expects), photograph.size, SCALE)
        ]
        largest = max(steps, default=0.0)
        worst = max(worst, largest / usual)
        print(f"| {name} | {len(faces)} | {largest:.0f} | {usual:.0f} | {largest / usual:.2f} |", flush=True)
    held = worst <= pasted.SEAM
    print(f"\nLargest seam {worst:.2f} times the background's usual step ({verdict(held)}: at most {pasted.SEAM})")
    return held


def restored(
    network: FaceNetwork, options: argparse.Namespace, shrunk: int = 1
) -> Iterator[tuple[str, Image.Image, Restored]]:
    detector = open_detector(options.detector)
    for name in pictures.wild(options.quick):
        photograph = pictures.photograph(name)
        if shrunk > 1:
            size = (photograph.width // shrunk, photograph.height // shrunk)
            photograph = photograph.resize(size, Image.Resampling.BICUBIC)
        most = QUICK["faces"] if options.quick else None
        done = restore_photograph(network, photograph, detector=detector, scale=SCALE, max_faces=most)
        yield Path(name).name, photograph, done


def run_picture(options: argparse.Namespace) -> bool:
    """The picture of the README."""
    from .picture import save

    save(options.out, load_model(options.weights), options.detector)
    print(options.out)
    return True


def verdict(held: bool) -> str:
    return "as wanted" if held else "SHORT of what is wanted"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


ACTIONS: dict[str, Callable[[argparse.Namespace], bool]] = {
    "planted": run_planted,
    "recall": run_recall,
    "seam": run_seam,
    "consistency": run_consistency,
    "picture": run_picture,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.photographs", description=str(__doc__).split("\n\n")[1])
    actions = parser.add_subparsers(dest="action", required=True)
    for name, action in ACTIONS.items():
        made = actions.add_parser(name, help=action.__doc__, description=action.__doc__)
        made.add_argument("--detector", default="auto", help="as aminet restore takes it")
        if name != "recall":
            made.add_argument("--weights", default="default", help="as aminet restore takes them")
        if name == "picture":
            made.add_argument("--out", type=Path, default=Path("docs/images/restored.png"), help="the file")
        else:
            made.add_argument("--quick", action="store_true", help="a few faces, of two photographs at most")
        if name == "planted":
            made.add_argument("--full", action="store_true", help="all faces of test_a and test_b, not 36")
    options = parser.parse_args(arguments)
    try:
        return 0 if ACTIONS[options.action](options) else 1
    except (pictures.NoPicturesError, ImportError, FileNotFoundError, ValueError) as error:
        say(f"photographs: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
