"use strict";
// The answers: each completion while it is written, then what was achieved of what was commanded; and code that asks the same.
let running = null; // what ends the request under way
let last = null; // what was asked last, and the seed that gives it again

const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
const plural = (count, name) => `${count} ${name}${count === 1 ? "" : "s"}`;

// -- what is asked ----------------------------------------------------------------------------------------------------

function request() {
  const text = byId("input").value.trim();
  const body = { model: student().id, messages: [{ role: "user", content: text }], task: task() };
  const others = {};
  const rungs = laddered();
  for (const [name, one] of targets) {
    if (name === rungs || one.value === null) continue;
    if (name === "relevance" || name === "length") body[name] = one.value;
    else others[name] = one.value;
  }
  if (Object.keys(others).length) body.target = others;
  if (rungs) body.ladder = { [rungs]: ladder(rungs) };
  if (byId("seed").value.trim() !== "") body.seed = Number(byId("seed").value);
  if (byId("score").checked) body.score = true;
  return body;
}

function isAskable() {
  const told = !byId("input").value.trim() ? "input" : /^\d*$/.test(byId("seed").value.trim()) ? "" : "seed";
  if (!told) return true;
  byId(told).focus();
  byId("status").textContent = told === "input" ? "Write an input first." : "A seed is a whole number, or nothing.";
  return false;
}

// -- writing ----------------------------------------------------------------------------------------------------------

async function write() {
  if (running || byId("write").disabled || !isAskable()) return;
  untell();
  const body = request();
  const [name] = Object.keys(body.ladder ?? {});
  running = new AbortController();
  busy(true);
  const cards = new Map();
  byId("cards").replaceChildren();
  byId("code").hidden = true;
  byId("copied").textContent = "";
  const times = { started: performance.now(), first: 0, text: 0 };
  byId("status").textContent = "Writing…";
  byId("answers").scrollIntoView({ block: innerWidth < 832 ? "start" : "nearest" });
  try {
    const sent = { ...body, stream: true, stream_options: { include_usage: true } };
    const asked = { method: "POST", body: JSON.stringify(sent), signal: running.signal };
    const response = await ask("v1/chat/completions", asked);
    let tokens = 0;
    for await (const chunk of events(response)) {
      if (chunk.error) throw new Problem(sentence(chunk.error.message), { code: chunk.error.code });
      tokens = chunk.usage?.completion_tokens ?? tokens;
      for (const choice of chunk.choices) take(cards, choice, chunk.udrl, { name, body, times });
    }
    const whole = seconds(times.text - times.started);
    const first = seconds(times.first - times.started);
    byId("status").textContent = `Written in ${whole}, the first text after ${first}; ${plural(tokens, "token")}.`;
  } catch (error) {
    failed(error, cards);
  } finally {
    running = null;
    busy(false);
    for (const card of cards.values()) card.node.removeAttribute("aria-busy");
  }
}

function failed(error, cards) {
  const kept = [...cards.values()].some((card) => card.text.textContent);
  if (error.name === "AbortError") {
    byId("status").textContent = kept ? "Stopped; what was written stays." : "Stopped.";
    return;
  }
  byId("status").textContent = kept ? "What was written until then stays." : "";
  tell(error, write);
  if (error.code === "not_scored") {
    byId("score").checked = false;
    byId("problem-text").textContent += " Measuring is switched off now.";
  }
}

function busy(is) {
  byId("write").disabled = is;
  byId("write").textContent = is ? "Writing…" : "Write";
  byId("stop").hidden = !is;
}

// Yield the data of server-sent events, and fail where the stream breaks off before its end.
async function* events(response) {
  const broken = new Problem("The connection broke before the end: the server may have ended. What came is shown.");
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : broken;
    });
    if (done) throw broken;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

function take(cards, choice, block, { name, body, times }) {
  if (!cards.has(choice.index)) cards.set(choice.index, card());
  const one = cards.get(choice.index);
  const rungs = body.ladder?.[name];
  one.title.textContent ||= rungs ? `${name} ${shown(name, rungs[choice.index])}` : "Completion";
  const part = choice.delta.content;
  if (part) {
    times.text = performance.now();
    times.first ||= times.text;
    one.text.textContent += part;
    byId("status").textContent = "Writing…";
  } else if (body.score && one.text.textContent && !block) byId("status").textContent = "Measuring…";
  if (!block) return;
  times.text ||= performance.now();
  times.first ||= times.text;
  if (rungs) one.title.textContent = `${name} ${shown(name, block.command[name])}`;
  last = { body, seed: block.seed };
  ended(one, block, choice.finish_reason, [...cards.values()]);
}

// -- a completion -----------------------------------------------------------------------------------------------------

function card() {
  const node = element("article", "card");
  node.setAttribute("aria-busy", "true");
  const one = { node, title: element("h2"), text: element("p", "text") };
  one.text.dir = "auto";
  one.measures = element("div", "measures");
  one.foot = element("div", "foot");
  node.append(one.title, one.text, one.measures, one.foot);
  byId("cards").append(node);
  return one;
}

