// The page: a form from the run's own schema, samples as they form, a history that makes each again. No library, no build step.
"use strict";

const $ = (id) => document.getElementById(id);
const state = { runs: [], run: null, history: [], marked: [], token: sessionStorage.getItem("token") || "", live: new Map() };

// ---- small things --------------------------------------------------------------------------------------------------------

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((each) => each !== null && each !== undefined));
  return node;
}

function say(text) { $("status").textContent = text; }
function complain(problem) {
  $("complaint").textContent = problem ? problem.detail || String(problem) : "";
  document.querySelectorAll("[aria-invalid]").forEach((node) => node.removeAttribute("aria-invalid"));
  const name = problem && problem.field ? problem.field.split(".").pop() : "";
  const node = name && ($(`q-${name}`) || $(`k-${name}`) || $(name));
  if (node) { for (let each = node.closest("details"); each; each = each.parentElement.closest("details")) each.open = true; node.setAttribute("aria-invalid", "true"); node.setAttribute("aria-describedby", "complaint"); node.focus(); }
}

async function ask(path, options = {}) {
  const headers = { ...(options.headers || {}) };
  if (state.token) headers.Authorization = `Bearer ${state.token}`;
  const answer = await fetch(path, { ...options, headers });
  if (answer.status === 401) {
    const token = window.prompt("This server wants a token:");
    if (token) { state.token = token.trim(); sessionStorage.setItem("token", state.token); return ask(path, options); }
  }
  if (!answer.ok) {
    let problem;
    try { problem = await answer.json(); } catch { problem = { detail: `${answer.status} ${answer.statusText}` }; }
    throw problem;
  }
  return answer;
}
const json = async (path, options) => (await ask(path, options)).json();
const post = (path, body) => json(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

async function* events(path, signal) {
  let last = 0;
  for (let tries = 0; tries < 5; tries += 1) {
    try {
      const answer = await ask(path, { headers: { "Last-Event-ID": String(last) }, signal });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        text += value;
        const parts = text.split("\n\n");
        text = parts.pop();
        for (const part of parts) {
          const lines = Object.fromEntries(part.split("\n").filter((line) => !line.startsWith(":")).map((line) => {
            const at = line.indexOf(": ");
            return [line.slice(0, at), line.slice(at + 2)];
          }));
          if (!lines.event) continue;
          last = Number(lines.id);
          tries = 0;
          yield [lines.event, JSON.parse(lines.data)];
          if (["done", "failed", "cancelled"].includes(lines.event)) return;
        }
      }
    } catch (error) {
      if (signal && signal.aborted) return;
      if (error && error.status) throw error;
      await new Promise((resolve) => setTimeout(resolve, 300 * (tries + 1)));
    }
  }
}

const urls = new Map();  // things as object URLs, so that a token goes along
async function blob(path) {
  if (!urls.has(path)) urls.set(path, ask(path).then(async (answer) => {
    const found = await answer.blob();
    return { url: URL.createObjectURL(found), blob: found };
  }));
  return urls.get(path);
}

// ---- the form --------------------------------------------------------------------------------------------------------------

