"use strict";
// The examples browser. Texts only ever enter the page as textContent: whatever they hold stays text.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const page = 10;
let shown = page;

function element(name, className, text) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function fill(select, names) {
  for (const name of names) {
    const option = element("option", "", name);
    option.value = name;
    select.append(option);
  }
}

function answerOf(example, system) {
  return example.answers.find((answer) => answer.system === system);
}

function ranked(examples, order, system) {
  if (order === "suite") return examples;
  const value = (example) => {
    const answer = answerOf(example, system);
    if (!answer) return null;
    return order === "different" ? answer.agreement : answer.relevance;
  };
  const scored = examples.filter((example) => value(example) !== null);
  return scored.sort((a, b) => (order === "best" ? value(b) - value(a) : value(a) - value(b)));
}

function draw(example) {
  const box = element("article", "example");
  const head = element("h3", "", example.input);
  head.append(element("span", "", example.task));
  box.append(head);
  for (const answer of example.answers) {
    const row = element("div", "answer");
    const who = element("div");
    const chip = element("span", "chip");
    chip.style.background = `var(--${answer.role})`;
    who.append(chip, answer.system);
    const what = element("div");
    what.append(element("div", "", answer.completion === null ? "(failed: " + answer.error + ")" : answer.completion));
    const scores = [];
    if (answer.relevance !== null) scores.push("relevance " + answer.relevance.toFixed(2));
    if (answer.length !== null) scores.push(answer.length + " words");
    if (answer.copy_rate !== null) scores.push("copies " + Math.round(100 * answer.copy_rate) + " %");
    if (answer.agreement !== null) scores.push("agreement " + answer.agreement.toFixed(2));
    if (answer.targets) scores.push("commanded: " + answer.targets);
    what.append(element("div", "scores", scores.join(" · ")));
    row.append(who, what);
    box.append(row);
  }
  return box;
}

function update() {
  const task = byId("task").value;
  const words = byId("search").value.trim().toLowerCase();
  const holds = (text) => text !== null && text.toLowerCase().includes(words);
  const fitting = data.examples.filter((example) =>
    (!task || example.task === task) &&
    (!words || holds(example.input) || example.answers.some((answer) => holds(answer.completion))));
  const chosen = ranked(fitting, byId("order").value, byId("system").value);
  byId("list").replaceChildren(...chosen.slice(0, shown).map(draw));
  byId("count").textContent = `${Math.min(shown, chosen.length)} of ${chosen.length} examples`;
  byId("more").hidden = shown >= chosen.length;
}

fill(byId("task"), [...new Set(data.examples.map((example) => example.task))]);
fill(byId("system"), data.systems);
for (const id of ["task", "order", "system", "search"]) {
  byId(id).addEventListener("input", () => { shown = page; update(); });
}
byId("more").addEventListener("click", () => { shown += page; update(); });
update();
