"""A pipeline goes to a hub and comes back; the hub is a small server on this machine."""

import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import drawing
import huggingface_hub.constants
import huggingface_hub.file_download
import nbformat
import pytest
import tiny
import torch

from cond_distill.pipeline import CoDiPipeline
from cond_distill.teacher import Teacher

NAME = "you/depth"


def hub_of_the_guide() -> type:
    """The server that the guide on sharing starts."""
    guide = nbformat.read(Path(__file__).parents[1] / "nbs/guides/export_and_share.ipynb", 4)
    cells = [c.source for c in guide.cells if c.cell_type == "code"]
    names: dict = {}
    # its imports are in the second cell
    exec(cells[1] + "\n" + next(c for c in cells if "class Hub" in c), names)
    return names["Hub"]


Hub = hub_of_the_guide()


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(Hub, "files", {})
    endpoint = f"http://127.0.0.1:{server.server_port}"
    address = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    # version 0.34 of the library keeps a copy in a second module
    for module in (huggingface_hub.constants, huggingface_hub.file_download):
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", address, raising=False)
    yield Hub
    server.shutdown()
    server.server_close()


def draw(pipe: CoDiPipeline) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    settings = dict(generator=drawing.noise(), output_type="pt", num_inference_steps=2)
    return pipe("a cube", drawing.condition(), **settings).images


@pytest.mark.slow
def test_there_and_back(hub, tmp_path):
    """The card, the adaptor's file and the low-rank weights arrive; the pictures are the same."""
    pipe = drawing.pipeline(tmp_path)
    pipe.push_to_hub(NAME, token="hf_none")
    card = hub.files["README.md"].decode()
    assert f'from_pretrained("{NAME}")' in card and "CoDi" in card
    assert "after `import cond_distill.pipeline`" in card  # for diffusers' own `from_pretrained`
    hub.files["unet/diffusion_pytorch_model.bin"] = b"a pickle"
    hub.files["adaptor/model.py"] = b"raise SystemExit"
    opened = CoDiPipeline.from_pretrained(NAME, cache_dir=tmp_path / "cache", token=False)
    assert torch.allclose(draw(opened), draw(pipe), atol=1e-4)
    assert not [*(tmp_path / "cache").rglob("*.bin"), *(tmp_path / "cache").rglob("*.py")]
    hub.files.clear()
    again = CoDiPipeline.from_pretrained(NAME, cache_dir=tmp_path / "cache", local_files_only=True)
    assert torch.allclose(draw(again), draw(pipe), atol=1e-4)


def test_a_teacher_in_the_cache(tmp_path, monkeypatch):
    """A teacher that is in the hub's cache is found by its name, and nothing is asked."""
    cache = tmp_path / "models--you--teacher"
    tiny.stable_diffusion(cache / "snapshots" / ("1" * 40))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("1" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert Teacher.from_pretrained("you/teacher").image_size == tiny.SIDE
    with pytest.raises(FileNotFoundError, match="'you/other', and no such model in the hub's"):
        Teacher.from_pretrained("you/other")


def test_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such model in the hub's cache"):
        CoDiPipeline.from_pretrained(NAME, cache_dir=tmp_path, local_files_only=True)
    with pytest.raises(FileNotFoundError, match="no folder 'not a name/at all/x'"):
        CoDiPipeline.from_pretrained("not a name/at all/x", cache_dir=tmp_path)