const FLAGS = { "-n": "“How many”", "--w": "“Guidance”", "--steps": "“Steps”", "--seed": "“Seed”", "--out": "the file", "--solver": "“solver”" };
function hinted(text) {  // what an option means, in the words of the page; of several sentences the first
  const found = text.startsWith("...") ? text : text.replace(/([^.])\.\s.*$/, "$1.");
  return found.replace(/(^|[\s(])(--?[a-z]+)\b/g, (all, before, flag) => before + (FLAGS[flag] || flag));
}

function input(name, schema, prefix) {
  const id = `${prefix}-${name}`;
  const types = [].concat(schema.type);
  const label = make("label", { for: id }, name.replaceAll("_", " "));
  const about = schema.description ? make("p", { class: "hint", id: `${id}-hint` }, hinted(schema.description)) : null;
  const more = about ? { "aria-describedby": `${id}-hint` } : {};
  const usual = schema.default;
  const hint = usual === null || usual === undefined ? "" : String(usual);
  let node;
  if (schema.enum) {
    node = make("select", { id, ...more }, ...(types.includes("null") ? [make("option", { value: "" }, "as usual")] : []),
      ...schema.enum.filter((each) => each !== null).map((each) => make("option", { value: each }, String(each))));
    if (usual) node.value = usual;
  } else if (schema.format === "file") {
    node = make("input", { id, type: "file", ...more });
  } else if (types.includes("boolean")) {
    node = make("input", { id, type: "checkbox", ...more });
    node.checked = Boolean(usual);
    return make("div", { class: "field check" }, node, label);
  } else if (types.includes("array")) {
    node = make("input", { id, type: "text", placeholder: "with commas between", ...more });
  } else if (types.includes("integer") || types.includes("number")) {
    node = make("input", { id, type: "number", step: types.includes("integer") ? 1 : "any", placeholder: hint || "as usual", inputmode: "decimal", ...more });
  } else if (/prompt|around|text|where|negative/.test(name)) {
    node = make("textarea", { id, rows: 2, placeholder: hint, ...more });
  } else {
    node = make("input", { id, type: "text", placeholder: hint, ...more });
  }
  return make("div", { class: "field" }, label, node, about);
}

async function value(name, schema, prefix) {
  const node = $(`${prefix}-${name}`);
  const types = [].concat(schema.type);
  if (!node) return null;
  if (types.includes("boolean")) return node.checked === Boolean(schema.default) ? null : node.checked;
  if (schema.format === "file") {
    const file = node.files[0];
    if (!file) return null;
    const bytes = new Uint8Array(await file.arrayBuffer());
    let text = "";
    for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
    return { name: file.name, base64: btoa(text) };
  }
  if (node.value === "") return null;
  if (types.includes("array")) {
    const numbers = schema.items && ["number", "integer"].includes(schema.items.type);
    return node.value.split(",").map((each) => (numbers ? Number(each) : each.trim()));
  }
  if (types.includes("integer") || types.includes("number")) return Number(node.value);
  return node.value;
}

function put(name, schema, prefix, found) {
  const node = $(`${prefix}-${name}`);
  if (!node || schema.format === "file") return;
  if (node.type === "checkbox") node.checked = found === null || found === undefined ? Boolean(schema.default) : Boolean(found);
  else node.value = found === null || found === undefined ? "" : Array.isArray(found) ? found.join(",") : String(found);
}

const SHOWN_APART = ["steps", "w"];
const MOST = 5;  // options of a query that stand open
function choose(name) {
  const run = state.runs.find((each) => each.name === name);
  if (!run) return;
  state.run = run;
  $("run").value = name;
  const query = Object.entries(run.query.properties).filter(([key]) => !(run.choices[key] && run.choices[key].length === 0));
  const fields = query.map(([key, schema]) => input(key, schema, "q"));
  const rest = fields.length > MOST ? [make("details", {}, make("summary", {}, "More of it"), ...fields.splice(MOST - 1))] : [];
  $("query").replaceChildren(make("legend", {}, "What for"), ...fields, ...rest);
  $("query").hidden = query.length === 0;
  const walk = Object.entries(run.body.properties.walk.properties).filter(([key]) => !SHOWN_APART.includes(key));
  $("walk").replaceChildren(...walk.map(([key, schema]) => {
    const usual = run.walk[key];
    return input(key, { ...schema, default: usual === undefined ? schema.default : usual }, "k");
  }), make("datalist", { id: "solvers" }, ...run.solvers.map((each) => make("option", { value: each }))));
  $("k-solver").setAttribute("list", "solvers");
  const most = run.body.properties;  // what the server allows, not what this page thinks of it
  $("n").max = most.n.maximum;
  $("steps").max = most.walk.properties.steps.maximum;
  const steps = run.walk.steps || 20;
  for (const id of ["steps", "steps-range"]) $(id).value = steps;
  for (const id of ["w", "w-range"]) $(id).value = run.walk.w ?? 1.5;
  $("w-field").hidden = !run.guided;
  $("format").replaceChildren(...run.formats.map((each) => make("option", { value: each }, each)));
  $("run-about").textContent = `${run.field}, ${run.walk.solver || ""}${run.cap ? `, ${run.cap} together` : ""}`;
}

async function request() {
  const run = state.run;
  const body = { run: run.name, n: Number($("n").value || 1), seed: Number($("seed").value || 0), query: {}, walk: {} };
  for (const [name, schema] of Object.entries(run.query.properties)) {
    const found = await value(name, schema, "q");
    if (found !== null) body.query[name] = found;
  }
  for (const [name, schema] of Object.entries(run.body.properties.walk.properties)) {
    if (SHOWN_APART.includes(name)) continue;
    const found = await value(name, { ...schema, default: undefined }, "k");
    if (found !== null && found !== "usual") body.walk[name] = found;
  }
  const steps = Number($("steps").value);
  if (steps !== run.walk.steps && body.walk.tol === undefined) body.walk.steps = steps;
  const w = Number($("w").value);
  if (run.guided && w !== run.walk.w) body.walk.w = w;
  if ($("format").value && $("format").value !== run.formats[0]) body.format = $("format").value;
  if ($("film").checked) body.film = true;
  if ($("exact").checked) body.exact = true;
  return body;
}

function fill(asked, only = null) {  // what a card or a file says, into the form
  if (only === "seed") { $("seed").value = asked.seed; say(`took the seed ${asked.seed}`); return; }
  if (asked.run && asked.run !== state.run.name) choose(asked.run);
  const run = state.run;
  $("seed").value = asked.seed;
  if (asked.n) $("n").value = asked.n;
  for (const [name, schema] of Object.entries(run.query.properties)) put(name, schema, "q", (asked.query || {})[name]);
  const walk = asked.walk || {};
  for (const [name, schema] of Object.entries(run.body.properties.walk.properties)) {
    if (SHOWN_APART.includes(name)) continue;
    const usual = run.walk[name];
    put(name, schema, "k", walk[name] === usual ? null : walk[name]);
  }
  for (const id of ["steps", "steps-range"]) $(id).value = walk.steps || run.walk.steps || 20;
  for (const id of ["w", "w-range"]) $(id).value = walk.w ?? run.walk.w ?? 1.5;
  if (asked.format) $("format").value = asked.format;
}

// ---- things ----------------------------------------------------------------------------------------------------------------

function csv(text, most = 60) {
  const rows = [];
  let row = [], cell = "", quoted = false;
  for (let i = 0; i < text.length && rows.length <= most; i += 1) {
    const c = text[i];
    if (quoted) { if (c === '"') { if (text[i + 1] === '"') { cell += '"'; i += 1; } else quoted = false; } else cell += c; }
    else if (c === '"') quoted = true;
    else if (c === "," || c === ";" || c === "\t") { row.push(cell); cell = ""; }
    else if (c === "\n") { row.push(cell.replace(/\r$/, "")); rows.push(row); row = []; cell = ""; }
    else cell += c;
  }
  if (cell || row.length) rows.push([...row, cell]);
  return rows;
}

function sheet(rows) {
  const [head, ...rest] = rows;
  return make("table", {}, make("thead", {}, make("tr", {}, ...head.map((each) => make("th", { scope: "col" }, each)))),
    make("tbody", {}, ...rest.map((row) => make("tr", {}, ...row.map((each) => make("td", { class: /^-?[\d.]+$/.test(each) ? "number" : "" }, each))))));
}

async function show(box, path, type, words) {
  const { url, blob: found } = await blob(path);
  if (type.startsWith("image/")) {
    const picture = make("img", { src: url, alt: words });
    picture.addEventListener("load", () => {
      picture.classList.toggle("small", picture.naturalWidth <= 64);
      if (picture.naturalWidth > 400 && box.closest(".things")) box.closest(".things").classList.add("large");  // curves, maps: to be read
    });
    box.replaceChildren(picture);
  } else if (type.startsWith("video/")) box.replaceChildren(make("video", { src: url, controls: true, loop: true, "aria-label": words }));
  else if (type.startsWith("text/csv")) { box.classList.add("table"); box.tabIndex = 0; box.setAttribute("role", "region"); box.setAttribute("aria-label", words); box.replaceChildren(sheet(csv(await found.text()))); }
  else if (type.startsWith("text/") || type.startsWith("application/json")) box.replaceChildren(make("pre", { tabindex: 0, "aria-label": words }, (await found.text()).replace(/^---- \d+ ----\n/, "").slice(0, 20000)));
  else box.replaceChildren(make("a", { href: url, download: path.split("/").pop() }, "Download"));
}

function preview(box, data, words) {
  if (data.type.startsWith("image/")) {
    let picture = box.querySelector("img");
    if (!picture) { picture = make("img", { alt: words }); box.replaceChildren(picture); }
    picture.src = `data:${data.type};base64,${data.data}`;
    picture.addEventListener("load", () => picture.classList.toggle("small", picture.naturalWidth <= 64), { once: true });
  } else {
    const bytes = Uint8Array.from(atob(data.data), (c) => c.charCodeAt(0));
    box.replaceChildren(make("pre", {}, new TextDecoder().decode(bytes).replace(/^---- \d+ ----\n/, "")));
  }
}

function figure(card, number) {
  if (!card.figures.has(number)) {
    const box = make("div", { class: "box" });
    const caption = make("figcaption", {}, make("span", {}, `no. ${number}`));
    const node = make("figure", { class: "forming", "data-number": number }, box, caption);
    card.figures.set(number, { node, box, caption });
    const after = [...card.figures.keys()].filter((each) => each > number).sort((a, b) => a - b)[0];
    card.things.insertBefore(node, after === undefined ? null : card.figures.get(after).node);
  }
  return card.figures.get(number);
}

async function finished(card, thing) {
  const { node, box, caption } = figure(card, thing.number);
  node.classList.remove("forming");
  const words = `${card.job.run}, sample ${thing.number}${thing.name ? `, ${thing.name}` : ""}`;
  const path = thing.view || thing.url;
  const type = thing.view ? thing.view_type : thing.type;
  if (!type.startsWith("image/")) card.things.classList.add("wide");
  await show(box, path, type, words);
  const files = [thing.file, ...thing.files.filter((each) => each !== thing.file && !each.endsWith(".json"))].slice(0, 6);
  const ending = (name) => name.split("/").pop().split(".").pop();
  const told = files.length > new Set(files.map(ending)).size ? (name) => name.split("/").pop() : ending;
  const buttons = files.map((name) => make("button", { type: "button", onclick: () => download(thing, name) }, `Save ${told(name)}`));
  if (!/\.png$/.test(thing.file)) {  // which carries it inside
    const making = () => saved(URL.createObjectURL(new Blob([JSON.stringify(thing.making)], { type: "application/json" })), `${thing.file.split("/").pop()}.json`);
    buttons.push(make("button", { type: "button", onclick: making, title: "What made it: drop this file here, and the form is filled again" }, "Making"));
  }
  caption.replaceChildren(make("span", {}, thing.name || (/\d/.test(thing.file) ? `no. ${thing.number}` : thing.file)), make("span", { class: "buttons" }, ...buttons));
}

function saved(url, name) { make("a", { href: url, download: name }).click(); }

async function download(thing, name) {
  const { url } = await blob(name === thing.file ? thing.url : `${thing.url}?file=${encodeURIComponent(name)}`);
  saved(url, name.split("/").pop());
}

// ---- drawing ---------------------------------------------------------------------------------------------------------------

function command(text) {
  const copy = make("button", { type: "button", onclick: async () => { try { await navigator.clipboard.writeText(text); copy.textContent = "Copied"; } catch { copy.textContent = "Select it"; } } }, "Copy");
  return make("div", { class: "command" }, make("code", { tabindex: 0, "aria-label": "The command that draws the same" }, text), copy);
}

function opened(job, title) {
  const card = { job, figures: new Map(), frames: new Map(), abort: new AbortController() };
  card.state = make("span", { class: "state" }, job.state);
  card.stop = make("button", { type: "button", onclick: () => cancel(card) }, "Cancel");
  card.progress = make("progress", { max: 1, value: 0, "aria-label": "How far it is" });
  card.things = make("div", { class: "things" });
  card.film = make("div", { class: "film", hidden: true });
  card.node = make("section", { class: "card", "aria-label": `Samples of ${job.run}`, "data-id": job.id },
    make("div", { class: "head" }, make("h3", {}, title || job.run), card.state, card.stop), card.progress, card.things, card.film, command(job.command));
  return card;
}

async function cancel(card) {
  card.stop.disabled = true;
  try { await json(`/v1/samples/${card.job.id}`, { method: "DELETE" }); } catch (problem) { complain(problem); }
}

async function follow(card) {
  const started = performance.now();
  for await (const [event, data] of events(card.job.links.events, card.abort.signal)) {
    if (event === "queued") card.state.textContent = card.job.position ? `waiting, ${card.job.position} before` : "waiting";
    else if (event === "running") card.state.textContent = "running";
    else if (event === "step") {
      card.progress.max = data.of; card.progress.value = data.done;
      card.state.textContent = `step ${data.i} of ${data.n}`;
    } else if (event === "preview") {
      if (!card.job.things.some((each) => each.number === data.number)) preview(figure(card, data.number).box, data, `sample ${data.number} at step ${data.i} of ${data.n}`);
      if (card.first === undefined) { card.first = performance.now() - started; card.node.dataset.first = Math.round(card.first); }
      keep(card, "preview", data);
    } else if (event === "noising") keep(card, "noising", data);
    else if (event === "thing") { card.job.things.push(data); await finished(card, data); }
    else {
      card.job.state = event;
      card.state.textContent = event === "done" ? "done" : `${event}${data.why ? `: ${data.why}` : ""}`;
      card.state.classList.add(event);
      card.progress.hidden = true; card.stop.hidden = true;
      if (event === "done") for (const [number, { node }] of card.figures) if (!card.job.things.some((each) => each.number === number)) node.remove();  // one file holds them all
      reel(card);
    }
  }
  return card.job;
}

function keep(card, what, data) {
  if (!card.frames.has(data.number)) card.frames.set(data.number, { preview: [], noising: [] });
  card.frames.get(data.number)[what].push(data);
}

function reel(card) {  // the slider: from data into noise, and from noise back to data
  const all = [...card.frames.entries()].filter(([, found]) => found.noising.length > 1);
  if (!all.length) return;
  const [number, found] = all[0];
  const there = [...found.noising].sort((a, b) => a.i - b.i);
  const back = [...found.preview].sort((a, b) => a.i - b.i);
  const thing = card.job.things.find((each) => each.number === number);
  const count = there.length + back.length + 1;
  const box = make("div", { class: "box" });
  const words = make("output", { class: "hint" });
  const slider = make("input", { type: "range", min: 0, max: count - 1, value: count - 1, "aria-label": "From data into noise, and back to data" });
  const at = async () => {
    const i = Number(slider.value);
    if (i < there.length) { preview(box, there[i], "noised"); words.textContent = `forward: noise added, ${i} of ${there.length - 1}`; }
    else if (i < there.length + back.length) { const each = back[i - there.length]; preview(box, each, "guessed"); words.textContent = `reverse: what the network guesses after step ${each.i} of ${each.n}`; }
    else if (thing) { words.textContent = "the sample"; await show(box, thing.view || thing.url, thing.view ? thing.view_type : thing.type, "the sample"); }
    slider.setAttribute("aria-valuetext", words.textContent);
  };
  slider.addEventListener("input", at);
  card.film.replaceChildren(make("h3", {}, `There and back: sample ${number}`), box, slider,
    make("div", { class: "ends" }, make("span", {}, "data → noise"), words, make("span", {}, "noise → data")));
  card.film.hidden = false;
  at();
}

async function draw(event) {
  if (event) event.preventDefault();
  complain(null);
  if ($("lock").getAttribute("aria-pressed") === "false") dice();
  $("go").disabled = true;
  try {
    const body = await request();
    const job = await post("/v1/samples", { ...body, previews: Math.min(16, Number($("steps").value) || 16) });
    const card = opened(job);
    $("now").replaceChildren(card.node);
    if (card.node.getBoundingClientRect().top > innerHeight / 2) card.node.scrollIntoView({ block: "start" });  // on a phone it is below the form
    for (let i = 0; i < Math.min(job.step.of || body.n, body.n) && i < 64; i += 1) if (state.run.formats[0] === ".png") figure(card, i);
    $("go").disabled = false;
    remember(job, await follow(card));
  } catch (problem) { complain(problem); } finally { $("go").disabled = false; }
}

function dice() { $("seed").value = Math.floor(Math.random() * 2 ** 31); }

// ---- history ---------------------------------------------------------------------------------------------------------------

const KEPT = 60;
function stored() { try { return JSON.parse(localStorage.getItem("history") || "[]"); } catch { return []; } }
function store() { try { localStorage.setItem("history", JSON.stringify(state.history.slice(0, KEPT))); } catch { /* no room */ } }

async function remember(job, ended) {
  if (ended.state !== "done") return;
  const thing = ended.things[0];
  const entry = { id: job.id, run: job.run, asked: { ...job.asked, run: job.run }, walk: job.walk, command: job.command, when: Date.now(), things: ended.things, mini: "", guided: Boolean((state.runs.find((each) => each.name === job.run) || {}).guided) };
  try { entry.mini = thing ? await mini(thing) : ""; } catch { /* without */ }
  state.history = [entry, ...state.history.filter((each) => each.id !== job.id)].slice(0, KEPT);
  store();
  listed();
}

async function mini(thing) {  // a small picture, or a few words, that stay when the server has forgotten
  const type = thing.view ? thing.view_type : thing.type;
  const { blob: found } = await blob(thing.view || thing.url);
  if (!type.startsWith("image/")) return (await found.text()).replace(/^---- \d+ ----\n/, "").slice(0, 160);
  const picture = await createImageBitmap(found);
  const canvas = make("canvas", { width: 56, height: 56 });
  const scale = Math.max(56 / picture.width, 56 / picture.height);
  canvas.getContext("2d").drawImage(picture, 0, 0, picture.width * scale, picture.height * scale);
  return canvas.toDataURL("image/png");
}

function about(entry) {
  const run = state.runs.find((each) => each.name === entry.run);
  const usual = (name) => (run && run.query.properties[name] ? run.query.properties[name].default : null);
  const query = Object.entries(entry.asked.query || {}).filter(([name, each]) => each !== null && each !== undefined && each !== "" && String(each) !== String(usual(name))).map(([name, each]) => `${name} ${each}`);
  return [entry.run, ...query, `seed ${entry.asked.seed}`, entry.walk && entry.walk.steps ? `${entry.walk.steps} steps` : "", entry.guided && entry.walk && entry.walk.w !== undefined && entry.walk.w !== null ? `w ${entry.walk.w}` : ""].filter(Boolean).join(", ");
}

function listed() {
  $("history-hint").hidden = state.history.length > 0;
  $("compare").disabled = state.marked.length !== 2;
  $("history").replaceChildren(...state.history.map((entry) => {
    const look = entry.mini.startsWith("data:") ? make("img", { src: entry.mini, alt: "" }) : make("pre", { class: "mini", "aria-hidden": "true" }, entry.mini);
    const marked = state.marked.includes(entry.id);
    return make("li", { class: marked ? "marked" : "", "data-id": entry.id }, look, make("div", { class: "what" }, about(entry)),
      make("div", { class: "actions" },
        make("button", { type: "button", onclick: () => peek(entry), "aria-label": `Look at ${about(entry)}` }, "Look"),
        make("button", { type: "button", onclick: () => { fill({ ...entry.asked, walk: { ...entry.walk, ...entry.asked.walk } }); say("took all of it"); }, "aria-label": `Use all of ${about(entry)}` }, "Use"),
        make("button", { type: "button", onclick: () => fill(entry.asked, "seed"), "aria-label": `Use the seed of ${about(entry)}` }, "Seed"),
        make("button", { type: "button", "aria-pressed": String(marked), onclick: () => mark(entry), "aria-label": `Mark ${about(entry)} to compare` }, "Mark")));
  }));
}

function mark(entry) {
  state.marked = state.marked.includes(entry.id) ? state.marked.filter((id) => id !== entry.id) : [...state.marked, entry.id].slice(-2);
  listed();
}

async function restored(entry) {  // its things; drawn again where the server has forgotten them
  try { return await json(`/v1/samples/${entry.id}`); } catch { /* gone */ }
  const { asked } = entry;
  const walk = asked.walk_name && asked.walk_name !== "usual" ? { ...asked.walk, name: asked.walk_name } : asked.walk;
  const query = Object.fromEntries(Object.entries(asked.query || {}).filter(([, each]) => each !== null));
  const job = await post("/v1/samples", { run: entry.run, n: asked.n, seed: asked.seed, query, walk, ...(asked.format ? { format: asked.format } : {}) });
  const card = opened(job);
  await follow(card);
  return card.job;
}

async function gallery(job) {
  const card = opened({ ...job, things: [] });
  card.stop.hidden = true; card.progress.hidden = true;
  for (const thing of job.things) await finished(card, thing);
  return card.node;
}

async function peek(entry) {
  dialog(about(entry), make("p", { class: "hint" }, "looking …"));
  try { $("dialog-body").replaceChildren(await gallery(await restored(entry))); } catch (problem) { $("dialog-body").textContent = problem.detail || String(problem); }
}

function dialog(title, ...body) {
  $("dialog-title").textContent = title;
  $("dialog-body").replaceChildren(...body);
  if (!$("dialog").open) $("dialog").showModal();
}

function flat(entry) {
  const found = { run: entry.run, n: entry.asked.n, seed: entry.asked.seed, format: entry.asked.format };
  for (const [name, each] of Object.entries(entry.asked.query || {})) found[name] = each;
  for (const [name, each] of Object.entries(entry.walk || {})) found[name] = each;
  return found;
}

async function compare() {
  const [a, b] = state.marked.map((id) => state.history.find((each) => each.id === id));
  const [left, right] = [flat(a), flat(b)];
  const names = [...new Set([...Object.keys(left), ...Object.keys(right)])].filter((name) => JSON.stringify(left[name] ?? null) !== JSON.stringify(right[name] ?? null));
  const pair = make("div", { class: "pair" });
  const table = make("table", {}, make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "differs"), make("th", { scope: "col" }, "first"), make("th", { scope: "col" }, "second"))),
    make("tbody", {}, ...(names.length ? names : ["nothing"]).map((name) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, String(left[name] ?? "—")), make("td", {}, String(right[name] ?? "—"))))));
  dialog("Side by side", table, pair);
  try { pair.replaceChildren(...await Promise.all([a, b].map(async (entry) => gallery(await restored(entry))))); } catch (problem) { pair.textContent = problem.detail || String(problem); }
}

