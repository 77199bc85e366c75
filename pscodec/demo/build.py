"""One HTML file with a codec, the runtime that computes it, and all that it takes to try it out."""

import json
import tempfile
from html import escape
from pathlib import Path
from string import Template

from pscodec.demo.graphs import write_graphs
from pscodec.demo.runtime import FILES
from pscodec.utils.files import write_text
from pscodec.utils.html import CONTROLS, page
from pscodec.utils.web import bundle, data, packed, script

HERE = Path(__file__).parent


def build(path, coder, n_qs, runtime):
    """Write the page of `coder` (inference.Coder, loaded with precision None) at each number of codebooks of `n_qs` to
    `path`. `runtime`: the folder that `find_runtime` gave.

    Raises UserError as `write_graphs`.
    """
    module, wasm = ((runtime / name).read_bytes() for name in FILES)
    with tempfile.TemporaryDirectory() as folder:
        facts = write_graphs(coder, n_qs, folder)
        parts = [data("codec.json", "application/json", json.dumps(facts))]
        parts += [packed(f"{name}.onnx", (Path(folder) / f"{name}.onnx").read_bytes()) for name in facts["graphs"]]
    parts += [packed("runtime.mjs", module), packed("runtime.wasm", wasm)]
    parts += [data("worker.js", "text/plain", bundle(HERE / "worker.js"))]
    parts += [data("tap.js", "text/plain", (HERE / "tap.js").read_text(encoding="utf-8"))]
    parts += [script(bundle(HERE / "page.js"))]
    body = Template((HERE / "page.html").read_text(encoding="utf-8")).substitute(name=escape(facts["name"]))
    style = (HERE / "style.css").read_text(encoding="utf-8")
    write_text(path, page(f"{facts['name']}: hear a speech codec", body, CONTROLS + style, "".join(parts)))
