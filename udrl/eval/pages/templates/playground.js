"use strict";
// The form: which student and task, and a slider for each attribute, on which is marked what the student reaches.
// Texts only ever enter the page as textContent: whatever they hold stays text.
const byId = (id) => document.getElementById(id);
const needsKey = document.body.dataset.key === "needed";
const targets = new Map(); // by attribute: what stands in its row, and its reach
let students = [];
let reachAsked = 0;

function element(name, className = "", text = "") {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

// -- asking the server ------------------------------------------------------------------------------------------------

class Problem extends Error {
  constructor(message, { code = "", status = 0, wait = 0 } = {}) {
    super(message);
    Object.assign(this, { code, status, wait });
  }
}

function headers() {
  const key = byId("key").value.trim();
  if (needsKey && !key) throw new Problem("This server asks for a key: enter it above the student.", { status: 401 });
  if (/[^\x21-\x7e]/.test(key)) throw new Problem("The key holds characters that no key has.", { status: 401 });
  return { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) };
}

async function ask(path, options = {}) {
  const sent = { ...options, headers: headers() };
  let response;
  try {
    response = await fetch(path, sent);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(`${location.host} does not answer. Is the server still running (udrl serve)?`);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const said = response.status === 401 ? wrongKey : (body.error?.message ?? `the server answered ${response.status}`);
  const wait = Number(response.headers.get("retry-after")) || 0;
  throw new Problem(sentence(said), { code: body.error?.code, status: response.status, wait });
}

const wrongKey = "the key is wrong: enter the one that the server was started with";

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

let waiting = 0;

function tell(error, again) {
  clearTimeout(waiting);
  byId("problem").hidden = false;
  byId("problem-text").textContent = error instanceof Problem ? error.message : `This page failed: ${error}`;
  const button = byId("again");
  button.onclick = again;
  button.disabled = error.wait > 0;
  button.textContent = error.wait > 0 ? `Try again (in ${error.wait} s)` : "Try again";
  if (error.wait > 0) {
    waiting = setTimeout(() => Object.assign(button, { disabled: false, textContent: "Try again" }), 1000 * error.wait);
  }
  if (error.status === 401) byId("key").focus();
}

const untell = () => (byId("problem").hidden = true);

// -- students and tasks -----------------------------------------------------------------------------------------------

function fill(select, names) {
  select.replaceChildren(...names.map((name) => Object.assign(element("option", "", name), { value: name })));
}

const student = () => students.find((one) => one.id === byId("student").value);
const task = () => byId("task").value;

async function load() {
  untell();
  byId("write").disabled = true;
  try {
    students = (await (await ask("v1/models")).json()).data;
  } catch (error) {
    byId("status").textContent = "";
    return tell(error, load);
  }
  byId("write").disabled = false;
  byId("status").textContent = "The completion will stand here.";
  byId("ask").classList.remove("unloaded");
  byId("cards").hidden = byId("copying").hidden = false;
  fill(byId("student"), students.map((one) => one.id));
  chooseStudent();
}

function chooseStudent() {
  const { tasks, attributes, engine, precision, parameters, context } = student().udrl;
  const size = parameters >= 1e6 ? `${(parameters / 1e6).toFixed(1)} million` : parameters.toLocaleString("en");
  const computed = engine.includes(precision) ? engine : `${engine} ${precision}`;
  byId("about").textContent = `${size} parameters, ${computed}; reads and writes ${context} tokens`;
  fill(byId("task"), tasks);
  byId("score").checked = Object.keys(attributes).some((name) => name !== "length");
  targets.clear();
  byId("targets").replaceChildren(...Object.entries(attributes).map(([name, one]) => row(name, one)));
  if (!targets.size) byId("targets").append(element("p", "note", "This student takes no commands."));
  const kinds = [["", "One completion"], ...[...targets.keys()].map((name) => [name, `Three by ${name}${ends(name)}`])];
  byId("variants").replaceChildren(...kinds.map(([name, told]) => variant(name, told)));
  chooseTask();
}

const ends = (name) => ({ relevance: ", faithful to free", length: ", short to long" })[name] ?? ", low to high";

function variant(name, told) {
  const label = element("label");
  const input = Object.assign(element("input"), { type: "radio", name: "variants", value: name, checked: !name });
  input.addEventListener("change", refresh);
  label.append(input, told);
  return label;
}

const laddered = () => document.querySelector("[name=variants]:checked")?.value ?? "";

function chooseTask() {
  for (const [name, one] of targets) {
    one.open = student().udrl.reachable[task()][name];
    one.reach = one.open;
    set(name, (one.reach[0] + one.reach[1]) / 2, name === "relevance" || name === "length");
  }
  refresh();
}

// -- sliders ----------------------------------------------------------------------------------------------------------

const isWhole = (name) => {
  const one = targets.get(name)?.attribute;
  return name === "length" || (one !== undefined && one.high - one.low > 20);
};
const rounded = (name, value) => (isWhole(name) ? Math.round(value) : Math.round(100 * value) / 100);
const shown = (name, value) => (isWhole(name) ? String(Math.round(value)) : value.toFixed(2));
const range = (name, [low, high]) => `${shown(name, low)} to ${shown(name, high)}`;

function row(name, attribute) {
  const node = element("div", "target");
  const on = Object.assign(element("input"), { type: "checkbox" });
  const label = element("label", "tick");
  label.append(on, element("span", "", name));
  const typed = Object.assign(element("input"), { type: "number", step: "any", placeholder: "any" });
  typed.setAttribute("aria-label", `${name}, a number`);
  const beside = element("span", "typed");
  beside.append(typed, element("span", "note", attribute.unit));
  const line = element("div", "line");
  line.append(label, beside);
  const slider = Object.assign(element("input"), { type: "range" });
  slider.setAttribute("aria-label", name);
  const slide = element("div", "slide");
  slide.append(element("div", "reach"), slider);
  const note = element("p", "note");
  node.append(line, slide, note);
  targets.set(name, { attribute, node, on, typed, slider, slide, note, open: null, reach: null });
  slider.addEventListener("input", () => moved(name, Number(slider.value), true));
  typed.addEventListener("input", () => moved(name, Number(typed.value), typed.value !== ""));
  on.addEventListener("change", () => moved(name, Number(slider.value), on.checked));
  return node;
}

function set(name, value, isOn) {
  const one = targets.get(name);
  scale(name, value);
  one.on.checked = isOn;
  one.slider.value = value;
  one.value = isOn ? rounded(name, value) : null;
}

function moved(name, value, isOn) {
  const one = targets.get(name);
  one.on.checked = isOn;
  one.value = isOn ? value : null;
  if (isOn && document.activeElement !== one.slider) scale(name, value);
  if (isOn) one.slider.value = value;
  refresh(document.activeElement === one.typed ? name : "");
}

// A slider goes a little beyond what is reached, so that it shows where that ends; never beyond what can be asked.
function bounds(name, ...values) {
  const { attribute, open, reach } = targets.get(name);
  const [low, high] = [Math.min(open[0], reach[0]), Math.max(open[1], reach[1])];
  const margin = 0.2 * (high - low) || 0.1 * Math.abs(high) || 0.1;
  const min = Math.max(attribute.low, Math.min(low - margin, ...values));
  const max = Math.min(attribute.high, Math.max(high + margin, ...values));
  return isWhole(name) ? [Math.floor(min), Math.ceil(max)] : [Math.floor(100 * min) / 100, Math.ceil(100 * max) / 100];
}

const share = (value, [min, max]) => Math.min(1, Math.max(0, (value - min) / (max - min || 1)));

function scale(name, value) {
  const one = targets.get(name);
  const ends = bounds(name, value);
  Object.assign(one.slider, { min: ends[0], max: ends[1], step: isWhole(name) ? 1 : 0.01 });
  one.slide.style.setProperty("--from", share(one.reach[0], ends));
  one.slide.style.setProperty("--to", share(one.reach[1], ends));
}

// Show what the form says; typing: the attribute in whose field somebody types, which is left alone.
function refresh(typing = "") {
  const length = targets.get("length")?.value ?? null;
  const at = length !== null && laddered() !== "length" ? ` at ${length} words` : "";
  for (const [name, one] of targets) {
    const isRung = laddered() === name;
    if (name !== typing) one.typed.value = isRung ? "" : (one.value ?? "");
    one.typed.placeholder = isRung ? "three" : "any";
    for (const input of [one.on, one.typed, one.slider]) input.disabled = isRung;
    one.node.classList.toggle("off", isRung || one.value === null);
    one.slider.setAttribute("aria-valuetext", one.value === null ? "any" : `${one.value} ${one.attribute.unit}`);
    const [low, high] = one.reach;
    const slack = 0.02 * (high - low) + 1e-9;
    const beyond = !isRung && one.value !== null && !(low - slack <= one.value && one.value <= high + slack);
    const reached = `reaches ${range(name, one.reach)}${name === "length" ? " words" : at}`;
    const nearest = shown(name, one.value < low ? low : high);
    const rungs = isRung ? ladder(name).map((value) => shown(name, value)).join(", ") : "";
    one.note.textContent = isRung ? `three: ${rungs}` : beyond ? `${reached}: the nearest, ${nearest}, is asked for` : reached;
    one.note.classList.toggle("beyond", beyond);
  }
  askReach();
}

let reachTimer = 0;
let reachOf = "";

// Ask what is reached at the length that is commanded, once the slider rests.
function askReach() {
  const value = laddered() === "length" ? null : (targets.get("length")?.value ?? null);
  const query = new URLSearchParams({ task: task(), ...(value !== null && { length: value }) });
  const path = `v1/models/${encodeURIComponent(student().id)}/reachable?${query}`;
  if (path === reachOf) return;
  reachOf = path;
  const own = ++reachAsked;
  clearTimeout(reachTimer);
  const { low, high } = targets.get("length")?.attribute ?? {};
  if (value !== null && !(low <= value && value <= high)) return; // still typing, or what is asked says what is wrong
  reachTimer = setTimeout(async () => {
    try {
      const { reachable } = await (await ask(path)).json();
      if (own !== reachAsked) return;
      for (const [name, one] of targets) {
        one.reach = reachable[name];
        scale(name, one.value ?? (one.reach[0] + one.reach[1]) / 2);
        one.slider.value = one.value ?? (one.reach[0] + one.reach[1]) / 2;
      }
      refresh(document.activeElement.type === "number" ? nameOf(document.activeElement) : "");
    } catch (error) {
      if (own === reachAsked) reachOf = "";
      tell(error, () => (untell(), refresh()));
    }
  }, 120);
}

const nameOf = (input) => [...targets].find(([, one]) => one.typed === input)?.[0] ?? "";

// Three values over what is reached; the most relevant first, else the lowest.
function ladder(name) {
  const [low, high] = targets.get(name).reach;
  const values = [low, (low + high) / 2, high].map((value) => (isWhole(name) ? Math.round(value) : Math.round(1e4 * value) / 1e4));
  return [...new Set(name === "relevance" ? values.reverse() : values)];
}
