"""The parameter tables of the documentation pages.

settings.ini names this renderer for nbdev's `show_doc`.
"""

from fastcore.docments import DocmentTbl
from nbdev.showdoc import BasicMarkdownRenderer


class TableRenderer(BasicMarkdownRenderer):
    """nbdev's renderer, and a table of the parameters that carry a comment."""

    def _repr_markdown_(self):
        doc = super()._repr_markdown_()
        try:
            table = DocmentTbl(self.sym)._repr_markdown_()
        except Exception:
            # a symbol without a signature has no table
            table = ""
        return f"{doc}\n\n{table}" if table else doc
