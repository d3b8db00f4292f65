"""Captions, pairs and files: nothing is lost in silence, and nothing wrong is guessed."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from cond_distill.data import decode
from cond_distill.data.decode import open_image, open_upright, read_pil
from cond_distill.data.folder import digest, find_images
from cond_distill.data.images import Photos, collate, is_held_out, load_batches
from cond_distill.data.items import Columns
from cond_distill.data.tasks import TASKS, TaskError, find_task


def draw(file: Path, size=(64, 64), colour="teal", mode="RGB"):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(file)


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in "abc":
        draw(tmp_path / "pictures" / f"{name}.png")
    return tmp_path / "pictures"


SPLITS = ("train", "held_out", "all")


def captions(listing) -> dict:
    return {i.name: i.captions for i in listing.items if i.captions}


@pytest.mark.parametrize("column", ["text", "caption", "prompt"])
def test_usual_columns(folder, column):
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", column: "a wall"}))
    assert captions(find_images(folder)) == {"a.png": ("a wall",)}


def test_csv_with_byte_order_mark(folder):
    text = '\ufefffile_name,text\na.png,"one, two"\nb.png,\n'
    (folder / "metadata.csv").write_text(text, encoding="utf-8")
    listing = find_images(folder)
    assert captions(listing) == {"a.png": ("one, two",)}
    assert listing.report() == "3 pictures, captions for 1 (from metadata.csv)"


def test_byte_order_mark_of_a_text_file(folder):
    (folder / "a.txt").write_text("a wall", encoding="utf-8-sig")
    assert captions(find_images(folder)) == {"a.png": ("a wall",)}


def test_lists_and_none(folder):
    rows = [{"file_name": "a.png", "text": ["one", "two"]}, {"file_name": "b.png", "text": None}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert captions(find_images(folder)) == {"a.png": ("one", "two")}
    photos = Photos(folder, "superres_x4", size=32)
    drawn = {photos[k]["caption"] for k in range(60)}
    assert drawn == {"one", "two", ""}


def test_named_column(folder):
    row = {"file_name": "a.png", "label": 3, "what": "a wall"}
    (folder / "metadata.jsonl").write_text(json.dumps(row))
    assert "what" in find_images(folder).report()  # says which columns there are
    assert captions(find_images(folder, Columns(caption="what"))) == {"a.png": ("a wall",)}
    for column in ("label", "nothing"):  # a number is no caption
        with pytest.raises(ValueError, match=column if column == "nothing" else "caption is 3"):
            find_images(folder, Columns(caption=column))


def test_names_that_match_nothing(folder):
    rows = [{"file_name": "a.png", "text": "x"}, {"file_name": "z.png", "text": "y"}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "1 names in the metadata match no file" in find_images(folder).report()
    (folder / "metadata.jsonl").write_text(json.dumps(rows[1]))
    with pytest.raises(ValueError, match=r"none of the 1 names.*z\.png"):
        find_images(folder)


@pytest.mark.parametrize(
    "text",
    ['{"file_name": "../x.png"}', '{"file_name": "/etc/passwd"}', '{"file_name": 3}', "[", "3"],
)
def test_tables_that_cannot_be_meant(folder, text):
    (folder / "metadata.jsonl").write_text(text)
    with pytest.raises(ValueError, match="metadata.jsonl"):
        find_images(folder)


def test_everything_ignored_is_counted(folder):
    draw(folder / "Thumbs" / "a.png")
    draw(folder / ".cache" / "a.png")
    for name in ("d.heic", "e.heic", "readme", "z.txt"):
        (folder / name).write_text("x")
    os.mkfifo(folder / "f.png")
    report = find_images(folder).report()
    assert report.startswith("3 pictures, captions for 0, 7 files ignored (")
    for part in (
        "2 .heic files",
        "1 thumbnails",
        "1 hidden",
        "1 pipes",
        "1 texts without a picture",
        "1 files without an ending",
    ):
        assert part in report, report


def test_links_out_of_the_folder(folder, tmp_path):
    draw(tmp_path / "secret.png")
    (tmp_path / "secret.txt").write_text("a password")
    (folder / "d.png").symlink_to(tmp_path / "secret.png")
    (folder / "a.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "metadata.jsonl").symlink_to("/dev/zero")
    listing = find_images(folder)
    assert len(listing.items) == 3 and not captions(listing)
    assert "3 links that lead out of the folder" in listing.report()


def test_pipes_as_metadata(folder):
    os.mkfifo(folder / "metadata.jsonl")
    assert "1 pipes" in find_images(folder).report()


@pytest.mark.parametrize("name", ["metadata.jsonl", "a.txt"])
def test_endless_texts(folder, name):
    """A text that is far too large is refused by its size, before a byte of it is read."""
    (folder / name).touch()
    os.truncate(folder / name, 2**31)  # a file with a hole: it takes no room
    with pytest.raises(ValueError, match=f"{name} has 2,147,483,648 bytes; expected"):
        find_images(folder)


def test_snapshot_of_the_hub(tmp_path):
    blobs, snapshot = tmp_path / "data/blobs", tmp_path / "data/snapshots/main"
    snapshot.mkdir(parents=True)
    draw(blobs / "1.png")
    (blobs / "2").write_text('{"file_name": "a.png", "text": "a wall"}')
    (snapshot / "a.png").symlink_to("../../blobs/1.png")
    (snapshot / "metadata.jsonl").symlink_to("../../blobs/2")
    assert captions(find_images(snapshot)) == {"a.png": ("a wall",)}


def test_names_that_are_not_utf8(folder):
    (folder / "a.png").rename(os.fsdecode(os.fsencode(folder) + b"/\xff.png"))
    listing = find_images(folder)
    assert sorted(i.name for i in listing.items) == ["\\xff.png", "b.png", "c.png"]
    assert len(digest(folder, listing)) == 8
    assert (
        Photos(folder, "superres_x4", size=32, split="all").batch(range(3))["image"].shape[0] == 3
    )


def test_pairs_of_a_table(folder):
    draw(folder / "maps" / "a.png", mode="L")
    row = {"file_name": "a.png", "conditioning_image": "maps/a.png", "text": "x"}
    (folder / "metadata.jsonl").write_text(json.dumps(row))
    (item,) = find_images(folder, pairs=True).items
    assert (item.name, item.before.name, item.caption) == ("a.png", "a.png", "x")
    assert len(find_images(folder).items) == 4
    pair = Photos(folder, "pairs", size=32)[0]
    assert pair["cond"].shape == (3, 32, 32)


def test_data_sets(tmp_path):
    datasets = pytest.importorskip("datasets")
    image = Image.new("RGB", (64, 64))
    features = {
        "edited_image": datasets.Image(),
        "original_image": datasets.Image(),
        "edit_prompt": datasets.Value("string"),
    }
    rows = dict(edited_image=[image], original_image=[image.convert("L")], edit_prompt=["darker"])
    data = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    datasets.DatasetDict(train=data).save_to_disk(tmp_path / "set")
    listing = find_images(tmp_path / "set", pairs=True)
    (item,) = listing.items
    assert item.file[1] == "edited_image" and item.before[1] == "original_image"
    assert item.caption == "darker"
    assert Photos(tmp_path / "set", "pairs", size=32)[0]["cond"].shape == (3, 32, 32)
    named = find_images(tmp_path / "set", Columns("original_image", "edit_prompt", "edited_image"))
    assert named.items[0].file[1] == "original_image"
    before = digest(tmp_path / "set")
    rows["edit_prompt"] = ["lighter"]
    again = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    datasets.DatasetDict(train=again).save_to_disk(tmp_path / "set")
    assert digest(tmp_path / "set") != before


def test_data_set_of_a_controlnet(tmp_path):
    """Its condition is not taken for the picture; where names say nothing, it asks."""
    datasets = pytest.importorskip("datasets")
    kinds = dict(conditioning_image=datasets.Image(), image=datasets.Image())
    kinds["text"] = datasets.Value("string")
    picture = Image.new("RGB", (64, 64))
    rows = dict(conditioning_image=[picture], image=[picture], text=["a wall"])

    def listing(names, **options):
        renamed = {names.get(k, k): v for k, v in rows.items()}
        features = datasets.Features({names.get(k, k): v for k, v in kinds.items()})
        data = datasets.Dataset.from_dict(renamed, features=features)
        data.save_to_disk(tmp_path / f"{len(list(tmp_path.iterdir()))}")
        return find_images(max(tmp_path.iterdir()), **options)

    (item,) = listing({}).items
    assert item.file[1] == "image" and item.caption == "a wall" and item.before is None
    assert listing({}, pairs=True).items[0].before[1] == "conditioning_image"
    with pytest.raises(ValueError, match="picture columns left, right; say which"):
        listing(dict(conditioning_image="left", image="right"))


def red_and_green_swapped() -> bytes:
    """A colour profile in which the first number of a pixel is green and the second red."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    table = range(132, 132 + 12 * int.from_bytes(profile[128:132], "big"), 12)
    at = {bytes(profile[k : k + 4]): k for k in table}
    red, green = at[b"rXYZ"], at[b"gXYZ"]
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "sGRB".encode("utf-16-be"))


