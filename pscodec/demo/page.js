// The page: takes a recording, has the worker code it, shows and plays what comes back.

import { decodeFile, Microphone, wavFile } from "./audio.js";
import { draw, levels } from "./spectrogram.js";
import { Player } from "./player.js";
import { blobUrl, textOf, unpack } from "./inlined.js";

const SHORTEST = 0.1; // seconds
const LONGEST = 30;
const COLUMNS = 900; // of a spectrogram

const facts = JSON.parse(textOf("codec.json"));
const player = new Player(showPlace);
const versions = []; // { buffer, element }
let worker, microphone, original;
let loaded = false; // the codec

const find = (id) => document.getElementById(id);

// `state`: ready, busy, or error, after which another recording may do better if the codec itself is there.
function say(text, state) {
  find("status").textContent = text;
  find("status").classList.toggle("error", state === "error");
  document.body.classList.toggle("busy", state === "busy");
  const waiting = loaded && state !== "busy";
  find("choose").disabled = !waiting;
  find("record").disabled = !waiting || !navigator.mediaDevices;
}

const INVITATION = navigator.mediaDevices
  ? "Speak, or drop a recording anywhere on this page."
  : "Drop a recording anywhere on this page. (The microphone needs a page from localhost: pscodec demo --serve.)";

// ---- the codec

async function start() {
  say("Unpacking the codec …", "busy");
  const graphs = {};
  for (const name of facts.graphs) graphs[name] = await unpack(`${name}.onnx`);
  const wasm = await unpack("runtime.wasm");
  const runtime = await unpack("runtime.mjs");
  worker = new Worker(blobUrl([textOf("worker.js")], "text/javascript"));
  worker.onmessage = ({ data }) => answer(data);
  worker.onerror = (event) => say(`The codec does not run in this browser: ${event.message}`, "error");
  worker.postMessage({ runtime, wasm, graphs, codec: facts }, [wasm.buffer]);
}

function answer(data) {
  loaded ||= Boolean(data.ready);
  if (data.error) say(`The codec failed: ${data.error}`, "error");
  else if (data.ready || data.done) say(data.ready ? INVITATION : summary(), "ready");
  else showCoded(data);
}

function summary() {
  return `${original.name}, ${(original.wav.length / facts.sample_rate).toFixed(1)} s. ${INVITATION}`;
}

// ---- a recording comes in

function code(wav, name) {
  const most = LONGEST * facts.sample_rate;
  if (wav.length < SHORTEST * facts.sample_rate) return say(`${name}: too short`, "error");
  original = { wav: wav.slice(0, most), name: wav.length > most ? `${name}, its first ${LONGEST} s` : name };
  original.levels = levels(original.wav, COLUMNS);
  clear();
  const told = [`${number(16 * facts.sample_rate)} bit/s`, `${number(2 * original.wav.length)} bytes`];
  show("Original", original.wav, original.levels, told, "original");
  say("Coding …", "busy");
  worker.postMessage({ wav: original.wav });
}

function clear() {
  player.reset();
  versions.length = 0;
  for (const link of find("versions").querySelectorAll("a")) URL.revokeObjectURL(link.href);
  find("versions").replaceChildren();
  find("keys").hidden = false;
}

async function takeFile(file) {
  say(`Reading ${file.name} …`, "busy");
  let wav;
  try {
    wav = await decodeFile(await file.arrayBuffer(), facts.sample_rate);
  } catch {
    return say(`${file.name}: this browser cannot read it as audio`, "error");
  }
  code(wav, file.name);
}

async function record() {
  if (microphone) {
    const closing = microphone;
    setRecording(null);
    return code(await closing.close(facts.sample_rate), "your voice");
  }
  try {
    const tap = blobUrl([textOf("tap.js")], "text/javascript");
    setRecording(await Microphone.open(tap, heard));
  } catch (error) {
    say(`No microphone: ${error.message}`, "error");
  }
}

function setRecording(opened) {
  microphone = opened;
  find("record").classList.toggle("recording", Boolean(opened));
  find("record").lastElementChild.textContent = opened ? "Stop" : "Speak";
  find("choose").disabled = Boolean(opened);
  find("meter").style.width = "";
}

function heard(seconds, peak) {
  if (!microphone) return;
  find("status").textContent = `Listening, ${seconds.toFixed(1)} s`;
  find("meter").style.width = `${100 * Math.min(1, peak)}%`;
  if (seconds >= LONGEST) record();
}

// ---- what came back

function showCoded({ n_q, file, wav, seconds }) {
  const duration = wav.length / facts.sample_rate;
  const { bitrate } = facts.rates.find((rate) => rate.n_q === n_q);
  const total = file.bytes.length;
  const speed = duration / seconds;
  const prompt = file.side ? ` + prompt ${number(file.side)}` : "";
  const told = [
    `${number(total)} bytes (codes ${number(file.codes)}${prompt} + packets ${number(file.container)})`,
    `${number((8 * total) / duration)} bit/s in all`,
    `${speed < 10 ? speed.toFixed(1) : number(speed)} × real time`,
  ];
  const element = show(`${number(bitrate)} bit/s`, wav, levels(wav, COLUMNS), told, `${bitrate}bps`);
  addLink(element, `${bitrate}bps.psc`, "coded file (.psc)", file.bytes);
}

function show(title, wav, spectrum, told, name) {
  const element = find("version").content.cloneNode(true).firstElementChild;
  const buffer = new AudioBuffer({ length: wav.length, sampleRate: facts.sample_rate });
  buffer.copyToChannel(wav, 0);
  const version = versions.length;
  versions.push({ buffer, element });
  element.querySelector("h2").textContent = title;
  element.querySelector(".facts").textContent = told.join(" · ");
  element.querySelector(".play").onclick = () => player.toggle(version, buffer);
  element.querySelector(".picture").onclick = (event) => {
    const share = event.offsetX / event.currentTarget.clientWidth;
    player.play(version, buffer, share * buffer.duration);
  };
  draw(element.querySelector("canvas"), spectrum, original.levels.loudest);
  addLink(element, `${name}.wav`, "sound (.wav)", wavFile(wav, facts.sample_rate));
  find("versions").append(element);
  return element;
}

function addLink(element, name, text, bytes) {
  const link = document.createElement("a");
  link.href = blobUrl([bytes], "application/octet-stream");
  link.download = name;
  link.textContent = text;
  element.querySelector(".links").append(link);
}

function showPlace(playing, share) {
  versions.forEach(({ element }, version) => {
    element.classList.toggle("playing", version === playing);
    element.querySelector(".play").setAttribute("aria-label", version === playing ? "stop" : "play");
    element.querySelector(".cursor").style.left = `${100 * share}%`;
  });
}

function number(value) {
  return Math.round(value).toLocaleString("en");
}

// ---- what the listener does

find("choose").onclick = () => find("file").click();
find("file").onchange = ({ target }) => {
  if (target.files.length) takeFile(target.files[0]);
  target.value = "";
};
find("record").onclick = record;

document.ondragover = (event) => {
  event.preventDefault();
  document.body.classList.add("over");
};
document.ondragleave = () => document.body.classList.remove("over");
document.ondrop = (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file && !find("choose").disabled) takeFile(file);
};

document.onkeydown = (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const version = Number(event.key) - 1;
  if (versions[version] && player.version !== version) player.toggle(version, versions[version].buffer);
  if (event.key === " " && player.version !== null) {
    event.preventDefault();
    player.stop();
  }
};

start().catch((error) => say(`This page cannot be unpacked: ${error.message}`, "error"));
