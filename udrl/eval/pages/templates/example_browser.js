"use strict";
// The examples browser. Texts only ever enter the page as textContent: whatever they hold stays text.
// Only what is looked at is drawn, a page at a time: the data may hold thousands of long texts.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const page = 10;
const longText = 900;
let shown = page;
let waiting = 0;

function element(name, className, text) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function fill(select, names, chosen) {
  names.forEach(([value, name]) => {
    const option = element("option", "", name);
    option.value = value;
    select.append(option);
  });
  if (chosen !== undefined) select.value = chosen;
}

// An answer is [system, completion or null, error or null, commanded, [score or null, ...]].
const scoreOf = (example, system, score) => {
  const answer = example.answers.find((one) => one[0] === system);
  return answer ? answer[4][score] : null;
};

function valueOf(example, order, system, other, score) {
  const own = scoreOf(example, system, score);
  if (own === null) return null;
  if (order === "best") return own;
  if (order === "worst") return -own;
  const theirs = scoreOf(example, other, score);
  if (theirs === null) return null;
  return { different: Math.abs(own - theirs), above: own - theirs, below: theirs - own }[order];
}

function ranked(examples, order, ...by) {
  if (order === "suite") return examples;
  const valued = examples.map((example) => [example, valueOf(example, order, ...by)]);
  return valued.filter(([, value]) => value !== null).sort((a, b) => b[1] - a[1]).map(([example]) => example);
}

function holds(example, words) {
  example.texts ??= [example.input, ...example.answers.map((answer) => answer[1] ?? answer[2] ?? "")]
    .map((text) => text.toLowerCase());
  return example.texts.some((text) => text.includes(words));
}

function textOf(answer) {
  const [, completion, error] = answer;
  const said = element("div", "said", completion === null ? `(failed: ${error ?? "no reason given"})` : completion);
  said.dir = "auto";
  if (said.textContent.length <= longText) return [said];
  const whole = element("button", "whole", "Show all of it");
  whole.type = "button";
  said.classList.add("clamped");
  whole.addEventListener("click", () => { said.classList.remove("clamped"); whole.remove(); });
  return [said, whole];
}

function draw(example, only) {
  const box = element("article", "example");
  const head = element("h3");
  const given = element("span", "given", example.input);
  given.dir = "auto";
  head.append(given, element("span", "of", example.task));
  box.append(head);
  for (const answer of example.answers) {
    if (only && !only.includes(answer[0])) continue;
    const system = data.systems[answer[0]];
    const row = element("div", "answer");
    const who = element("div");
    const chip = element("span", "chip");
    chip.style.background = `var(--${system.role})`;
    who.append(chip, system.name);
    const what = element("div");
    const facts = data.scores.flatMap(({ name, digits }, n) =>
      answer[4][n] === null ? [] : [`${name} ${answer[4][n].toFixed(digits)}`]);
    if (answer[3]) facts.push("commanded: " + answer[3]);
    what.append(...textOf(answer), element("div", "scores", facts.join(" · ")));
    row.append(who, what);
    box.append(row);
  }
  return box;
}

function update() {
  const task = byId("task").value;
  const words = byId("search").value.trim().toLowerCase();
  const [system, other, score] = ["system", "other", "score"].map((id) => Number(byId(id).value));
  const fitting = data.examples.filter((example) =>
    (!task || example.task === task) && (!words || holds(example, words)));
  const chosen = ranked(fitting, byId("order").value, system, other, score);
  const only = byId("show").value === "two" ? [system, other] : null;
  byId("list").replaceChildren(...chosen.slice(0, shown).map((example) => draw(example, only)));
  const left = fitting.length - chosen.length;
  byId("count").textContent = `${Math.min(shown, chosen.length)} of ${chosen.length} examples` +
    (left ? `; ${left} more have no such score` : "");
  byId("more").hidden = shown >= chosen.length;
}

const tasks = [...new Set(data.examples.map((example) => example.task))];
const systems = data.systems.map((system, n) => [n, system.name]);
fill(byId("task"), tasks.map((task) => [task, task]));
fill(byId("system"), systems, data.system);
fill(byId("other"), systems, data.other);
fill(byId("score"), data.scores.map((score, n) => [n, score.name]));
byId("order").value = data.order;
byId("show").value = data.show;
byId("filters").hidden = false;
for (const id of ["task", "system", "other", "score", "order", "show"]) {
  byId(id).addEventListener("input", () => { shown = page; update(); });
}
byId("search").addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => { shown = page; update(); }, 150);
});
byId("more").addEventListener("click", () => { shown += page; update(); });
update();
