// The codec, in a thread of its own: loads the graphs once, then codes every recording that it is sent.

import { dequantize, packFile, quantize } from "./psc.js";

let ort, facts;
const sessions = {};

onmessage = async ({ data }) => {
  try {
    if (data.graphs) await load(data);
    else await code(data.wav);
  } catch (error) {
    postMessage({ error: error.message ?? String(error) });
  }
};

async function load({ runtime, wasm, graphs, codec }) {
  ort = await import(URL.createObjectURL(new Blob([runtime], { type: "text/javascript" })));
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = 1; // more need a server that isolates the page
  facts = codec;
  for (const [name, bytes] of Object.entries(graphs)) {
    sessions[name] = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  }
  postMessage({ ready: true });
}

async function run(name, inputs) {
  return sessions[name].run(inputs);
}

function tensor(wav) {
  return new ort.Tensor("float32", wav, [1, 1, wav.length]);
}

async function code(wav) {
  const start = performance.now();
  const whole = padded(wav);
  const { z } = await run("encoder", { wav: tensor(whole) });
  const { side, heard } = await prompt(wav, whole);
  const encoded = (performance.now() - start) / facts.rates.length;
  for (const { n_q } of facts.rates) {
    const begun = performance.now();
    const { codes } = await run(`quantizer${n_q}`, { z });
    const file = packFile(facts, { codes: rows(codes), side, samples: wav.length });
    const { z_q } = await run(`lookup${n_q}`, { codes });
    const decoded = await run("decoder", { z_q, ...heard });
    const seconds = (encoded + performance.now() - begun) / 1000;
    postMessage({ n_q, file, wav: decoded.wav.data.slice(0, wav.length), seconds });
  }
  postMessage({ done: true });
}

// Zeros at the end, up to whole frames.
function padded(wav) {
  const whole = new Float32Array(Math.ceil(wav.length / facts.hop_length) * facts.hop_length);
  whole.set(wav);
  return whole;
}

// The recording is its own prompt: the `side` information as a file holds it, and as the decoder `heard` it.
async function prompt(wav, whole) {
  const side = [];
  const heard = {};
  if (!sessions.side) return { side, heard };
  const seen = (facts.sees_whole_frames ? whole : wav).slice(0, facts.prompt_seconds * facts.sample_rate);
  const found = await run("side", { wav: tensor(seen) });
  for (const { name, entries } of facts.side) {
    if (entries) {
      side.push({ name, entries, tokens: Array.from(found[name].data, Number) });
      heard[name] = found[name];
    } else {
      const vector = quantize(found[name].data);
      side.push({ name, ...vector });
      heard[name] = new ort.Tensor("float32", dequantize(vector), found[name].dims);
    }
  }
  return { side, heard };
}

// Codes [1, K, T], 64-bit integers, as an array of codebooks.
function rows({ data, dims: [, k, frames] }) {
  return Array.from({ length: k }, (_, i) => Array.from(data.subarray(i * frames, (i + 1) * frames), Number));
}
