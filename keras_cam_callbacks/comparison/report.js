// The page: rows of samples, one epoch for all, order and filters, and a dialog for each sample.
"use strict";

const byId = (id) => document.getElementById(id);
const state = { epoch: 0, playing: 0, sample: -1, slice: 0 };
const rows = []; // of the table, by sample
const GRID_SIDE = 224;
const DIALOG_SIDE = 448;

function shortNumber(value) {
  return Number.isFinite(value) ? String(Number(value.toPrecision(3))) : "–";
}

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

// Names may be written from right to left.
function isolated(text) {
  return element("bdi", "", text);
}

function className(index) {
  if (Array.isArray(index)) return index.map(className).join(" + ") || "none";
  return page.classes?.[index] ?? String(index);
}

function look() {
  return {
    view: document.querySelector("input[name=view]:checked").value,
    scale: byId("scale").value,
    colormap: byId("colormap").value,
    alpha: Number(byId("alpha").value) / 100,
    regions: byId("regions").checked,
  };
}

function nearestEpoch(step) {
  let nearest = 0;
  page.epochs.forEach((each, i) => {
    if (Math.abs(each - step) < Math.abs(page.epochs[nearest] - step)) nearest = i;
  });
  return nearest;
}

// Right 1, wrong 0, NaN where either class is unknown, or the sample has no label.
function isRight(run, epoch, sample) {
  const at = epochOf(run, epoch);
  const predicted = at < 0 ? -1 : predictionOf(run, at, sample);
  const labels = [page.labels[sample] ?? []].flat();
  return predicted < 0 || !labels.length ? NaN : Number(labels.includes(predicted));
}

// Its place in `page.metrics`, -1 where it is in no epoch.
function metricCalled(wanted) {
  return page.metrics.findIndex(({ name }) => name === wanted);
}

function confidenceOf(run, epoch, sample) {
  const confidence = metricCalled("confidence");
  return confidence < 0 ? NaN : metricValue(confidence, run, epoch, sample);
}

// ---- Order and filters

const finite = (values) => values.filter(Number.isFinite);
const largest = (values) => (values.length ? Math.max(...values) : NaN);
const allRuns = () => page.names.map((_, run) => run);

// How much heat was lost, by what `page.loss` says; of the run that lost most.
function lossOf(sample) {
  const { name } = page.loss;
  const metric = metricCalled(name);
  return largest(
    finite(
      allRuns().map((run) => {
        const at = epochOf(run, state.epoch);
        if (at < 0) return NaN;
        const now = metricValue(metric, run, at, sample);
        if (name === "first_drift") return now;
        const before = finite(page.epochs.slice(0, at + 1).map((_, epoch) => metricValue(metric, run, epoch, sample)));
        return name === "energy_in_region" ? largest(before) - now : now - before[0];
      }),
    ),
  );
}

// Samples that more runs get wrong come first; of as many, those on whose wrong class, or least on the right one,
// the runs are surest.
function errorOf(sample) {
  const known = allRuns().filter((run) => Number.isFinite(isRight(run, state.epoch, sample)));
  if (!known.length) return NaN;
  const wrong = known.filter((run) => !isRight(run, state.epoch, sample));
  const sure = finite((wrong.length ? wrong : known).map((run) => confidenceOf(run, epochOf(run, state.epoch), sample)));
  const mean = sure.length ? sure.reduce((a, b) => a + b) / sure.length : 0.5;
  return wrong.length + (wrong.length ? mean : 1 - mean) / 2;
}

function valueForOrder(order, sample) {
  if (order === "logged") return -sample;
  if (order === "disagreement") return page.disagreement[sample] ?? NaN;
  if (order === "now") return 1 - meanAgreement(state.epoch, sample);
  if (order === "loss") return lossOf(sample);
  if (order === "error") return errorOf(sample);
  const metric = metricCalled(order.slice("metric ".length));
  return largest(
    finite(allRuns().map((run) => (epochOf(run, state.epoch) < 0 ? NaN : metricValue(metric, run, epochOf(run, state.epoch), sample)))),
  );
}

function sorted() {
  const order = byId("order").value;
  const turn = byId("reverse").getAttribute("aria-pressed") === "true" ? -1 : 1;
  const samples = page.keys.map((_, sample) => sample);
  if (order === "key") {
    const compare = new Intl.Collator("en", { numeric: true }).compare;
    return samples.sort((a, b) => turn * compare(page.keys[a], page.keys[b]) || a - b);
  }
  const values = samples.map((sample) => valueForOrder(order, sample));
  // Where there is no number, a sample stands last in either direction.
  return samples.sort((a, b) => {
    if (Number.isNaN(values[a]) || Number.isNaN(values[b])) return Number.isNaN(values[a]) - Number.isNaN(values[b]) || a - b;
    return turn * (values[b] - values[a]) || a - b;
  });
}

