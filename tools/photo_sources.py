"""Collect photographs with free licences from Debian packages, to train a teacher on.

    python tools/photo_sources.py runs/photos_debian

fetches the packages of a fixed list with `apt-get download` (260 MB; nothing is installed) and
unpacks them in a work folder. Of each it takes the photographs that `SOURCES` names (they were
chosen by eye among drawings, gradients and logos) and looks up their licence in the package's
debian/copyright file. A picture stays if that licence allows use and derived works, if it looks
like a photograph, and if it is no near duplicate of another one. It is made at most 1024 pixels
large and written as PNG.

One picture in ten is held out: those whose file name has a SHA-256 that is a multiple of ten.
That is the rule of `cond_distill.images.Photos`, so `--images runs/photos_debian` trains on the
others, and `Photos("runs/photos_debian", …, split="held_out")` opens the ones never trained on.

The pictures are for training on this machine. None of them belongs into the repository or into a
release. What is committed is the manifest, results/photo_sources.json: package, version, file,
licence, author, SHA-256 and split of each. A run compares what it made with the manifest and says
what differs; `--update` writes it anew.
"""

import argparse
import fnmatch
import hashlib
import io
import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from licences import copyright_rules, refusal
from PIL import Image, ImageDraw, ImageOps

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = ROOT / "results/photo_sources.json"

# package → its photographs, as patterns of the installed path; all chosen by eye
SOURCES = {
    "libjxl-testdata": """
        wesaturate/500px/*_srgb8.png jxl/flower/flower.png""",
    "lomiri-wallpapers-16.04": """
        Bridge_by_* Dragonfly_by_* Picture_0B_by_* Picture_1A_by_* Wine_by_* aitzgorri_by_*
        analogpattern_by_* free_by_* friends_by_* greentock_by_* life_by_* picosdeeuropa_by_*
        seeding_by_* sunset_by_*""",
    "lomiri-wallpapers-20.04": "Kleiber_by_*",
    "lxqt-themes": """
        wallpapers/Butterfly-* wallpapers/Valendas.png wallpapers/after-the-rain.jpg
        wallpapers/appleflower.png wallpapers/beam.png wallpapers/butterfly.png
        wallpapers/cloud.png wallpapers/drop.png wallpapers/flowers.png wallpapers/fog.jpg
        wallpapers/this-is-not-windows.jpg""",
    "mate-backgrounds": """
        nature/Aqua.jpg nature/Dune.jpg nature/FreshFlower.jpg nature/Garden.jpg
        nature/GreenMeadow.jpg nature/LadyBird.jpg nature/RainDrops.jpg nature/Storm.jpg
        nature/TwoWings.jpg nature/Wood.jpg nature/YellowFlower.jpg""",
    "palapeli-data": "collection/*.jpg",
    "plasma-workspace-wallpapers": """
        BytheWater/* ColdRipple/* ColorfulCups/* DarkestHour/* EveningGlow/* FallenLeaf/* Grey/*
        Kite/* OneStandsOut/* Path/* summer_1am/*""",
    "tuxpaint-data": """
        templates/*.jpg starters/reef-back.* starters/skyline-sf-dusk-back.*""",
}
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
# Share of pixels that equal their right-hand neighbour: up to 0.61 in the photographs (smooth
# skies, strong JPEG compression), 0.62 to 1 in flat drawings. It only guards against a package
# that puts a drawing under an old name; gradients with noise pass it, the eye does not let them.
MOST_FLAT = 0.7
# root of the mean squared difference of two 16 × 16 thumbnails (0 … 255) of different photographs
LEAST_DIFFERENT = 12.0


@dataclass(frozen=True)
class Photo:
    """A row of the manifest."""

    name: str  # file in the output folder
    package: str
    version: str
    file: str  # path inside the package
    licence: str
    author: str
    sha256: str  # of the file inside the package
    width: int  # of the picture as written
    height: int
    split: str  # "train" or "held_out"


def call(command: list[str], cwd: Path) -> str:
    """The output of a command, or an end with its last words."""
    try:
        run = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    except FileNotFoundError:
        sys.exit(
            f"{command[0]} is not here. Run this on Debian or Ubuntu, or put the .deb files of "
            f"{', '.join(SOURCES)} into {cwd} (dpkg-deb is needed to open them)."
        )
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{' '.join(command[:3])}: {last}")
    return run.stdout


def fetch(package: str, work: Path) -> Path | None:
    """The package's .deb file in the work folder, downloaded if it is not there yet."""
    files = sorted(work.glob(f"{package}_*.deb"))
    if not files:
        print(f"  {package}: downloading …", flush=True)
        try:
            call(["apt-get", "download", package], work)
        except RuntimeError as problem:
            print(f"  {package}: left out ({problem}); `apt-get update` may help")
            return None
        files = sorted(work.glob(f"{package}_*.deb"))
    return files[-1]


