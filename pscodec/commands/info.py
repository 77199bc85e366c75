"""what is in .psc and .psp files, and what it costs"""

from pscodec import released

DETAILS = """
  pscodec info speech.psc alice.psp        bytes and bit/s of codes, side information and container
  pscodec info exp/pscodec_frames_mini       a codec: its rates, size and algorithmic latency
"""


def add_arguments(parser):
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=".psc and .psp files, folders of them, codecs")


def run(args):
    from pscodec.utils.errors import UserError

    for name in args.inputs:
        path = released.folder(name)
        if (path / "hyperparams.yaml").is_file():
            show_codec(name)
        elif path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix in (".psc", ".psp"))
            if not files:
                raise UserError(f"{name}: a folder without .psc and .psp files, and not an experiment")
            for file in files:
                show(file)
        else:
            show(name)


def show(name):
    from pscodec.profile import MAGIC, read_profile
    from pscodec.utils.errors import UserError

    try:
        begin = b"" if name == "-" else open(name, "rb").read(3)
    except OSError as error:
        raise UserError(f"{name}: {error.strerror}") from None
    if begin == MAGIC:
        show_profile(name, read_profile(name))
    else:
        show_stream(name)


def show_stream(name):
    from pscodec.bitstream import Reader
    from pscodec.pipes import read_packets
    from pscodec.utils.errors import UserError

    reader, frames, present = Reader(_Uncoded), 0, 0
    try:
        for packet in read_packets(name, reader):
            frames += packet.frames
            present += 0 if packet.codes is None else packet.frames
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    h, seconds = reader.header, reader.n_samples / reader.header.sample_rate
    print(f"{name}: {seconds:.2f} s at {_rate(h)}, {h.n_q} codes of {h.bits} bits a frame, ", end="")
    print(f"{h.sample_rate / h.hop_length:g} frames a second, model {h.model} ({h.fingerprint.hex()})")
    if h.profile:
        print(f"  speaker: profile {h.profile.hex()}")
    elif h.side:
        print(f"  speaker: {', '.join(f'{name} {sent}' for name, sent in h.side.items())}")
    if h.entropy:
        print(f"  entropy coded by language model {h.entropy.hex()}; plainly {h.sizes(frames)['codes']} bytes of codes")
    print(f"  {rates(h.sizes(frames, reader.coded), seconds)}")
    for line in reader.damage:
        print(f"  damaged: {line}")


class _Uncoded:
    """An entropy coder for those who count frames: of streams with `header`, any codes will do."""

    def __init__(self, header):
        self.n_q = header.n_q

    def decode(self, data, frames):
        import numpy as np

        return np.zeros((self.n_q, frames), np.int64)


def show_profile(name, profile):
    size = len(profile.pack())
    sent = ", ".join(f"{name} {sent}" for name, sent in profile.side.items())
    print(f"{name}: speaker profile {profile.hash.hex()} of model {profile.model} ({profile.fingerprint.hex()})")
    print(f"  {sent}; {profile.seconds:.2f} s in {profile.recordings} recordings; {size} bytes ({8 * size} bits)")


def show_codec(exp):
    from pscodec.inference import load_codec

    coder = load_codec(exp, precision=None)  # as trained: packed weights are no parameters
    m = coder.model
    size = sum(p.numel() for p in m.parameters()) / 1e6
    print(f"{exp}: codec {coder.name} ({coder.fingerprint.hex()}), {size:.1f} M parameters, {_rate(m)}")
    print(f"  {m.n_q} codes of {coder.bits} bits, {m.frame_rate:g} frames a second: {m.bitrate:g} bit/s")
    sent = ", ".join(m.side_sizes)
    side = f"{sent} of {'the speaker' if m.side_of == 'speaker' else 'each recording'}" if sent else "nothing"
    for language in coder.languages.all():
        print(f"  language model {language.fingerprint.hex()} for entropy coding, packets of at most ", end="")
        print(f"{language.shape.longest / m.frame_rate:g} s")
    print(f"  {'with' if m.takes_prompt else 'without'} speaker prompts; sends {side} beside them; {_latency(coder)}")


def _rate(thing):
    """Of a codec or a header, in words."""
    return f"{thing.sample_rate} Hz{f', {thing.channels} channels' if thing.channels > 1 else ''}"


def _latency(coder):
    from pscodec.streaming import StreamDecoder, StreamEncoder
    from pscodec.utils.errors import UserError

    try:
        samples = [StreamEncoder(coder.model).latency, StreamDecoder(coder.model, coder.silent_side).latency]
    except UserError as error:
        return f"not for streams: {error}"
    encoder, decoder = (1000 * n / coder.model.sample_rate for n in samples)
    return f"algorithmic latency {encoder:.1f} ms to encode and {decoder:.1f} ms to decode"


def rates(sizes, seconds):
    """Bytes, bits and bit/s of every part, on one line."""
    words = {"codes": "codes", "side": "side information", "container": "container", "total": "in all"}
    parts = (f"{words[k]} {n} bytes ({8 * n / max(seconds, 1e-9):.0f} bit/s)" for k, n in sizes.items())
    return ", ".join(parts)