// ---- X/Y grid --------------------------------------------------------------------------------------------------------------

function axes() {
  const run = state.run;
  const named = { seed: "0, 1, 2, 3", steps: "4, 10, 20, 50", w: "1, 1.5, 3, 5", solver: "euler, dpmpp_2m, heun" };
  for (const [name, schema] of Object.entries(run.query.properties)) if (schema.format !== "file") named[name] = schema.enum ? schema.enum.filter(Boolean).slice(0, 4).join(", ") : "";
  if (state.runs.length > 1) named.run = state.runs.map((each) => each.name).join(", ");
  const part = (which, usual) => {
    const select = make("select", { id: `axis-${which}` }, make("option", { value: "" }, "nothing"), ...Object.keys(named).map((name) => make("option", { value: name }, name)));
    const values = make("input", { id: `values-${which}`, type: "text" });
    select.value = usual; values.value = named[usual] || "";
    select.addEventListener("change", () => { values.value = named[select.value] || ""; });
    return make("div", { class: "row" }, make("div", { class: "field" }, make("label", { for: `axis-${which}` }, which === "x" ? "Across" : "Down"), select),
      make("div", { class: "field" }, make("label", { for: `values-${which}` }, "Values, with commas between"), values));
  };
  const go = make("button", { type: "button", class: "main", onclick: () => { $("dialog").close(); grid(); } }, "Draw the grid");
  dialog("A grid over two things", part("x", "steps"), part("y", "seed"), make("p", { class: "hint" }, "One sample each; all else is as in the form."), go);
}