function ended(one, block, reason, cards) {
  one.node.removeAttribute("aria-busy");
  const said = { ...block.command, ...block.achieved };
  const names = [...new Set([...targets.keys(), ...Object.keys(said)])].filter((name) => name in said);
  one.measures.append(...names.map((name) => measure(name, block)));
  const same = cards.find((other) => other !== one && plain(other) === plain(one) && !other.node.hasAttribute("aria-busy"));
  const notes = [
    !one.text.textContent.trim() && "The student wrote nothing.",
    same && `The same text as under ${same.title.textContent}.`,
    reason === "length" && "Cut off: it has as many tokens as it may have.",
    block.unmet.length && `Missing: ${block.unmet.join(", ")}.`,
    block.cut && "The input was longer than the student reads: its end was left out.",
  ];
  one.foot.append(...notes.filter(Boolean).map((note) => element("p", "note", note)));
  one.foot.append(element("p", "note", `seed ${block.seed}`));
  const button = Object.assign(element("button", "", "Copy text"), { type: "button" });
  button.addEventListener("click", () => copy(one.text.textContent, "The text"));
  one.foot.append(button);
}

const plain = (one) => one.text.textContent.toLowerCase().split(/\s+/).join(" ").trim();

// Tell what was commanded and achieved, in words and as a picture: the range that is reached, a line and a dot.
function measure(name, block) {
  const asked = block.command[name];
  const got = block.achieved?.[name];
  const clamped = block.clamped[name];
  const node = element("div", "measure");
  const line = element("div", "line");
  const said = [asked === undefined ? "any" : `asked ${shown(name, asked)}`];
  if (clamped) said.push(`nearest ${shown(name, Math.min(Math.max(asked, clamped.reachable[0]), clamped.reachable[1]))}`);
  said.push(got === undefined || got === null ? "not measured" : `got ${shown(name, got)}`);
  line.append(element("b", "", name), element("span", clamped ? "beyond" : "", said.join(" · ")));
  node.append(line);
  const reach = block.reachable[name];
  if (reach && targets.has(name)) node.append(bar(name, reach, asked, got ?? undefined));
  return node;
}

function bar(name, reach, asked, got) {
  const ends = bounds(name, ...reach, ...[asked, got].filter((value) => value !== undefined));
  const node = element("div", "bar");
  node.setAttribute("aria-hidden", "true"); // the line above says the same
  const marked = element("div", "reach");
  marked.style.setProperty("--from", share(reach[0], ends));
  marked.style.setProperty("--to", share(reach[1], ends));
  node.append(marked);
  for (const [kind, value] of Object.entries({ asked, got })) {
    if (value === undefined) continue;
    const mark = element("div", kind);
    mark.style.setProperty("--at", share(value, ends));
    node.append(mark);
  }
  return node;
}

// -- code -------------------------------------------------------------------------------------------------------------

// With the seed of what is shown, where the form still asks for it.
function repeatable() {
  const body = request();
  const isShown = last !== null && JSON.stringify(last.body) === JSON.stringify(body);
  return isShown ? { ...body, seed: last.seed } : body;
}

function asCurl(body) {
  const quoted = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  const key = needsKey ? ` \\\n  -H "authorization: Bearer $UDRL_API_KEY"` : "";
  const url = new URL("v1/chat/completions", document.baseURI).href;
  return `curl -s '${url}' \\\n  -H 'content-type: application/json'${key} \\\n  -d '${quoted}'`;
}

function literal(value) {
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${literal(one)}`).join(", ")}}`;
}

function asPython({ model, messages, seed, ...extra }) {
  const url = literal(new URL("v1", document.baseURI).href);
  return [
    ...(needsKey ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${url}, api_key=${needsKey ? 'os.environ["UDRL_API_KEY"]' : '"none"'})`,
    "done = client.chat.completions.create(",
    `    model=${literal(model)},`,
    `    messages=${literal(messages)},`,
    ...(seed === undefined ? [] : [`    seed=${seed},`]),
    `    extra_body=${literal(extra)},`,
    ")",
    "for choice in done.choices:",
    "    print(choice.message.content)",
  ].join("\n");
}

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text); // there is none where the page comes over plain HTTP from elsewhere
    byId("copied").textContent = `${what} is copied.`;
  } catch {
    byId("copied").textContent = `The browser does not let this page copy: select it.`;
  }
}

function copyCode(render, what) {
  if (!students.length || !isAskable()) return;
  const code = render(repeatable());
  byId("code").textContent = code;
  byId("code").hidden = false;
  copy(code, what);
}

// -- what people do ---------------------------------------------------------------------------------------------------

byId("ask").addEventListener("submit", (event) => (event.preventDefault(), write()));
byId("stop").addEventListener("click", () => running?.abort());
byId("student").addEventListener("change", chooseStudent);
byId("task").addEventListener("change", chooseTask);
byId("key").addEventListener("change", load);
byId("copy-curl").addEventListener("click", () => copyCode(asCurl, "The curl command"));
byId("copy-python").addEventListener("click", () => copyCode(asPython, "The Python code"));
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) (event.preventDefault(), write());
  if (event.key === "Escape") running?.abort();
});
if (!needsKey) load();
else byId("status").textContent = "Enter the API key, then the students are listed.";
