// What is shown: arrays out of what has arrived, and pictures out of them: levels, colours, overlays.
"use strict";

// Numbers of each sample by step in `columns`, means in `means`; heatmaps by run and step in `maps`.
const page = { epochs: [], allEpochs: [], metrics: [], charts: [], shapes: [], columns: new Map(), means: new Map(), maps: new Map() };
const KINDS = { uint8: Uint8Array, uint16: Uint16Array, int32: Int32Array, float32: Float32Array, float64: Float64Array };
const MISSING = 65535; // of a number that was stored in 16 bits
const pixelCache = new Map();
const imageCache = new Map();
const axisCache = new Map();

async function inflate(base64) {
  const text = atob(base64);
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < packed.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

async function unpack(array) {
  return new KINDS[array.kind](await inflate(array.data));
}

const columnAt = (epoch) => page.columns.get(page.epochs[epoch]);
const mapName = (run, step) => `${run} ${step}`;

// A number of one sample, NaN where there is none.
function metricValue(metric, run, epoch, sample) {
  const numbers = columnAt(epoch).numbers.get(page.metrics[metric].name);
  const code = numbers ? numbers.codes[run * page.keys.length + sample] : MISSING;
  return code === MISSING ? NaN : numbers.low + (code / (MISSING - 1)) * (numbers.high - numbers.low);
}

function agreementOf(pair, epoch, sample) {
  const code = columnAt(epoch).agreements[pair * page.keys.length + sample];
  return code === MISSING ? NaN : (code / (MISSING - 1)) * 2 - 1;
}

// The mean over the pairs of all runs, or of those with one run.
function meanAgreement(epoch, sample, run = -1) {
  const seen = page.pairs
    .map((pair, i) => (run < 0 || pair.includes(run) ? agreementOf(i, epoch, sample) : NaN))
    .filter(Number.isFinite);
  return seen.length ? seen.reduce((a, b) => a + b) / seen.length : NaN;
}

// Where the run's numbers of this epoch are, else those of its last earlier epoch; -1 where there is none.
function epochOf(run, epoch) {
  while (epoch >= 0 && !columnAt(epoch).has[run]) epoch--;
  return epoch;
}

function predictionOf(run, epoch, sample) {
  return columnAt(epoch).predictions[run * page.keys.length + sample];
}

// The largest value of a map in its own unit; 0 where the map explains nothing.
function topOf(run, epoch, sample) {
  return columnAt(epoch).tops[run * page.keys.length + sample];
}

function largestTop(sample) {
  let top = 0;
  for (let run = 0; run < page.names.length; run++)
    for (let epoch = 0; epoch < page.epochs.length; epoch++) top = Math.max(top, topOf(run, epoch, sample));
  return top;
}

// What is drawn as 1.
function scaleOf(scale, run, epoch, sample) {
  if (scale === "map") return topOf(run, epoch, sample);
  return scale === "sample" ? page.sampleTops[sample] : page.topOfAll;
}

// The map's levels in [0, 1], out of the run's maps of that epoch; null where it explains nothing.
function levelsOf(maps, run, epoch, sample, scale) {
  const shape = page.shapes[run];
  const [height, width] = shape.length === 1 ? [1, shape[0]] : shape.slice(-2);
  const top = topOf(run, epoch, sample);
  if (!(top > 0)) return null;
  const size = shape.reduce((all, side) => all * side, 1);
  const start = sample * size;
  const gain = top / scaleOf(scale, run, epoch, sample) / 255;
  const levels = new Float32Array(height * width);
  if (shape.length < 3) {
    for (let i = 0; i < size; i++) levels[i] = Math.min(1, maps[start + i] * gain);
    return { levels, height, width };
  }
  // Linear between the two cells next to the slice.
  const { numbers, count } = page.slices;
  const place = Math.min(shape[0] - 1, Math.max(0, ((numbers[state.slice] + 0.5) * shape[0]) / count - 0.5));
  const first = start + Math.floor(place) * levels.length;
  const second = start + Math.min(shape[0] - 1, Math.floor(place) + 1) * levels.length;
  const share = place - Math.floor(place);
  for (let i = 0; i < levels.length; i++)
    levels[i] = Math.min(1, (maps[first + i] * (1 - share) + maps[second + i] * share) * gain);
  return { levels, height, width };
}

// For each of `to` pixels: its two neighbours among `from`, and the share of the second.
function axis(from, to) {
  const name = `${from}>${to}`;
  if (!axisCache.has(name)) {
    const first = new Uint16Array(to);
    const second = new Uint16Array(to);
    const share = new Float32Array(to);
    for (let i = 0; i < to; i++) {
      const place = Math.min(from - 1, Math.max(0, ((i + 0.5) * from) / to - 0.5));
      first[i] = Math.floor(place);
      second[i] = Math.min(from - 1, first[i] + 1);
      share[i] = place - first[i];
    }
    axisCache.set(name, { first, second, share });
  }
  return axisCache.get(name);
}

// Bilinear, pixels being squares with their value in the middle.
function resized(map, height, width) {
  const rows = axis(map.height, height);
  const columns = axis(map.width, width);
  const result = new Float32Array(height * width);
  const line = new Float32Array(map.width);
  for (let y = 0; y < height; y++) {
    const above = rows.first[y] * map.width;
    const below = rows.second[y] * map.width;
    for (let x = 0; x < map.width; x++)
      line[x] = map.levels[above + x] * (1 - rows.share[y]) + map.levels[below + x] * rows.share[y];
    for (let x = 0; x < width; x++) {
      const left = line[columns.first[x]];
      result[y * width + x] = left + (line[columns.second[x]] - left) * columns.share[x];
    }
  }
  return result;
}

// Width and height of a sample's picture with a longer side of at least `side`.
function sizeOf(sample, side) {
  const { width, height } = page.images[sample];
  const factor = Math.max(1, side / Math.max(width, height));
  return [Math.max(1, Math.round(width * factor)), Math.max(1, Math.round(height * factor))];
}

function decoded(sample, part) {
  const name = `${sample} ${part}`;
  if (!imageCache.has(name)) {
    const image = new Image();
    image.src = page.images[sample][part];
    imageCache.set(name, image.decode().then(() => image));
    if (imageCache.size > 100) imageCache.delete(imageCache.keys().next().value);
  }
  return imageCache.get(name);
}

// A sample's picture, or its ink, which is drawn over the heat.
async function pixelsOf(sample, width, height, part = "source") {
  const name = `${sample} ${width} ${height} ${part} ${page.slices ? state.slice : ""}`;
  if (!pixelCache.has(name)) {
    const slice = state.slice;
    const read = async () => {
      const image = await decoded(sample, part);
      const canvas = document.createElement("canvas");
      canvas.width = width;
      canvas.height = height;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.imageSmoothingQuality = "high";
      if (page.slices) {
        const { columns, width: across, height: down } = page.images[sample];
        const [x, y] = [(slice % columns) * across, Math.floor(slice / columns) * down];
        context.drawImage(image, x, y, across, down, 0, 0, width, height);
      } else context.drawImage(image, 0, 0, width, height);
      return context.getImageData(0, 0, width, height).data;
    };
    pixelCache.set(name, read());
    if (pixelCache.size > 200) pixelCache.delete(pixelCache.keys().next().value);
  }
  return pixelCache.get(name);
}

function outline(context, shapes, width, height) {
  const thick = Math.max(1.5, Math.max(width, height) / 110);
  for (const [colour, line] of [["#000", thick * 2], ["#fff", thick]]) {
    context.strokeStyle = colour;
    context.lineWidth = line;
    context.setLineDash(colour === "#fff" ? [thick * 3, thick * 2] : []);
    for (const shape of shapes) {
      context.beginPath();
      for (const [x, y] of shape) context.lineTo(x * width, y * height);
      context.closePath();
      context.stroke();
    }
  }
}

// Draws one map on its image. `epoch` is one that the run has. Returns whether there was a heatmap to draw.
async function paint(canvas, run, epoch, sample, side, look) {
  const [width, height] = sizeOf(sample, side);
  const wanted = (canvas.wanted = (canvas.wanted ?? 0) + 1);
  const image = await pixelsOf(sample, width, height);
  const maps = epoch < 0 ? null : await mapsOf(run, page.epochs[epoch]);
  const ink = page.images[sample].ink ? await pixelsOf(sample, width, height, "ink") : null;
  if (canvas.wanted !== wanted) return; // A later call has overtaken this one.
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d", { willReadFrequently: true }); // Kept where the numbers are.
  const drawn = context.createImageData(width, height);
  const map = maps && levelsOf(maps, run, epoch, sample, look.scale);
  drawn.data.set(image);
  if (look.view !== "image" && map) {
    // Beside and below a signal's ground there is no heat.
    const [left, top, right, bottom] = (page.images[sample].box ?? [0, 0, 1, 1]).map((share, i) => Math.round(share * (i % 2 ? height : width)));
    const across = right - left;
    const level = resized(map, bottom - top, across);
    const colours = page.palettes[look.colormap];
    const alpha = look.view === "heatmap" ? 1 : look.alpha;
    for (let i = 0; i < level.length; i++) {
      const at = 4 * ((top + Math.floor(i / across)) * width + left + (i % across));
      const tone = Math.round(level[i] * 255) * 3;
      for (let c = 0; c < 3; c++)
        drawn.data[at + c] = image[at + c] * (1 - alpha) + colours[tone + c] * alpha; // It rounds.
    }
  } else if (look.view === "heatmap" || epoch < 0) {
    drawn.data.fill(225);
    for (let at = 3; at < drawn.data.length; at += 4) drawn.data[at] = 255;
  }
  for (let at = 0; ink && at < ink.length; at += 4) {
    const cover = ink[at + 3] / 255;
    for (let c = 0; c < 3; c++) drawn.data[at + c] = drawn.data[at + c] * (1 - cover) + ink[at + c] * cover;
  }
  context.putImageData(drawn, 0, 0);
  const shapes = page.slices ? page.regions[sample]?.[state.slice] : page.regions[sample];
  if (look.regions && shapes && epoch >= 0) outline(context, shapes, width, height);
  canvas.dataset.slice = page.slices ? page.slices.numbers[state.slice] : "";
  canvas.dataset.epoch = epoch < 0 ? "" : page.epochs[epoch];
}

// What stays the same: names, samples and their pictures, colours.
async function unpackHead(head) {
  Object.assign(page, head);
  page.palettes = {};
  for (const [name, array] of Object.entries(page.colormaps)) page.palettes[name] = await unpack(array);
}

// Numbers of epochs: of all of them, or of those that are new since the last time.
async function unpackBlock(block) {
  const [runs, samples, count] = [page.names.length, page.keys.length, block.epochs.length];
  const arrays = [block.predicted, block.maxima, block.agreement, block.values, block.scalars];
  const [predictions, tops, agreements, codes, means] = await Promise.all(arrays.map(unpack));
  // Out of (rows, epochs, samples), from the row `first` on: those of one epoch.
  const part = (array, place, rows, first = 0) => {
    const made = new array.constructor(rows * samples);
    for (let row = 0; row < rows; row++) {
      const start = ((first + row) * count + place) * samples;
      made.set(array.subarray(start, start + samples), row * samples);
    }
    return made;
  };
  block.epochs.forEach((step, place) => {
    const numbers = new Map();
    block.metrics.forEach(({ name, range: [low, high] }, metric) => {
      numbers.set(name, { low, high, codes: part(codes, place, runs, metric * runs) });
    });
    page.columns.set(step, {
      has: block.has.map((of) => of[place]),
      predictions: part(predictions, place, runs),
      tops: part(tops, place, runs),
      agreements: part(agreements, place, page.pairs.length),
      numbers,
    });
  });
  block.allEpochs.forEach((step, place) => {
    const of = { pairs: block.pairMeans.map((row) => row[place]) };
    block.charts.forEach(({ name }, chart) => {
      of[`number ${name}`] = page.names.map((_, run) => means[(chart * runs + run) * block.allEpochs.length + place]);
    });
    page.means.set(step, of);
  });
  const sorted = (map) => [...map.keys()].sort((a, b) => a - b);
  [page.epochs, page.allEpochs] = [sorted(page.columns), sorted(page.means)];
  for (const name of ["metrics", "charts", "loss", "disagreement", "parted"]) page[name] = block[name];
  page.sampleTops = page.keys.map((_, sample) => largestTop(sample));
  page.topOfAll = Math.max(0, ...page.sampleTops);
}

// A file holds the heatmaps of all epochs.
async function unpackRuns(runs) {
  page.shapes = runs.map(({ shape }) => shape);
  for (const [run, { shape, maps }] of runs.entries()) {
    const all = await unpack(maps);
    const size = shape.reduce((product, side) => product * side, page.keys.length);
    page.epochs
      .filter((_, epoch) => columnAt(epoch).has[run])
      .forEach((step, i) => page.maps.set(mapName(run, step), all.subarray(i * size, (i + 1) * size)));
  }
}

let askMaps = null; // Where they are not all here, they are asked for.

// The maps of all samples; null where they can't be had.
async function mapsOf(run, step) {
  return page.maps.get(mapName(run, step)) ?? (askMaps ? askMaps(run, step) : null);
}