function passes(sample) {
  const known = finite(allRuns().map((run) => isRight(run, state.epoch, sample)));
  const wanted = byId("outcome").value;
  const predicted = allRuns().map((run) => [run, epochOf(run, state.epoch)]).filter(([, at]) => at >= 0).map(([run, at]) => predictionOf(run, at, sample));
  if (wanted === "any" && !known.includes(0)) return false;
  if (wanted === "all" && (!known.length || known.includes(1))) return false;
  if (wanted === "right" && (!known.length || known.includes(0))) return false;
  if (wanted === "differ" && new Set(predicted).size < 2) return false;
  const label = page.labels[sample];
  if (byId("class").value !== "" && ![label].flat().map(String).includes(byId("class").value)) return false;
  const text = byId("text").value.trim().toLowerCase();
  const names = [page.keys[sample], ...[label, ...predicted].flat().filter((index) => index !== null && index >= 0).map(className)];
  return !text || names.some((name) => name.toLowerCase().includes(text));
}

function aboutOrder(order) {
  const by = order === "loss" ? page.loss : page.metrics[metricCalled(order.slice("metric ".length))];
  return by ? `By ${by.name}: ${by.about}.` : "";
}

function arrange() {
  const order = sorted().filter(passes);
  const body = byId("samples");
  const kept = document.activeElement;
  body.replaceChildren(...order.map((sample) => rows[sample].row));
  if (kept?.isConnected && kept !== document.activeElement) kept.focus();
  byId("count").textContent = `${order.length} of ${page.keys.length} samples`;
  byId("none").hidden = order.length > 0;
  byId("order-about").textContent = aboutOrder(byId("order").value);
}

// ---- Rows and tiles

function makeTile(run, sample, side) {
  const tile = element("figure", "tile");
  const canvas = element("canvas");
  canvas.setAttribute("role", "img");
  const { width, height } = page.images[sample];
  canvas.style.aspectRatio = `${width} / ${height}`;
  [canvas.width, canvas.height] = [1, 1];
  const note = element("span", "note");
  const frame = element("div", "frame");
  frame.append(canvas, note);
  const caption = element("figcaption");
  const name = element("span", "run");
  name.append(swatch(run), isolated(page.names[run]));
  const mark = element("span", "mark");
  const detail = element("span", "detail");
  caption.append(name, mark, detail);
  tile.append(frame, caption);
  return { tile, canvas, note, mark, detail, run, sample, side, visible: false };
}

function describe(tile) {
  const { run, sample } = tile;
  const at = epochOf(run, state.epoch);
  const right = isRight(run, state.epoch, sample);
  const dead = at >= 0 && !(topOf(run, at, sample) > 0);
  const predicted = at < 0 ? -1 : predictionOf(run, at, sample);
  const sure = at < 0 ? NaN : confidenceOf(run, at, sample);
  const said = Number.isNaN(right) ? "" : right ? "✓ right: " : "✗ wrong: ";
  const what = predicted < 0 ? "" : className(predicted);
  tile.mark.className = `mark ${Number.isNaN(right) ? "" : right ? "right" : "wrong"}`;
  tile.mark.replaceChildren(said, isolated(what), Number.isFinite(sure) ? ` · ${Math.round(sure * 100)} %` : "");
  const late = at >= 0 && at < state.epoch;
  const lines = [];
  const energy = metricCalled("energy_in_region");
  if (energy >= 0 && at >= 0) {
    const share = metricValue(energy, run, at, sample);
    if (Number.isFinite(share)) lines.push(`energy_in_region ${share.toFixed(2)}`);
  }
  const agreed = page.names.length > 2 ? meanAgreement(state.epoch, sample, run) : NaN;
  if (Number.isFinite(agreed)) lines.push(`agreement ${agreed.toFixed(2)}`);
  tile.detail.title = energy < 0 ? "" : `energy_in_region: ${page.metrics[energy].about}`;
  tile.detail.textContent = lines.join(" · ");
  const notes = [];
  if (at < 0) notes.push("not logged yet");
  if (late) notes.push(`as of ${page.unit} ${page.epochs[at]}`);
  if (dead) notes.push("no heatmap");
  tile.note.textContent = notes.join(" · ");
  tile.tile.classList.toggle("late", late || at < 0);
  const view = look().view === "image" ? "image" : dead ? "image, no heatmap" : look().view;
  tile.canvas.setAttribute(
    "aria-label",
    `${page.names[run]}, ${page.keys[sample]}, ${page.unit} ${at < 0 ? "not logged yet" : page.epochs[at]}${sliceText(", ")}: ${view}${what ? `, predicted ${what}` : ""}`,
  );
}

function draw(tile) {
  return paint(tile.canvas, tile.run, epochOf(tile.run, state.epoch), tile.sample, tile.side, look());
}

const tileWatcher = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      for (const tile of rows[target.dataset.sample].tiles) {
        tile.visible = isIntersecting;
        if (isIntersecting) draw(tile);
      }
    }
  },
  { rootMargin: "300px" },
);