def unpack(deb: Path, work: Path) -> tuple[Path, str]:
    """The folder of a package's files, and its version."""
    folder = work / "files" / deb.stem
    if not (folder / "usr").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        call(["dpkg-deb", "-x", str(deb.resolve()), str(folder.resolve())], work)
    return folder, call(["dpkg-deb", "-f", str(deb.resolve()), "Version"], work).strip()


def chosen(folder: Path, package: str) -> list[Path]:
    """The photographs that `SOURCES` names; of one wallpaper in several sizes, the largest file."""
    patterns = [f"*/{p}" for p in SOURCES[package].split()]
    files = [
        p
        for p in sorted(folder.rglob("*"))
        if p.suffix.lower() in SUFFIXES
        and "screenshot" not in p.name
        and any(fnmatch.fnmatch(str(p.relative_to(folder)), pattern) for pattern in patterns)
    ]
    best = {}
    for p in files:
        group = p.parents[2] if p.parent.name == "images" else p
        if group not in best or p.stat().st_size > best[group].stat().st_size:
            best[group] = p
    return list(best.values())


def readable(path: Path, largest: int) -> Image.Image:
    """A picture in RGB, upright, without black bars, at most `largest` pixels a side."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    bright = np.asarray(image).max(2) > 24
    rows, columns = bright.mean(1) > 0.05, bright.mean(0) > 0.05
    if rows.any() and columns.any():
        top, left = rows.argmax(), columns.argmax()
        bottom, right = len(rows) - rows[::-1].argmax(), len(columns) - columns[::-1].argmax()
        image = image.crop((left, top, right, bottom))
    image.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    return image


def flat_share(image: Image.Image) -> float:
    """Share of pixels that equal their right-hand neighbour exactly."""
    x = np.asarray(image)
    return float((x[:, 1:] == x[:, :-1]).all(2).mean())


def save(image: Image.Image, file: Path) -> None:
    """Write a PNG file, unless it is there already: caches of crops depend on its date."""
    data = io.BytesIO()
    image.save(data, "PNG", compress_level=1)
    if not file.is_file() or file.read_bytes() != data.getvalue():
        file.write_bytes(data.getvalue())


def thumbnail(image: Image.Image) -> np.ndarray:
    """16 × 16 pixels of a picture, to find near duplicates by."""
    return np.asarray(image.resize((16, 16), Image.Resampling.BOX), float)


def twin_of(small: np.ndarray, accepted: list) -> str:
    """The name of a picture in `accepted` that looks nearly the same, or a blank."""
    near = (p.name for p, other in accepted if ((small - other) ** 2).mean() < LEAST_DIFFERENT**2)
    return next(near, "")


def split_of(name: str) -> str:
    """ "held_out" for one name in ten, as `cond_distill.images.Photos` splits a folder."""
    return "train" if int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10 else "held_out"


def take(package: str, deb: Path, args, accepted: list) -> list[str]:
    """Write a package's photographs, add them to `accepted`; returns what was left out, and why."""
    folder, version = unpack(deb, args.work)
    rules, out = copyright_rules(folder, package), []
    if not rules:
        return [f"{package}: its copyright file is not machine-readable"]
    for picture in chosen(folder, package):
        inside = str(picture.relative_to(folder))
        why, licence, author = refusal(picture, f"/{inside}", rules)
        image = None if why else readable(picture, args.largest)
        if image and flat_share(image) > MOST_FLAT:
            why = f"{flat_share(image):.0%} of it is exactly flat: a drawing?"
        if not why and (twin := twin_of(thumbnail(image), accepted)):
            why = f"nearly the same as {twin}"
        if why:
            out.append(f"{inside}: {why}")
            continue
        stem = picture.parents[2].name if picture.parent.name == "images" else picture.stem
        name = f"{package}__{re.sub(r'[^A-Za-z0-9.-]+', '-', stem)}.png"
        save(image, args.out / name)
        digest = hashlib.sha256(picture.read_bytes()).hexdigest()
        row = (name, package, version, inside, licence, author, digest, *image.size, split_of(name))
        accepted.append((Photo(*row), thumbnail(image)))
    return out