def test_colour_profiles(tmp_path):
    """Converted to sRGB; a profile that is damaged, or not for three colours, is left aside."""
    picture = Image.new("RGB", (8, 8), (10, 200, 30))
    other = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    profiles = dict(plain=None, broken=b"no profile", other=other, swapped=red_and_green_swapped())
    for name, profile in profiles.items():
        picture.save(tmp_path / f"{name}.png", icc_profile=profile)
    plain, broken, other, swapped = (open_image(tmp_path / f"{name}.png") for name in profiles)
    assert torch.equal(plain, broken) and other.shape == plain.shape
    assert torch.allclose(swapped, plain[[1, 0, 2]], atol=2 / 255)


def test_crop_before_floats(tmp_path, monkeypatch):
    """Of a large picture no array of floats is made but that of the crop."""
    draw(tmp_path / "large.jpg", (3000, 2000))
    sizes, plain = [], torch.Tensor.float

    def spy(self, *args, **kwargs):
        sizes.append(self.numel())
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "float", spy)
    Photos(tmp_path, "superres_x4", size=32, max_crop_scale=2.0)[0]
    assert max(sizes) <= 3 * 64 * 64


def test_pixel_limit(tmp_path, monkeypatch):
    draw(tmp_path / "a.png", (100, 100))
    monkeypatch.setattr(decode, "MAX_PIXELS", 9_999)
    with pytest.raises(ValueError, match="100 × 100 pixels"):
        open_image(tmp_path / "a.png")


