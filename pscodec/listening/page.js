// The page: asks for every trial, keeps the answers in this browser, and gives them as a file in the end.

import { generator, shuffled } from "./order.js";
import { Player } from "./player.js";
import { WORDS } from "./words.js";

const test = JSON.parse(document.getElementById("test.json").textContent);
const words = WORDS[test.kind];
const together = test.kind === "mushra"; // versions of one recording, rated beside one another
let session, player, shown;

const find = (id) => document.getElementById(id);

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// ---- the session of a listener: the trials in their order, and what was answered so far

function trialsOf(listener) {
  const random = generator(`${test.id} ${listener}`); // the id follows from the seed, among others
  const trials = shuffled(test.trials, random).slice(0, test.per_listener ?? undefined);
  return trials.map(({ stimuli, reference }) => ({ stimuli: shuffled(stimuli, random), reference }));
}

function open(listener) {
  const key = `listening ${test.id} ${listener}`;
  let answers = [];
  try {
    answers = JSON.parse(localStorage.getItem(key)) ?? [];
  } catch {
    // a browser that keeps nothing, or something else there: from the beginning
  }
  session = { key, listener, answers, trials: trialsOf(listener) };
}

function keep() {
  try {
    localStorage.setItem(session.key, JSON.stringify(session.answers));
  } catch {
    // a browser that keeps nothing: the answers are on this page until its end
  }
}

// ---- one trial

function show() {
  const at = session.answers.length;
  find("welcome").hidden = true;
  if (at === session.trials.length) return finish();
  const { stimuli, reference } = session.trials[at];
  shown = { begun: Date.now(), heard: new Set(), ratings: {}, ids: reference ? [reference, ...stimuli] : stimuli };
  player = new Player(shown.ids, together, mark);
  find("trial").hidden = false;
  find("place").textContent = `${at + 1} of ${session.trials.length}`;
  find("progress").style.width = `${(100 * at) / session.trials.length}%`;
  find("question").textContent = words.question;
  const versions = together ? "1, 2 … play the versions" : "1 plays the recording";
  find("keys").textContent = `Keys: ${reference ? "0 plays the reference, " : ""}${versions}, space stops.`;
  const rows = stimuli.map((id, i) => row(id, together ? String.fromCharCode(65 + i) : "Recording"));
  const open = reference ? [sound(reference, "Reference", "open")] : [];
  find("sounds").replaceChildren(...open, ...(together ? [scale()] : []), ...rows);
  check();
}

function sound(id, name, kind, ...answer) {
  const button = element("button", { type: "button", textContent: `▶ ${name}`, onclick: () => toggle(id) });
  return element("div", { className: `sound ${kind}`, id: `sound-${id}` }, button, ...answer);
}

function row(id, name) {
  return sound(id, name, "", ...(together ? slider(id, name) : [steps(id)]));
}

function scale() {
  const names = words.scale.map((name) => element("span", { textContent: name }));
  return element("div", { className: "scale soft small" }, element("i", {}), element("div", {}, ...names));
}

function slider(id, name) {
  const output = element("output", { textContent: "–" });
  const input = element("input", {
    type: "range",
    min: 0,
    max: 100,
    value: 50,
    className: "untouched",
    ariaLabel: name,
  });
  input.oninput = input.onclick = () => {
    input.classList.remove("untouched");
    output.textContent = input.value;
    rate(id, Number(input.value));
  };
  return [input, output];
}

function steps(id) {
  const labels = words.scale.map((name, i) => {
    const input = element("input", { type: "radio", name: id, value: i + 1, onchange: () => rate(id, i + 1) });
    return element("label", {}, input, element("b", { textContent: i + 1 }), name);
  });
  return element("div", { className: "steps" }, ...labels);
}

function toggle(id) {
  if (player.playing === id) return player.stop();
  player.play(id).catch((error) => {
    const overtaken = error.name === "AbortError"; // by the next sound, before it began
    if (!overtaken) find("error").textContent = `A sound cannot be played: audio/${id}.wav`;
  });
}

function mark(playing) {
  if (playing) shown.heard.add(playing);
  for (const id of shown.ids) {
    find(`sound-${id}`).classList.toggle("playing", id === playing);
    find(`sound-${id}`).classList.toggle("heard", shown.heard.has(id));
  }
  check();
}

function rate(id, value) {
  shown.ratings[id] = value;
  check();
}

function check() {
  const unheard = shown.ids.filter((id) => !shown.heard.has(id)).length;
  const unrated = session.trials[session.answers.length].stimuli.filter((id) => !(id in shown.ratings)).length;
  find("next").disabled = unheard + unrated > 0;
  find("missing").textContent = unheard ? `${unheard} to be heard` : unrated ? `${unrated} to be rated` : "";
}

function next() {
  player.stop();
  const seconds = Math.round((Date.now() - shown.begun) / 1000);
  session.answers.push({ seconds, ratings: shown.ratings });
  keep();
  show();
  scrollTo(0, 0);
}

// ---- beginning and end

function finish() {
  find("trial").hidden = true;
  find("end").hidden = false;
  const { listener, answers } = session;
  const results = { test: test.id, kind: test.kind, listener, finished: new Date().toISOString(), trials: answers };
  const file = new Blob([JSON.stringify(results, null, 1)], { type: "application/json" });
  find("save").href = URL.createObjectURL(file);
  find("save").download = `listening_${test.id}_${listener.replace(/[^\p{L}\p{N}]+/gu, "_")}.json`;
}

find("task").textContent = words.task;
document.querySelector("#welcome h1").textContent = document.title;
find("volume").onclick = () => {
  const [{ reference, stimuli }] = test.trials;
  new Audio(`audio/${reference ?? stimuli[0]}.wav`).play();
};
find("begin").onsubmit = (event) => {
  event.preventDefault();
  open(find("listener").value.trim());
  show();
};
find("next").onclick = next;

document.onkeydown = (event) => {
  if (find("trial").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  const { stimuli, reference } = session.trials[session.answers.length];
  const chosen = event.key === "0" ? reference : stimuli[Number(event.key) - 1];
  if (chosen) toggle(chosen);
  if (event.key === " " && player.playing) {
    event.preventDefault();
    player.stop();
  }
};
