"""A pipeline goes to a hub and comes back. The hub is a small server of this file, on this machine.

It speaks the part of the hub's API that uploading and downloading a folder need.
"""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import drawing
import huggingface_hub.constants
import pytest
import torch

from cond_distill.pipeline import CoDiPipeline

NAME, COMMIT = "someone/model", "0" * 40


class Hub(BaseHTTPRequestHandler):
    files: dict[str, bytes] = {}

    def log_message(self, *_):
        pass

    def answer(self, content, status: int = 200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        path = unquote(self.path.partition("?")[0])
        if "/resolve/" in path:
            name = path.partition("/resolve/")[2].partition("/")[2]
            if name not in self.files:
                return self.answer({}, 404, X_Error_Code="EntryNotFound")
            tag = hashlib.sha256(self.files[name]).hexdigest()
            return self.answer(self.files[name], ETag=f'"{tag}"', X_Repo_Commit=COMMIT)
        if "/tree/" in path:
            listed = [
                dict(type="file", path=k, size=len(v), oid=hashlib.sha1(v).hexdigest())
                for k, v in self.files.items()
            ]
            return self.answer(listed)
        siblings = [dict(rfilename=name) for name in self.files]
        return self.answer(dict(id=NAME, sha=COMMIT, siblings=siblings, tags=[], private=False))

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        endpoint = f"http://{self.headers['Host']}"
        if "/preupload/" in self.path:
            names = [f["path"] for f in json.loads(body)["files"]]
            files = [dict(path=n, uploadMode="regular", shouldIgnore=False) for n in names]
            return self.answer(dict(files=files))
        if "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.files[entry["value"]["path"]] = content
            url = f"{endpoint}/{NAME}/commit/{COMMIT}"
            return self.answer(dict(commitUrl=url, commitOid=COMMIT, success=True))
        if "validate-yaml" in self.path:
            return self.answer(dict(errors=[], warnings=[]))
        return self.answer(dict(url=f"{endpoint}/{NAME}", name=NAME, id=NAME))


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(Hub, "files", {})
    endpoint = f"http://127.0.0.1:{server.server_port}"
    address = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
    yield Hub
    server.shutdown()
    server.server_close()


def draw(pipe: CoDiPipeline) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    settings = dict(generator=drawing.noise(), output_type="pt", num_inference_steps=2)
    return pipe("a cube", drawing.condition(), **settings).images


def test_there_and_back(hub, tmp_path):
    """The card, the adaptor's file and the low-rank weights arrive; the pictures are the same."""
    pipe = drawing.pipeline(tmp_path)
    pipe.push_to_hub(NAME, token="hf_none")
    card = hub.files["README.md"].decode()
    assert f'from_pretrained("{NAME}")' in card and "CoDi" in card
    hub.files["unet/diffusion_pytorch_model.bin"] = b"a pickle"
    hub.files["adaptor/model.py"] = b"raise SystemExit"
    opened = CoDiPipeline.from_pretrained(NAME, cache_dir=tmp_path / "cache", token=False)
    assert torch.allclose(draw(opened), draw(pipe), atol=1e-4)
    assert not [*(tmp_path / "cache").rglob("*.bin"), *(tmp_path / "cache").rglob("*.py")]
    hub.files.clear()
    again = CoDiPipeline.from_pretrained(NAME, cache_dir=tmp_path / "cache", local_files_only=True)
    assert torch.allclose(draw(again), draw(pipe), atol=1e-4)


def test_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such model in the hub's cache"):
        CoDiPipeline.from_pretrained(NAME, cache_dir=tmp_path, local_files_only=True)
    with pytest.raises(FileNotFoundError, match="no folder 'not a name/at all/x'"):
        CoDiPipeline.from_pretrained("not a name/at all/x", cache_dir=tmp_path)
