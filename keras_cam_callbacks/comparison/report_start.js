// What happens on the page, and its beginning.
"use strict";

function addOption(select, value, text) {
  const option = element("option", "", text);
  option.value = value;
  select.append(option);
}

function fillOrders() {
  const several = page.names.length > 1;
  const order = byId("order");
  const chosen = order.value || (several ? "disagreement" : "logged");
  order.replaceChildren();
  addOption(order, "logged", "as logged");
  if (several) {
    addOption(order, "disagreement", "least agreement, all epochs");
    addOption(order, "now", "least agreement, this epoch");
  }
  if (page.loss) addOption(order, "loss", `heat lost (${page.loss.name})`);
  if (page.labels.some((label) => label !== null)) addOption(order, "error", "error, this epoch");
  addOption(order, "key", "key");
  const group = document.createElement("optgroup");
  group.label = "a number, this epoch";
  for (const { name } of page.metrics) addOption(group, `metric ${name}`, name);
  if (page.metrics.length) order.append(group);
  order.value = chosen;
  if (!order.value) order.value = "logged"; // What has gone with its run.
}

function fillChoices() {
  const several = page.names.length > 1;
  const known = page.labels.some((label) => label !== null);
  fillOrders();
  const outcome = byId("outcome");
  addOption(outcome, "", "all predictions");
  if (known) {
    addOption(outcome, "any", several ? "wrong in any run" : "wrong");
    if (several) addOption(outcome, "all", "wrong in all runs");
    addOption(outcome, "right", several ? "right in all runs" : "right");
  }
  if (several) addOption(outcome, "differ", "runs differ");

  addOption(byId("class"), "", "all classes");
  const labels = [...new Set(page.labels.flat())].filter((label) => label !== null).sort((a, b) => a - b);
  for (const label of labels) addOption(byId("class"), String(label), className(label));
  byId("class").closest("label").hidden = !known;
  byId("regions").closest("label").hidden = !page.regions.some(Boolean);
}

function drawKeys() {
  const colours = page.palettes[byId("colormap").value];
  const canvas = byId("ramp");
  const context = canvas.getContext("2d");
  const ramp = context.createImageData(256, 1);
  for (let i = 0; i < 256; i++) ramp.data.set([colours[3 * i], colours[3 * i + 1], colours[3 * i + 2], 255], 4 * i);
  context.putImageData(ramp, 0, 0);
  byId("ramp-top").textContent = {
    map: "most in this heatmap",
    sample: "most in this sample, all runs and epochs",
    all: `most of all: ${shortNumber(page.topOfAll)}`,
  }[byId("scale").value];
}

function fitSliders() {
  for (const slider of document.querySelectorAll("input.epoch")) slider.max = page.epochs.length - 1;
  for (const button of document.querySelectorAll(".play")) button.disabled = page.epochs.length < 2;
}

function listen() {
  for (const slider of document.querySelectorAll("input.epoch")) {
    slider.addEventListener("input", () => setEpoch(Number(slider.value), false));
    slider.addEventListener("change", () => setEpoch(Number(slider.value)));
  }
  for (const slider of document.querySelectorAll("input.slice")) {
    slider.addEventListener("input", () => setSlice(Number(slider.value)));
  }
  for (const button of document.querySelectorAll(".play")) {
    button.addEventListener("click", () => (state.playing ? pause() : play()));
  }
  byId("speed").addEventListener("change", () => state.playing && play());
  for (const input of document.querySelectorAll(".look input, .look select")) {
    input.addEventListener("input", () => {
      drawKeys();
      update();
    });
  }
  for (const id of ["order", "outcome", "class", "text"]) byId(id).addEventListener("input", arrange);
  byId("reverse").addEventListener("click", () => {
    const pressed = byId("reverse").getAttribute("aria-pressed") === "true";
    byId("reverse").setAttribute("aria-pressed", String(!pressed));
    arrange();
  });
  byId("reset").addEventListener("click", () => {
    for (const id of ["outcome", "class", "text"]) byId(id).value = "";
    arrange();
    byId("text").focus();
  });
  byId("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    repaint();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  byId("close").addEventListener("click", () => dialog.close());
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  // The slider takes the arrows where it has the focus; elsewhere they move it too, but not in other fields.
  document.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const modified = event.altKey || event.ctrlKey || event.metaKey || event.shiftKey;
    if (!by || modified || event.target.closest("input, select, textarea")) return;
    event.preventDefault();
    setEpoch(state.epoch + by);
  });
  byId("size").addEventListener("input", () => {
    document.documentElement.style.setProperty("--tile", `${byId("size").value}px`);
  });
  const bar = byId("bar");
  const measure = () => document.documentElement.style.setProperty("--bar", `${bar.offsetHeight}px`);
  new ResizeObserver(measure).observe(bar);
}

function repaint() {
  byId("theme").textContent = isDark() ? "Light" : "Dark";
  recolourSwatches();
  refreshCharts(true);
}

function addSwatches(part) {
  part.querySelectorAll("th[data-run]").forEach((head) => head.prepend(swatch(Number(head.dataset.run))));
}

// Shows what has arrived: `payload` is the head and the first block.
async function start(payload) {
  await unpackHead(payload);
  await unpackBlock(payload);
  if (payload.runs) await unpackRuns(payload.runs);
  Object.assign(state, { epoch: page.epochs.length - 1, slice: page.slices?.start ?? 0 });
  fillChoices();
  if (page.kind === "signal") byId("size").value = "340";
  document.documentElement.style.setProperty("--tile", `${byId("size").value}px`);
  page.keys.forEach((_, sample) => makeRow(sample));
  listen();
  fitSliders();
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) byId("speed").value = "1";
  if (matchMedia("(max-width: 700px), (max-height: 800px)").matches) document.querySelectorAll(".choices").forEach((each) => (each.open = false));
  if (matchMedia("(max-width: 700px)").matches) document.querySelector(".findings").open = false;
  document.querySelectorAll(".run-key").forEach(addKey);
  addSwatches(document);
  drawKeys();
  arrange();
  update();
  repaint();
  for (const { row } of rows) tileWatcher.observe(row);
  showRunCharts(byId("charts"));
  document.documentElement.classList.add("ready");
}

if (typeof DecompressionStream === "undefined") {
  byId("none").hidden = false;
  byId("none").textContent = "This page needs a browser of 2023 or later: Chrome or Edge 80, Firefox 113, Safari 16.4.";
} else if (byId("payload")) {
  start(JSON.parse(byId("payload").textContent));
}
