// Charts: made when they are looked at, by plotly, which is unpacked when the first one is.
"use strict";

// Okabe and Ito's colours, those first that stand out from the page; dashes and markers say the same without colour.
const COLOURS = {
  light: ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"],
  dark: ["#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#FFFFFF"],
};
const DASHES = ["solid", "8px,4px", "2px,3px", "10px,3px,2px,3px", "14px,4px", "5px,5px"];
const MARKERS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down"];
const SHAPES = ["●", "■", "◆", "▲", "✚", "✖", "▼"];
const charts = new Set();
let plotlyLoaded = null;

function isDark() {
  const theme = document.documentElement.dataset.theme;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function colourOf(place) {
  const colours = COLOURS[isDark() ? "dark" : "light"];
  return colours[place % colours.length];
}

// Plotly reads some HTML in its texts.
function defused(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replace(/\s+/g, " ");
}

function idle() {
  return new Promise((resolve) => (window.requestIdleCallback ?? setTimeout)(resolve, { timeout: 2000 }));
}

function loadPlotly() {
  plotlyLoaded ??= (async () => {
    await idle(); // It takes a moment, and pictures come first.
    const packed = document.getElementById("plotly");
    const script = document.createElement("script");
    if (packed.dataset.source) {
      const loaded = new Promise((resolve) => script.addEventListener("load", resolve));
      script.src = packed.dataset.source;
      document.head.append(script);
      await loaded;
    } else {
      script.textContent = new TextDecoder().decode(await inflate(packed.textContent));
      document.head.append(script);
      packed.remove();
    }
    return window.Plotly;
  })();
  return plotlyLoaded;
}

function layoutOf(chart) {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink").trim();
  const line = style.getPropertyValue("--line").trim();
  const paper = style.getPropertyValue("--paper").trim();
  const axis = { gridcolor: line, linecolor: line, zeroline: false, automargin: true, fixedrange: true };
  return {
    autosize: true,
    height: 190,
    margin: { l: 40, r: 10, t: 8, b: 36 },
    showlegend: false,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink, size: 13, family: style.fontFamily },
    hovermode: "x unified",
    hoverlabel: { bgcolor: paper, bordercolor: line, font: { color: ink }, namelength: 40 },
    xaxis: { ...axis, title: { text: page.unit, standoff: 4 }, tickformat: "d", nticks: 8, range: spanOf(chart.epochs) },
    yaxis: { ...axis, nticks: 5, tickformat: "~g", rangemode: chart.series.some((s) => s.y.some((v) => v < 0)) ? "normal" : "tozero" },
    shapes: [marker()],
  };
}

function spanOf(epochs) {
  const margin = Math.max(0.5, (epochs.at(-1) - epochs[0]) / 30);
  return [epochs[0] - margin, epochs.at(-1) + margin];
}

function marker() {
  const x = page.epochs[state.epoch];
  const color = getComputedStyle(document.documentElement).getPropertyValue("--soft").trim();
  return { type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line: { color, width: 2, dash: "dot" } };
}

function tracesOf(chart) {
  return chart.series.map(({ name, y, place }) => ({
    type: "scatter",
    mode: "lines+markers",
    name: defused(name),
    x: chart.epochs,
    y: y.map((value) => (Number.isFinite(value) ? value : null)),
    connectgaps: true,
    line: { color: colourOf(place), dash: DASHES[place % DASHES.length], width: chart.epochs.length > 60 ? 1.5 : 2.5 },
    marker: { symbol: MARKERS[place % MARKERS.length], size: 8, maxdisplayed: 16 },
    hovertemplate: "%{y:.3~g}",
  }));
}

async function drawChart(chart) {
  const plotly = await loadPlotly();
  if (!chart.plot.isConnected) return;
  const options = { displayModeBar: false, displaylogo: false, responsive: true };
  await plotly.react(chart.plot, tracesOf(chart), layoutOf(chart), options);
  if (!chart.made) chart.plot.on("plotly_click", (event) => setEpoch(nearestEpoch(event.points[0].x)));
  chart.made = true;
}

const chartWatcher = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      const chart = [...charts].find((each) => each.plot === target);
      if (!chart) continue;
      chart.visible = isIntersecting;
      if (isIntersecting && (!chart.made || chart.stale)) {
        chart.stale = false;
        drawChart(chart);
      }
    }
  },
  { rootMargin: "100px" },
);

