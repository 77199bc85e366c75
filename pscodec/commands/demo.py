"""a page to try a codec on, in a browser"""

from pscodec import released

DETAILS = """
  pscodec demo --out try                        the codec that comes with the package, at 675 and 1,350 bit/s
  pscodec demo --out try --exp EXP --n-q 1 4    a codec of your own, at these numbers of codebooks
  pscodec demo --out try --serve                and open it to browsers here, which then lend it a microphone

One file, DIR/index.html, which brings the codec with it and needs nothing else: it opens from a disk, or from any web
server. What is spoken or dropped there stays there. The network is computed by onnxruntime-web: of a node_modules from
here upwards, else fetched once by npm, or of a folder that --runtime names. Needs the extra `onnx`.
"""


def add_arguments(parser):
    given = released.DEFAULT if released.DEFAULT in released.names() else None
    parser.add_argument("--exp", default=given, required=given is None, help="experiment folder with the trained codec")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--out", required=True, help="folder to write to")
    parser.add_argument(
        "--n-q", type=int, nargs="+", help="numbers of codebooks; default: the fewest it learned, and all"
    )
    parser.add_argument("--runtime", help="folder of onnxruntime-web")
    parser.add_argument("--force", action="store_true", help="overwrite the page that is there")
    parser.add_argument("--serve", action="store_true", help="serve the folder on localhost until it is interrupted")
    parser.add_argument("--port", type=int, default=8000, help="of --serve (%(default)s)")


def run(args):
    from pathlib import Path

    from pscodec.utils.errors import UserError

    path = Path(args.out) / "index.html"
    if path.exists() and not args.force:
        if not args.serve:
            raise UserError(f"{path} exists; --force overwrites it")
        print(f"{path} is there already; --force makes it anew")
    else:
        write(args, path)
    if args.serve:
        serve(args.out, args.port)


def write(args, path):
    from pscodec.bin.export_onnx import need_onnx
    from pscodec.demo.build import build
    from pscodec.demo.runtime import find_runtime
    from pscodec.inference import load_codec

    need_onnx()
    runtime = find_runtime(args.runtime)
    coder = load_codec(args.exp, args.checkpoint, precision=None)
    trained = coder.model.quantizer.n_q_trained
    build(path, coder, sorted(set(args.n_q or (trained[0], trained[-1]))), runtime)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB; open it in a browser")


def serve(folder, port):
    from pscodec.demo.serve import server

    with server(folder, port) as opened:
        print(f"http://localhost:{opened.server_port} (end with Ctrl-C)", flush=True)
        try:
            opened.serve_forever()
        except KeyboardInterrupt:
            print()