def count_crops(folder: Path, photos: list[Photo], side: int = 64) -> tuple[int, int]:
    """Crops of 64 × 64 that do not overlap, and those that show more than a smooth area."""
    total = busy = 0
    for photo in photos:
        x = np.asarray(Image.open(folder / photo.name).convert("L"), float)
        h, w = (n // side for n in x.shape)
        tiles = x[: h * side, : w * side].reshape(h, side, w, side).swapaxes(1, 2)
        steps = np.abs(np.diff(tiles, axis=3)).mean((2, 3))
        total, busy = total + h * w, busy + int((steps > 4).sum())
    return total, busy


def contact_sheet(folder: Path, photos: list[Photo], file: Path, side: int = 150) -> None:
    """All pictures, small, with their names: to be looked at."""
    columns = 12
    rows = -(-len(photos) // columns)
    sheet = Image.new("RGB", (columns * side, rows * (side + 12)), "white")
    draw = ImageDraw.Draw(sheet)
    for k, photo in enumerate(photos):
        x, y = k % columns * side, k // columns * (side + 12)
        image = Image.open(folder / photo.name)
        image.thumbnail((side - 4, side - 4))
        sheet.paste(image, (x, y))
        held = "* " if photo.split == "held_out" else ""
        draw.text((x, y + side - 3), held + photo.name.split("__")[1][:22], fill="black")
    sheet.save(file)


def compare(photos: list[Photo]) -> list[str]:
    """What differs from the committed manifest."""
    if not MANIFEST.is_file():
        return [f"no {MANIFEST.name} yet: --update writes it"]
    before = {p["name"]: p for p in json.loads(MANIFEST.read_text("utf-8"))["photographs"]}
    now = {p.name: asdict(p) for p in photos}
    lines = [f"missing: {name}" for name in before if name not in now]
    lines += [f"new: {name}" for name in now if name not in before]
    same = before.keys() & now.keys()
    return lines + [
        f"other file in this version of the package: {name}"
        for name in sorted(same)
        if before[name]["sha256"] != now[name]["sha256"]
    ]


def write_manifest(photos: list[Photo], crops: tuple[int, int], largest: int) -> None:
    """The committed list, one photograph a line."""
    head = dict(
        about="Photographs from Debian packages, used in training only; tools/photo_sources.py",
        largest_side=largest,
        photographs=len(photos),
        held_out=sum(p.split == "held_out" for p in photos),
        crops_64=crops[0],
        crops_64_with_detail=crops[1],
    )
    rows = ",\n".join("  " + json.dumps(asdict(p), ensure_ascii=False) for p in photos)
    text = json.dumps({"summary": head}, indent=1, ensure_ascii=False)[:-2]
    MANIFEST.write_text(f'{text},\n "photographs": [\n{rows}\n ]\n}}\n', encoding="utf-8")


def report(photos: list[Photo], crops: tuple[int, int], args) -> None:
    """Numbers for the reader."""
    held = sum(p.split == "held_out" for p in photos)
    print(
        f"{len(photos)} photographs in {args.out} ({held} of them held out): {crops[0]:,} crops of "
        f"64 × 64 that do not overlap, {crops[1]:,} of them with detail"
    )
    licences = sorted({p.licence for p in photos})
    for licence in licences:
        print(f"  {sum(p.licence == licence for p in photos):3d} {licence}")
    for line in compare(photos):
        print(f"  {MANIFEST.name}: {line}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "out", type=Path, help="folder for the photographs, such as runs/photos_debian"
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs/debian", help="folder of the .deb files"
    )
    parser.add_argument(
        "--largest", type=int, default=1024, help="pixels of the longer side, at most"
    )
    parser.add_argument("--sheet", type=Path, help="write a contact sheet into this PNG file")
    parser.add_argument("--update", action="store_true", help=f"write {MANIFEST.name} anew")
    return parser.parse_args()


def main() -> None:
    """Fetch, choose, write, compare."""
    args = parse()
    for folder in (args.out, args.work):
        folder.mkdir(parents=True, exist_ok=True)
    accepted = []
    for number, package in enumerate(SOURCES, 1):
        deb = fetch(package, args.work)
        if deb is None:
            continue
        before, left_out = len(accepted), take(package, deb, args, accepted)
        print(
            f"[{number}/{len(SOURCES)}] {package}: {len(accepted) - before} photographs", flush=True
        )
        for line in left_out:
            print(f"    left out: {line}")
    photos = [photo for photo, _ in accepted]
    if not photos:
        sys.exit(
            "No photographs. Run `apt-get update`, or put the .deb files into the work folder."
        )
    crops = count_crops(args.out, photos)
    if args.sheet:
        contact_sheet(args.out, photos, args.sheet)
    if args.update:
        write_manifest(photos, crops, args.largest)
    report(photos, crops, args)


if __name__ == "__main__":
    main()