// Figures with a heading, what the number means, and the chart; those that are there are drawn anew.
function showCharts(parent, wanted) {
  if (!plotlyLoaded && !document.getElementById("plotly")) return; // The page says what is missing.
  wanted.forEach(({ label, about, epochs, series }, place) => {
    let chart = [...charts].find((each) => each.parent === parent && each.label === label);
    if (!chart) {
      const figure = element("figure", "chart");
      const plot = element("div", "plot");
      plot.setAttribute("role", "img");
      figure.append(element("h3", "", label), element("p", "", about), plot);
      parent.insertBefore(figure, parent.children[place] ?? null);
      chart = { parent, label, plot, made: false, visible: false, stale: false };
      charts.add(chart);
      chartWatcher.observe(plot);
    }
    Object.assign(chart, { epochs, series });
    const last = series.map(({ name, y }) => `${name} ${shortNumber(y.filter(Number.isFinite).at(-1))}`);
    chart.plot.setAttribute("aria-label", `${label} over the epochs, at the end: ${last.join(", ")}`);
    if (chart.made && chart.visible) drawChart(chart);
    else if (chart.made) chart.stale = true;
  });
}

function removeCharts(parent) {
  for (const chart of charts) {
    if (!parent.contains(chart.plot)) continue;
    chartWatcher.unobserve(chart.plot);
    charts.delete(chart);
    if (chart.made) window.Plotly.purge(chart.plot);
  }
  parent.replaceChildren();
}

// After a change of the theme all of them, else the line at the epoch.
function refreshCharts(all) {
  for (const chart of charts) {
    if (!chart.made) continue;
    if (!chart.visible) chart.stale = true;
    else if (all) drawChart(chart);
    else window.Plotly.relayout(chart.plot, { shapes: [marker()] });
  }
}

// The runs' names with their colours, dashes and markers.
function addKey(parent) {
  page.names.forEach((name, run) => {
    const item = document.createElement("li");
    item.append(swatch(run), isolated(name));
    parent.append(item);
  });
}

function swatch(place) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 36 14");
  svg.setAttribute("class", "swatch");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(svg.namespaceURI, "line");
  for (const [name, value] of [["x1", 0], ["x2", 36], ["y1", 7], ["y2", 7]]) line.setAttribute(name, value);
  const dash = DASHES[place % DASHES.length];
  if (dash !== "solid") line.setAttribute("stroke-dasharray", dash.replaceAll("px", ""));
  const text = document.createElementNS(svg.namespaceURI, "text");
  text.setAttribute("x", 18);
  text.setAttribute("y", 12);
  text.textContent = SHAPES[place % SHAPES.length];
  svg.append(line, text);
  svg.dataset.place = place;
  svg.style.color = colourOf(place);
  return svg;
}

function recolourSwatches() {
  for (const svg of document.querySelectorAll(".swatch")) svg.style.color = colourOf(Number(svg.dataset.place));
}

const NEUTRAL = 6; // Black or white: of two runs the agreement is neither's.

// `agreementAt(pair, i)` is a pair's agreement at epochs[i]. Of more than two runs each is compared with all others.
function agreementChart(epochs, agreementAt) {
  if (!page.pairs.length) return [];
  const average = (pairs, i) => {
    const known = pairs.map((pair) => agreementAt(pair, i)).filter(Number.isFinite);
    return known.length ? known.reduce((a, b) => a + b) / known.length : NaN;
  };
  const line = (name, place, pairs) => ({ name, place, y: epochs.map((_, i) => average(pairs, i)) });
  const all = page.pairs.map((_, pair) => pair);
  const several = page.names.length > 2;
  const series = several
    ? page.names.map((name, run) => line(name, run, all.filter((pair) => page.pairs[pair].includes(run))))
    : [line(page.names.join(" and "), NEUTRAL, all)];
  const about = `how alike the heatmaps of ${several ? "each run and the others" : "both runs"} are: 1 is the same place, 0 an unrelated one`;
  return [{ label: "agreement", about, epochs, series }];
}

function numberCharts(epochs, numbers, valueAt) {
  return numbers
    .map(({ name: label, about }, number) => {
      const series = page.names.map((name, place) => ({ name, place, y: epochs.map((_, i) => valueAt(number, place, i)) }));
      return { label, about, epochs, series: series.filter(({ y }) => y.some(Number.isFinite)) };
    })
    .filter(({ series }) => series.length);
}

function showRunCharts(parent) {
  const epochs = page.allEpochs;
  const means = epochs.map((step) => page.means.get(step));
  showCharts(parent, [
    ...agreementChart(epochs, (pair, i) => means[i].pairs[pair] ?? NaN),
    ...numberCharts(epochs, page.charts, (number, run, i) => means[i][`number ${page.charts[number].name}`]?.[run] ?? NaN),
  ]);
}

function showSampleCharts(parent, sample) {
  const epochs = page.epochs;
  showCharts(parent, [
    ...agreementChart(epochs, (pair, i) => agreementOf(pair, i, sample)),
    ...numberCharts(epochs, page.metrics, (metric, run, i) => metricValue(metric, run, i, sample)),
  ]);
}