function changed(body, name, text) {
  const found = structuredClone(body);
  if (!name) return found;
  const run = state.runs.find((each) => each.name === (name === "run" ? text : found.run)) || state.run;
  if (name === "run") { found.run = text; return found; }
  if (name === "seed") { found.seed = Number(text); return found; }
  const walks = run.body.properties.walk.properties;
  const inside = walks[name] && !run.query.properties[name] ? "walk" : "query";
  const schema = (inside === "walk" ? walks : run.query.properties)[name];
  found[inside][name] = [].concat(schema.type).some((each) => ["number", "integer"].includes(each)) ? Number(text) : text;
  return found;
}

async function grid() {
  complain(null);
  const [x, y] = [$("axis-x").value, $("axis-y").value];
  const values = (which) => ($(`axis-${which}`).value ? $(`values-${which}`).value.split(",").map((each) => each.trim()).filter((each) => each !== "") : [""]);
  const [across, down] = [values("x"), values("y")];
  if (across.length * down.length > 100) { complain({ detail: "more than 100 samples in a grid: give fewer values" }); return; }
  const body = { ...(await request()), n: 1 };
  delete body.film;
  const cells = new Map();
  const table = make("table", {}, make("caption", { class: "hint" }, `${y || "—"} down, ${x || "—"} across`),
    make("thead", {}, make("tr", {}, make("td"), ...across.map((each) => make("th", { scope: "col" }, each)))),
    make("tbody", {}, ...down.map((row) => make("tr", {}, make("th", { scope: "row" }, row), ...across.map((column) => {
      const box = make("div", { class: "box" });
      cells.set(`${row}\n${column}`, box);
      return make("td", {}, make("figure", {}, box));
    })))));
  $("now").replaceChildren(make("section", { class: "card", "aria-label": "Grid" }, make("div", { class: "head" }, make("h3", {}, `Grid of ${body.run}`)), make("div", { class: "grid-wrap", tabindex: 0, role: "region", "aria-label": "Grid of samples" }, table)));
  await Promise.all(down.flatMap((row) => across.map(async (column) => {
    const box = cells.get(`${row}\n${column}`);
    try {
      const job = await post("/v1/samples", changed(changed(body, x, column), y, row));
      for await (const [event, data] of events(job.links.events)) {
        if (event === "thing") await show(box, data.view || data.url, data.view ? data.view_type : data.type, `${x} ${column}, ${y} ${row}`);
        if (event === "failed" || event === "cancelled") box.textContent = data.why || event;
      }
    } catch (problem) { box.textContent = problem.detail || "failed"; }
  })));
  table.dataset.done = "true";
}

