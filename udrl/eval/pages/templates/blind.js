"use strict";
// Pairs without names. Texts only ever enter the page as textContent: whatever they hold stays text.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const place = `udrl-blind-${data.id}`;
const votes = new Map(kept());
let at = data.pairs.findIndex((pair) => !votes.has(pair.key));
if (at < 0) at = data.pairs.length;

// A browser may refuse to keep anything for a file: then votes live as long as the page.
function kept() {
  try {
    const known = new Set(data.pairs.map((pair) => pair.key));
    return JSON.parse(localStorage.getItem(place) ?? "[]").filter(([key]) => known.has(key));
  } catch {
    return [];
  }
}

function keep() {
  try {
    localStorage.setItem(place, JSON.stringify([...votes]));
  } catch {}
}

function draw() {
  const pair = data.pairs[at];
  byId("pair").hidden = !pair;
  for (const choice of [0, 1, 2]) {
    const button = byId(`vote${choice}`);
    button.disabled = !pair;
    button.setAttribute("aria-pressed", String(Boolean(pair) && votes.get(pair.key) === choice));
  }
  byId("back").disabled = at === 0;
  byId("save").disabled = votes.size === 0;
  const judged = `${votes.size} of ${data.pairs.length} judged`;
  byId("progress").textContent = pair ? `Pair ${at + 1}; ${judged}.` : `${judged}: that was the last one. Save your votes.`;
  if (!pair) return;
  byId("input").textContent = pair.input;
  byId("task").textContent = pair.task;
  byId("first").textContent = pair.first;
  byId("second").textContent = pair.second;
}

function vote(choice) {
  const pair = data.pairs[at];
  if (!pair) return;
  votes.set(pair.key, choice);
  keep();
  at += 1;
  draw();
}

function back() {
  at = Math.max(0, at - 1);
  draw();
}

function save() {
  if (votes.size === 0) return;
  const told = [...votes].map(([pair, choice]) => ({ pair, choice }));
  const text = JSON.stringify({ ...data.about, votes: told }, null, 1);
  const link = document.createElement("a");
  link.href = `data:application/json;charset=utf-8,${encodeURIComponent(text)}`;
  link.download = `votes-${data.about.benchmark}.json`;
  document.body.append(link);
  link.click();
  link.remove();
}

const keys = { 0: () => vote(0), 1: () => vote(1), 2: () => vote(2), ArrowLeft: back, Backspace: back, s: save };
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(keys, event.key)) return;
  event.preventDefault();
  keys[event.key]();
});
for (const choice of [0, 1, 2]) byId(`vote${choice}`).addEventListener("click", () => vote(choice));
byId("back").addEventListener("click", back);
byId("save").addEventListener("click", save);
byId("keys").hidden = false;
draw();
