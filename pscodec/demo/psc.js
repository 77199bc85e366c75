// The bytes of a .psc file, as docs/format.md describes them: version 2, or 3 where tokens are sent.

const SIDE_NONE = 0;
const SIDE_SENT = 1;
const END = 128; // in a packet's tag
const TOKENS = 32768; // in the count of numbers
const MOST_NAME = 32; // bytes

// `coded`: codes [K, T] (an array of codebooks), side (see `quantize`), samples.
// Returns the file's `bytes` and how many of them are `codes`, `side` information and `container`.
export function packFile(facts, { codes, side, samples }) {
  const framesPerPacket = Math.max(1, Math.round(facts.sample_rate / facts.hop_length));
  const sized = side.some((sent) => sent.tokens);
  const sideBytes = side.length ? packSide(side) : [];
  const header = packHeader(facts, { nQ: codes.length, framesPerPacket, samples, sized, sideBytes });
  const key = crc32(header);
  const frames = codes[0].length;
  const full = Math.floor(Math.max(0, frames - 1) / framesPerPacket); // the last frame is in the end packet
  const bytes = [...header, ...uint(4, key)];
  let payload = 0;
  for (let number = 0; number <= full; number++) {
    const last = number === full;
    const start = number * framesPerPacket;
    const packed = packCodes(codes, start, last ? frames : start + framesPerPacket, facts.bits);
    const packet = [(last ? END : 0) + (number % END)];
    if (last) packet.push(...uint(4, samples - start * facts.hop_length));
    if (sized) packet.push(...uint(2, packed.length));
    packet.push(...packed);
    bytes.push(...packet, ...uint(4, crc32(packet, key)));
    payload += packed.length;
  }
  const container = bytes.length - payload - sideBytes.length;
  return { bytes: Uint8Array.from(bytes), codes: payload, side: sideBytes.length, container };
}

function packHeader(facts, { nQ, framesPerPacket, samples, sized, sideBytes }) {
  const more = sized ? [1, ...uint(4, framesPerPacket * facts.hop_length), 0] : []; // one channel, no flags
  const body = [...more, ...packText(facts.name, MOST_NAME), sideBytes.length ? SIDE_SENT : SIDE_NONE, ...sideBytes];
  const start = [
    ...new TextEncoder().encode("PSC"),
    sized ? 3 : 2,
    ...uint(2, 28 + body.length + 4),
    ...facts.fingerprint.match(/../g).map((digits) => parseInt(digits, 16)),
    ...uint(4, facts.sample_rate),
    ...uint(2, facts.hop_length),
    nQ,
    facts.bits,
    ...uint(2, framesPerPacket),
    ...uint(4, samples),
  ];
  return [...start, ...body];
}

function packSide(side) {
  const parts = side.map(({ name, tokens, entries, levels, step }) => {
    if (!tokens)
      return [...packText(name, 255), ...uint(2, levels.length), ...float(step), ...levels.map((x) => x & 255)];
    const packed = packCodes([tokens], 0, tokens.length, Math.max(1, (entries - 1).toString(2).length));
    return [...packText(name, 255), ...uint(2, TOKENS + tokens.length), ...uint(4, entries), ...packed];
  });
  return [side.length, ...parts.flat()];
}

// Codes of some frames: frame by frame, codebook by codebook, highest bit first.
function packCodes(codes, start, stop, bits) {
  const packed = new Array(Math.ceil((codes.length * (stop - start) * bits) / 8)).fill(0);
  let at = 0;
  for (let t = start; t < stop; t++) {
    for (const book of codes) {
      for (let bit = bits - 1; bit >= 0; bit--, at++) packed[at >> 3] |= ((book[t] >> bit) & 1) << (7 - (at & 7));
    }
  }
  return packed;
}

function packText(text, most) {
  let data = new TextEncoder().encode(text);
  for (; data.length > most; data = new TextEncoder().encode(text)) text = [...text].slice(0, -1).join("");
  return [data.length, ...data];
}

function uint(size, value) {
  return Array.from({ length: size }, (_, i) => Math.floor(value / 256 ** i) % 256);
}

function float(value) {
  return new Uint8Array(Float32Array.of(value).buffer); // little endian wherever there are browsers
}

function crc32(bytes, start = 0) {
  let crc = ~start;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

// A vector as it is sent: 8 bits a number, the largest magnitude becomes 127. float32 arithmetic, as in Python.
export function quantize(values) {
  const step = Math.fround(values.reduce((most, x) => Math.max(most, Math.abs(x)), 0) / 127);
  return { levels: Array.from(values, (x) => roundEven(Math.fround(x / (step || 1)))), step };
}

export function dequantize({ levels, step }) {
  return Float32Array.from(levels, (x) => Math.fround(x * step));
}

function roundEven(x) {
  const down = Math.floor(x);
  if (x - down !== 0.5) return Math.round(x);
  return down % 2 ? down + 1 : down;
}
