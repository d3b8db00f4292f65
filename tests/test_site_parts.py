"""The parts of a docs build that a wrong page would show: references, formulas, pictures."""

import base64
import io
import sys
from dataclasses import dataclass

import pytest

if sys.version_info < (3, 11):
    pytest.skip("smalldocs needs Python 3.11", allow_module_level=True)

import api_docs
import notebook
import site_pages
from bs4 import BeautifulSoup
from PIL import Image

from cond_distill.schedule import Prediction, Schedule


@dataclass
class Example:
    """Two fields."""

    size: int  # pixels
    name: str = "x"  # what it is called

    def area(self) -> int:
        """Pixels in all."""
        return self.size**2


def test_a_class_shows_its_types_and_fields():
    text = api_docs.document(Example, "Example")
    assert "class Example(size: int, name: str = 'x')" in text
    assert "| `size` | `int` |  | pixels |" in text
    assert "| `area()` | Pixels in all. |" in text
    assert "->None" not in api_docs.document(Prediction, "Prediction").replace(" ", "")


def test_a_function_shows_its_types_and_what_it_returns():
    def half(
        x: float,  # any number
        *,
        times: int = 1,  # how often
    ) -> float:  # the rest
        """Halve a number."""
        return x / 2**times

    text = api_docs.document(half, "half")
    assert "def half(x: float, *, times: int = 1) -> float" in text
    assert "| **returns** | `float` |  | the rest |" in text


def test_long_signatures_take_a_line_for_each_parameter():
    assert all(len(line) <= 100 for line in api_docs.head(Schedule, "Schedule").split("\n"))


def soup(html):
    return BeautifulSoup(f"<html><head></head><body>{html}</body></html>", "html.parser")


def test_formulas_become_mathml():
    page = soup(r'<main><span class="math inline">\(\alpha_t\)</span></main>')
    used = site_pages.replace_formulas(page)
    assert page.find("math") and "α" in used and "\\(" not in page.get_text()


def test_the_number_of_an_equation_stands_apart():
    page = soup(r'<main><span class="math display">\[a = b \tag{1}\]</span></main>')
    site_pages.replace_formulas(page)
    assert page.find("mspace") and page.get_text().endswith("(1)")


def test_an_interval_stays_on_one_line():
    page = soup("<table><tr><td>0.99 ± 0.01</td><td>any ± words</td></tr></table>")
    site_pages.mend_markup(page)
    assert [cell.get("class") for cell in page.find_all("td")] == ["number", None]


def test_pictures_become_files_with_a_size_and_a_text(tmp_path):
    gif = "R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
    page = soup(f'<main><h2>Noise</h2><img src="data:image/gif;base64,{gif}"></main>')
    site_pages.extract_pictures(page, tmp_path / "figures", "")
    site_pages.size_pictures(page, tmp_path / "page.html")
    assert site_pages.describe_pictures(page) == ["Noise"]
    img = page.img
    assert (tmp_path / img["src"]).exists() and img["width"] == "1" and "Noise" in img["alt"]


def test_large_pictures_become_smaller_and_stay_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(site_pages, "LARGE", 10)
    picture = Image.linear_gradient("L").convert("RGB")
    picture.save(tmp_path / "a.png")
    page = soup('<main><img src="a.png"></main>')
    site_pages.compress_pictures(page, tmp_path / "page.html")
    assert page.img["src"] == "a.webp"
    assert list(Image.open(tmp_path / "a.webp").getdata()) == list(picture.getdata())


def test_stored_pictures_shrink_and_stay_the_same():
    file = io.BytesIO()
    Image.linear_gradient("L").convert("RGBA").save(file, "PNG", compress_level=1)
    small = base64.b64decode(notebook.shrink_picture(base64.b64encode(file.getvalue()).decode()))
    assert len(small) < len(file.getvalue())
    before, after = (Image.open(io.BytesIO(x)).convert("RGB") for x in (file.getvalue(), small))
    assert list(before.getdata()) == list(after.getdata())


def test_nothing_comes_from_another_server():
    page = soup(
        '<script src="https://cdn.example.org/x.js"></script>'
        '<link rel="stylesheet" href="//cdn.example.org/x.css">'
        '<a href="https://colab.research.google.com/github/a/b/blob/main/n.ipynb">'
        '<img src="https://colab.research.google.com/assets/colab-badge.svg"></a>'
        '<a href="https://a.org"><img src="https://img.shields.io/x.svg"></a>'
    )
    site_pages.own_links(page)
    assert not page.find(["script", "link", "img"])
    assert page.find("a", string="Open in Colab")


def test_fonts_of_other_servers_are_dropped(tmp_path):
    (tmp_path / "a.css").write_text("@import url(https://f.org/css?w@300;400);:root{--x:1}")
    site_pages.drop_font_imports(tmp_path)
    assert (tmp_path / "a.css").read_text() == ":root{--x:1}"
