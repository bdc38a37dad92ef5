// What is new comes from the server by and by: numbers by polling, heatmaps when they are looked at.
"use strict";

const WAIT = 3000; // ms between two questions
const MOST_MAPS = 2000; // epochs of runs that are kept
const AHEAD = 8; // epochs that are asked for together with the one that is looked at
const asked = new Map(); // heatmaps that are on their way
let wanted = [];

// The runs that are shown, also where the address names none.
function addressOf(route, query = {}) {
  const search = new URLSearchParams(document.documentElement.dataset.query);
  for (const [name, value] of Object.entries(query)) search.set(name, value);
  return `${route}?${search}`;
}

async function ask(route, query) {
  const answer = await fetch(addressOf(route, query));
  if (!answer.ok) throw new Error(`TensorBoard's server answers with ${answer.status}.`);
  return answer.json();
}

function say(problems) {
  const message = byId("problems");
  if (message.textContent !== problems.join(" ")) message.textContent = problems.join(" ");
  message.hidden = !problems.length;
}

// All that is wanted at one moment makes one question.
async function sendMaps() {
  const sent = wanted;
  wanted = [];
  let answer = {};
  try {
    answer = await ask("maps", { maps: sent.map(({ run, step }) => `${run}:${step}`).join(",") });
  } catch {
    // Then there are none: the next question may have more luck.
  }
  for (const { run, step, resolve } of sent) {
    const found = answer[`${run}:${step}`];
    const maps = found ? await unpack(found) : null;
    if (maps) page.maps.set(mapName(run, step), maps);
    asked.delete(mapName(run, step));
    if (page.maps.size > MOST_MAPS) page.maps.delete(page.maps.keys().next().value);
    resolve(maps);
  }
}

function wish(run, step) {
  const name = mapName(run, step);
  if (!asked.has(name)) {
    if (!wanted.length) setTimeout(sendMaps);
    asked.set(name, new Promise((resolve) => wanted.push({ run, step, resolve })));
  }
  return asked.get(name);
}

function askForMaps(run, step) {
  const place = page.epochs.indexOf(step);
  for (let epoch = place + 1; epoch < Math.min(page.epochs.length, place + AHEAD); epoch++) {
    if (columnAt(epoch).has[run] && !page.maps.has(mapName(run, page.epochs[epoch]))) wish(run, page.epochs[epoch]);
  }
  return wish(run, step);
}

// Words and tables are the server's; those of the page that it would make now take the place of these.
async function refreshTexts() {
  const answer = await fetch(addressOf("page"));
  if (!answer.ok) return;
  const made = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const id of ["findings", "summary", "by-class", "settings", "about"]) replace(id, made.getElementById(id));
  if (!byId("chooser").open) replace("run-list", made.getElementById("run-list"));
}

function replace(id, made) {
  if (!made) return;
  addSwatches(made);
  byId(id).replaceChildren(...made.childNodes);
}

// Shows what is new. Who looks at the last epoch goes on to the one that is the last now.
function refresh(before) {
  const step = before.epochs[state.epoch];
  const isLast = state.epoch === before.epochs.length - 1;
  fitSliders();
  fillOrders();
  state.epoch = isLast && !state.playing ? page.epochs.length - 1 : Math.max(0, nearestEpoch(step));
  showRunCharts(byId("charts"));
  if (dialog.open) showSampleCharts(byId("dialog-charts"), state.sample);
  arrange();
  update();
}

async function take(block) {
  const before = { epochs: page.epochs };
  for (const step of block.epochs) page.names.forEach((_, run) => page.maps.delete(mapName(run, step)));
  page.shapes = block.shapes;
  await unpackBlock(block);
  refresh(before);
}

async function keepUp(first) {
  let { version, left } = first;
  let isNew = true;
  for (;;) {
    byId("live").textContent = left ? `${page.epochs.length} of ${page.epochs.length + left} epochs read` : "";
    if (isNew && !left) {
      isNew = false;
      await refreshTexts().catch(() => {});
    }
    await new Promise((resolve) => setTimeout(resolve, left ? 0 : WAIT));
    if (document.hidden || !window.innerWidth) continue; // Another tab is looked at.
    try {
      const block = await ask("data", { since: version });
      if (block.message) {
        say([block.message]);
        continue;
      }
      if (block.instance !== page.instance) return location.reload(); // The runs are others than before.
      byId("run-count").textContent = block.count;
      say(block.problems);
      isNew ||= block.epochs.length > 0;
      if (block.epochs.length) await take(block);
      ({ version, left } = block);
    } catch (error) {
      say([`No answer. ${error.message} What is shown was read before.`]);
    }
  }
}

async function startLive() {
  askMaps = askForMaps;
  document.addEventListener("themed", repaint);
  const first = await ask("data", { since: 0 });
  if (first.message) return say([first.message]);
  page.shapes = first.shapes;
  for (const image of first.images) {
    for (const part of ["source", "thumb", "ink"]) if (image[part]) image[part] = addressOf(image[part], { instance: first.instance });
  }
  say(first.problems);
  await start(first);
  return keepUp(first);
}

if (typeof DecompressionStream !== "undefined") startLive().catch((error) => say([error.message]));