function makeRow(sample) {
  const row = element("tr", "sample");
  row.setAttribute("role", "row");
  row.dataset.sample = sample;
  row.dataset.key = page.keys[sample];
  const head = element("th");
  head.scope = "row";
  head.setAttribute("role", "rowheader");
  const image = element("img", "thumb");
  image.src = page.images[sample].thumb ?? page.images[sample].source;
  image.alt = "";
  image.loading = "lazy";
  const button = element("button", "key");
  button.type = "button";
  button.append(isolated(page.keys[sample]));
  button.title = "Larger pictures and charts of this sample";
  button.setAttribute("aria-haspopup", "dialog");
  const words = element("div", "words");
  const truth = element("span", "truth");
  if (page.labels[sample] !== null) truth.append("true class: ", isolated(className(page.labels[sample])));
  const agreement = element("span", "agreement");
  words.append(button, truth, agreement);
  head.append(...(page.kind === "signal" ? [] : [image]), words); // A line so small can't be read.
  row.append(head);
  const tiles = page.names.map((_, run) => {
    const tile = makeTile(run, sample, GRID_SIDE);
    const cell = element("td");
    cell.setAttribute("role", "cell");
    cell.append(tile.tile);
    row.append(cell);
    return tile;
  });
  row.addEventListener("click", () => openSample(sample));
  rows[sample] = { row, tiles, agreement, button };
}

function shownTiles() {
  return [...rows.flatMap(({ tiles }) => tiles), ...dialogTiles];
}

function update() {
  const step = page.epochs[state.epoch];
  for (const slider of document.querySelectorAll("input.epoch")) {
    slider.value = state.epoch;
    slider.setAttribute("aria-valuetext", `${page.unit} ${step}`);
  }
  for (const text of document.querySelectorAll(".step")) text.textContent = step;
  for (const slider of document.querySelectorAll("input.slice")) {
    slider.value = state.slice;
    slider.setAttribute("aria-valuetext", sliceText());
  }
  for (const text of document.querySelectorAll(".at")) text.textContent = page.slices.numbers[state.slice];
  rows.forEach(({ agreement }, sample) => {
    const agreed = meanAgreement(state.epoch, sample);
    const since = page.parted[sample];
    const lines = [Number.isFinite(agreed) ? `agreement ${agreed.toFixed(2)}` : ""];
    if (since !== null) lines.push(`apart from ${page.unit} ${since} on`);
    agreement.textContent = page.pairs.length ? lines.filter(Boolean).join("; ") : "";
  });
  for (const tile of shownTiles()) {
    describe(tile);
    if (tile.visible) draw(tile);
  }
  clearTimeout(state.later);
  state.later = setTimeout(() => {
    refreshCharts(false);
    if (!state.playing) byId("said").textContent = `Epoch ${step}. ${byId("count").textContent}.`;
  }, 150);
}

function sliceText(lead = "") {
  return page.slices ? `${lead}${page.slices.axis} ${page.slices.numbers[state.slice]}` : "";
}

function setSlice(slice) {
  state.slice = slice;
  update();
}

function setEpoch(epoch, settled = true) {
  state.epoch = Math.min(page.epochs.length - 1, Math.max(0, epoch));
  update();
  // Rows stay where they are while pictures move.
  if (settled && !state.playing) arrange();
}

// ---- Play

function pause() {
  clearInterval(state.playing);
  state.playing = 0;
  for (const button of document.querySelectorAll(".play")) {
    button.textContent = "▶";
    button.setAttribute("aria-label", "Play the epochs");
  }
  arrange();
  update();
}

function play() {
  clearInterval(state.playing);
  const last = () => page.epochs.length - 1;
  if (state.epoch === last()) setEpoch(0, false);
  for (const button of document.querySelectorAll(".play")) {
    button.textContent = "❚❚";
    button.setAttribute("aria-label", "Pause");
  }
  state.playing = setInterval(() => {
    setEpoch(state.epoch + 1, false);
    if (state.epoch === last()) pause();
  }, 1000 / Number(byId("speed").value));
}

// ---- One sample

const dialog = byId("dialog");
let dialogTiles = [];

function openSample(sample) {
  state.sample = sample;
  byId("dialog-title").replaceChildren(isolated(page.keys[sample]));
  const label = page.labels[sample];
  byId("dialog-truth").replaceChildren(...(label === null ? [] : ["true class: ", isolated(className(label))]));
  dialogTiles = page.names.map((_, run) => ({ ...makeTile(run, sample, DIALOG_SIDE), visible: true }));
  byId("dialog-tiles").replaceChildren(...dialogTiles.map(({ tile }) => tile));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  removeCharts(byId("dialog-charts"));
  showSampleCharts(byId("dialog-charts"), sample);
  update();
}

function step(by) {
  const order = [...byId("samples").children].map((row) => Number(row.dataset.sample));
  const place = order.indexOf(state.sample);
  openSample(order[(place + by + order.length) % order.length] ?? state.sample);
}

dialog.addEventListener("close", () => {
  dialogTiles = [];
  byId("dialog-tiles").replaceChildren();
  removeCharts(byId("dialog-charts"));
  rows[state.sample].button.focus();
});
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // The dark around it.
});