// ---- recall ----------------------------------------------------------------------------------------------------------------

async function recall(file) {
  complain(null);
  try {
    const making = await json("/v1/making", { method: "POST", headers: { "Content-Type": "application/octet-stream", "X-File-Name": encodeURIComponent(file.name).slice(0, 100) }, body: file });
    if (!making.run) { complain({ detail: `made of weights that are not served here (${making.weights})` }); return; }
    fill({ run: making.run, seed: making.seed, query: making.query, walk: making.walk, n: Math.min(64, (making.number ?? 0) + 1) });
    say(`took the making of ${file.name}: sample ${making.number ?? 0} of seed ${making.seed}`);
  } catch (problem) { complain(problem); }
}

// ---- beginning -------------------------------------------------------------------------------------------------------------

function pairs() {
  for (const id of ["steps", "w"]) {
    $(id).addEventListener("input", () => { $(`${id}-range`).value = $(id).value; });
    $(`${id}-range`).addEventListener("input", () => { $(id).value = $(`${id}-range`).value; });
  }
}

function theme(to) {
  if (to) { document.documentElement.dataset.theme = to; try { localStorage.setItem("theme", to); } catch { /* as the system has it */ } }
}

function wired() {
  pairs();
  $("form").addEventListener("submit", draw);
  $("run").addEventListener("change", () => choose($("run").value));
  $("dice").addEventListener("click", dice);
  $("lock").addEventListener("click", () => $("lock").setAttribute("aria-pressed", String($("lock").getAttribute("aria-pressed") !== "true")));
  $("plot").addEventListener("click", axes);
  $("compare").addEventListener("click", compare);
  $("clear").addEventListener("click", () => { state.history = []; state.marked = []; store(); listed(); });
  $("theme").addEventListener("click", () => {
    const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    theme(dark ? "light" : "dark");
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); draw(); } });
  const drop = $("drop");
  $("file").addEventListener("change", () => { const file = $("file").files[0]; if (file) recall(file); });
  for (const name of ["dragover", "dragenter"]) document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  document.addEventListener("dragleave", () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => { event.preventDefault(); drop.classList.remove("over"); if (event.dataTransfer.files[0]) recall(event.dataTransfer.files[0]); });
  document.addEventListener("paste", (event) => { const file = [...event.clipboardData.files][0]; if (file) { event.preventDefault(); recall(file); } });
}

async function begin() {
  try { theme(localStorage.getItem("theme")); } catch { /* as the system has it */ }
  wired();
  state.history = stored();
  listed();
  for (;;) {
    try {
      const { data } = await json("/v1/runs");
      state.runs = data;
      $("run").replaceChildren(...data.map((each) => make("option", { value: each.name }, each.name)));
      if (!state.run) choose(data[0].name);
      if (data.every((each) => each.ready)) { choose(state.run.name); break; }
      say("loading the runs …");
    } catch (problem) { say(problem.detail || "the server does not answer"); }
    await new Promise((resolve) => setTimeout(resolve, 700));
  }
  listed();  // now that it is known what is usual
  say(`ready: ${state.runs.map((each) => each.name).join(", ")}`);
  document.body.dataset.ready = "true";
}

begin();