MEASURE = """
import resource, sys
from cond_distill.data.decode import open_image
from cond_distill.data.images import Photos, collate, is_held_out, load_batches
scale = 2**10 if sys.platform == "darwin" else 1
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale / 1e6
Photos(sys.argv[1], "superres_x4", size=64)
before = peak()
Photos(sys.argv[1], "superres_x4", size=64)[0]
print(peak() - before)
try:
    open_image(sys.argv[1] + "/a.jpg")
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
def test_memory_of_a_picture_that_claims_to_be_large(tmp_path):
    """631 bytes that claim 119 million pixels: half a gigabyte for a crop, and none as a whole."""
    draw(tmp_path / "a.jpg", (8, 8))
    content = bytearray((tmp_path / "a.jpg").read_bytes())
    at = content.find(b"\xff\xc0") + 5  # the frame's height and width
    content[at : at + 4] = (10_900).to_bytes(2, "big") * 2
    (tmp_path / "a.jpg").write_bytes(content)
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, encoding="utf-8"
    )
    gigabytes, refused = run.stdout.splitlines()
    assert float(gigabytes) < 0.6
    assert "10900 × 10900 pixels, more than 64,000,000 as a whole" in refused


def test_box_is_a_crop(tmp_path):
    x = np.random.default_rng(0).integers(0, 2**16, (40, 50)).astype(np.uint16)
    Image.fromarray(x).save(tmp_path / "a.png")
    image = open_upright(tmp_path / "a.png")
    assert torch.equal(read_pil(image, (5, 6, 25, 36)), read_pil(image)[:, 6:36, 5:25])


def test_tiny_pictures_are_skipped(folder):
    draw(folder / "tiny.png", (1, 1))
    batch = Photos(folder, "superres_x4", size=64, split="all").batch(range(4))
    assert any("1 × 1 pixels" in line for line in batch["skipped"])


def test_flips_can_be_turned_off(tmp_path):
    half = np.repeat(np.uint8([[255] * 32 + [0] * 32]), 64, 0)
    Image.fromarray(half).save(tmp_path / "a.png")

    def turned(**options):
        photos = Photos(tmp_path, "superres_x4", size=64, max_crop_scale=1.0, **options)
        rows = photos.batch(range(16))["image"]
        return (rows[..., 0].mean((1, 2)) < rows[..., -1].mean((1, 2))).sum().item()

    assert turned(flip=False) == 0 and 0 < turned() < 16
    (tmp_path / "a.txt").write_text("white on the left")
    assert turned() == 0


def test_wrong_settings_are_not_broken_pictures(folder):
    with pytest.raises(ValueError, match="max_crop_scale"):
        Photos(folder, "superres_x4", max_crop_scale=float("nan"))


@pytest.mark.parametrize("n", [2, 6, 9, 10, 15, 40])
def test_held_out_pictures_are_never_trained_on(tmp_path, n):
    for k in range(n):
        draw(tmp_path / f"photo{k}.png")
    splits = {s: {i.name for i in Photos(tmp_path, None, split=s).items} for s in SPLITS}
    assert splits["held_out"] and splits["train"] and not splits["held_out"] & splits["train"]
    assert len(splits["all"]) == n
    assert f"{len(splits['held_out'])} of them held out" in Photos(tmp_path, None).report()


def test_names_that_would_all_be_held_out(tmp_path):
    for name in ("held11.png", "held20.png", "held25.png"):
        assert is_held_out(name)
        draw(tmp_path / name)
    train, held = (Photos(tmp_path, None, split=s).items for s in ("train", "held_out"))
    assert (len(train), len(held)) == (2, 1) and held[0] not in train


def test_a_single_picture_is_in_both_splits(tmp_path):
    draw(tmp_path / "only.png")
    assert all(len(Photos(tmp_path, None, split=s).items) == 1 for s in SPLITS)
    assert "only one" in Photos(tmp_path, None).report()


def test_more_pictures_than_examples_are_drawn_from_all(tmp_path):
    """Not the first names: a folder that is sorted by class would show one class."""
    for k in range(60):
        draw(tmp_path / f"{k:02}.png")
    photos = Photos(tmp_path, None, length=20)
    first = [i.name for i in photos.items[:20]]
    assert first != sorted(first) and max(first) > "40" and "20 examples" in photos.report()
    assert first == [i.name for i in Photos(tmp_path, None, length=20).items[:20]]
    assert first != [i.name for i in Photos(tmp_path, None, length=20, seed=1).items[:20]]


class Refusing:
    """A data set whose third example cannot be made."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 4

    def __getitem__(self, k):
        if k == 2:
            raise self.error
        return dict(image=torch.zeros(3, 8, 8), cond=torch.zeros(3, 8, 8), caption="", skipped=[])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "error", [ValueError("Error: of mine\nin two lines"), TaskError("task 'a: b' failed")]
)
def test_an_error_of_a_process_is_the_error_itself(error, workers):
    """Its own words, all of them, and no traceback of the process that met it."""
    with pytest.raises(type(error)) as raised:
        list(load_batches(Refusing(error), range(4), 2, workers))
    assert str(raised.value) == str(error)


@pytest.mark.slow
def test_workers_that_are_not_forked(folder):
    """Photographs go to a worker process of any kind: macOS and Windows have no fork."""
    for name in TASKS:
        assert pickle.loads(pickle.dumps(find_task(name))) is find_task(name)
    photos = Photos(folder, "superres_x4", split="all")
    how = dict(num_workers=1, collate_fn=collate, multiprocessing_context="spawn")
    batch = next(iter(torch.utils.data.DataLoader(photos, batch_size=2, **how)))
    assert batch["cond"].shape == (2, 3, 64, 64)
