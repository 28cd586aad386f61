// The panels: each draws what it is given on a canvas, in the colours of the page.
'use strict';

let colours = {}, tables = {};
const readColours = () => {
  const style = getComputedStyle(document.documentElement);
  for (const name of ['ink', 'faint', 'sheet', 'grid', 'blue', 'orange', 'green', 'red']) {
    colours[name] = style.getPropertyValue(`--${name}`).trim();
  }
  const {sheet, ink, blue, orange} = colours;
  tables = {signed: tableOf(blue, sheet, orange), grey: tableOf(sheet, ink), ground: tableOf(sheet, blue),
            pale: tableOf(mixedHex(sheet, blue, .62), sheet, mixedHex(sheet, orange, .62))};
};

const rgbOf = hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));
const between = (a, b, t) => a.map((v, i) => Math.round(v + (b[i] - v)*t));
const twoDigits = v => v.toString(16).padStart(2, '0');
const mixedHex = (a, b, t) => `#${between(rgbOf(a), rgbOf(b), t).map(twoDigits).join('')}`;
const tableOf = (...stops) => Uint32Array.from({length: 256}, (_, i) => {    // 256 colours from stop to stop
  const at = i/255*(stops.length - 1), from = Math.min(stops.length - 2, Math.floor(at));
  const [r, g, b] = between(rgbOf(stops[from]), rgbOf(stops[from + 1]), at - from);
  return 255 << 24 | b << 16 | g << 8 | r;
});

// A canvas of values, a pixel each, in the colours of a table from low to high; one of each name is enough
const sheets = new Map();
const sheetOf = (name, values, w, h, {table, low, high}) => {
  if (!sheets.has(name)) sheets.set(name, document.createElement('canvas'));
  const canvas = sheets.get(name);
  if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, {width: w, height: h});
  const ctx = canvas.getContext('2d'), image = ctx.createImageData(w, h), by = 255/(high - low);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < w*h; i++) {
    pixels[i] = table[Math.max(0, Math.min(255, Math.round((values[i] - low)*by)))];
  }
  ctx.putImageData(image, 0, 0);
  return canvas;
};

const short = v => {                        // a number as people write it
  if (!isFinite(v) || !v) return v === 0 ? '0' : '–';
  const size = Math.abs(v);
  return size >= 100 ? v.toFixed(0) : size >= 10 ? v.toFixed(1) : size >= 1 ? v.toFixed(2) : v.toFixed(3);
};

// A canvas of its place's size, drawn again when that or the theme changes
class Panel {
  constructor(canvas, draw) {
    Object.assign(this, {canvas, draw, due: false});
    new ResizeObserver(() => this.refresh()).observe(canvas);
  }
  refresh() {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => {
      this.due = false;
      const {canvas} = this, dots = Math.min(3, window.devicePixelRatio || 1);
      const width = canvas.clientWidth, height = canvas.clientHeight;
      if (!width || !height) return;
      const [w, h] = [width, height].map(v => Math.round(v*dots));
      if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, {width: w, height: h});
      const ctx = canvas.getContext('2d');
      ctx.setTransform(dots, 0, 0, dots, 0, 0);
      ctx.fillStyle = colours.sheet;        // on paper too, whatever its colour there
      ctx.fillRect(0, 0, width, height);
      ctx.font = '12px system-ui, sans-serif';
      this.draw(ctx, width, height);
    });
  }
}

const words = (ctx, text, x, y, given = {}) => {
  const {align = 'left', colour = colours.ink, base = 'alphabetic', turn = 0} = given;
  ctx.save();
  Object.assign(ctx, {textAlign: align, fillStyle: colour, textBaseline: base});
  ctx.translate(x, y);
  if (turn) ctx.rotate(turn);
  ctx.fillText(text, 0, 0);
  ctx.restore();
};

const line = (ctx, points, colour, {width = 1, dash = []} = {}) => {
  ctx.beginPath();
  ctx.setLineDash(dash);
  for (const [x, y] of points) ctx.lineTo(x, y);
  Object.assign(ctx, {strokeStyle: colour, lineWidth: width});
  ctx.stroke();
  ctx.setLineDash([]);
};

const dot = (ctx, x, y, r, colour, edge = colours.sheet) => {
  ctx.beginPath();
  ctx.arc(x, y, r, 0, 7);
  ctx.fillStyle = colour;
  ctx.fill();
  if (edge) { Object.assign(ctx, {strokeStyle: edge, lineWidth: 1.5}); ctx.stroke(); }
};

const ticks = (low, high, n = 5) => {       // round numbers
  const rough = (high - low)/n, size = 10**Math.floor(Math.log10(rough));
  const step = size*[1, 2, 5, 10].find(k => k*size >= rough), out = [];
  for (let v = Math.ceil(low/step)*step; v <= high + 1e-9; v += step) out.push(+v.toFixed(10));
  return out;
};

// Axes: places of values inside of a frame
const frame = (ctx, width, height, {x, y, xTitle, yTitle, left = 46, bottom = 36}) => {
  const box = {l: left, r: width - 14, t: 10, b: height - bottom};
  const px = v => box.l + (v - x[0])/(x[1] - x[0])*(box.r - box.l);
  const py = v => box.b - (v - y[0])/(y[1] - y[0])*(box.b - box.t);
  for (const v of ticks(...x)) {
    line(ctx, [[px(v), box.t], [px(v), box.b]], colours.grid);
    words(ctx, `${v}`, px(v), box.b + 15, {align: 'center', colour: colours.faint});
  }
  if (yTitle) for (const v of ticks(...y)) {
    line(ctx, [[box.l, py(v)], [box.r, py(v)]], colours.grid);
    words(ctx, `${v}`, box.l - 6, py(v), {align: 'right', base: 'middle', colour: colours.faint});
  }
  words(ctx, xTitle, (box.l + box.r)/2, height - 6, {align: 'center'});
  if (yTitle) words(ctx, yTitle, 12, (box.t + box.b)/2, {align: 'center', turn: -Math.PI/2});
  return {px, py, box};
};

// Prompted against achieved: the newest answer on or off the diagonal
const drawPrompts = (ctx, width, height, {tried, span, unit, best, start}) => {
  const titles = {xTitle: `asked for (${unit})`, yTitle: `got (${unit})`};
  const top = Math.max(span[1], start || 0, ...tried.slice(-1).map(([, got]) => Math.min(got, 1.3*span[1])));
  const {px, py, box} = frame(ctx, width, height, {x: [0, span[1]], y: [0, 1.04*top], ...titles});
  ctx.save();
  ctx.beginPath(); ctx.rect(box.l - 8, box.t - 8, box.r - box.l + 16, box.b - box.t + 16); ctx.clip();
  line(ctx, [[px(0), py(0)], [px(span[1]), py(span[1])]], colours.green, {width: 2});
  if (start !== null) line(ctx, [[box.l, py(start)], [box.r, py(start)]], colours.faint, {dash: [2, 4]});
  if (best) line(ctx, [[px(best), box.t], [px(best), box.b]], colours.faint, {dash: [6, 4]});
  tried.slice(0, -1).forEach(([asked, got]) => dot(ctx, px(asked), py(got), 3, colours.blue, null));
  const [asked, got] = tried[tried.length - 1], beyond = got > 1.04*top;
  dot(ctx, px(asked), beyond ? box.t + 7 : py(got), 7, colours.orange);
  ctx.restore();
  const pale = {align: 'right', colour: colours.faint};
  if (start !== null) words(ctx, 'the start', box.r - 4, py(start) - 4, pale);
  if (beyond) words(ctx, `↑ ${short(got)}`, px(asked) + 12, box.t + 11);
  if (best) words(ctx, 'best in training', px(best) + 5, box.t + 12, {colour: colours.faint});
};

// Columns and size of n cells, each so many times as high as wide
const gridFor = (n, width, height, ratio = 1) => {
  let best = {columns: 1, size: 0};
  for (let columns = 1; columns <= n; columns++) {
    const size = Math.min(width/columns, height/Math.ceil(n/columns)/ratio);
    if (size > best.size) best = {columns, size};
  }
  return best;
};

// What each hidden neuron looks for: its incoming weights as a picture
const drawWeights = (ctx, width, height, {row, inputs, hidden, image: [, h, w]}) => {
  const weights = row.subarray(0, inputs*hidden), sizes = weights.map(Math.abs).sort();
  const limit = sizes[Math.floor(.995*(sizes.length - 1))] || 1;
  const look = {table: tables.signed, low: -limit, high: limit};
  const all = sheetOf('weights', weights, w, h*hidden, look);
  const {columns, size} = gridFor(hidden, width, height), inner = size - 3, x0 = (width - columns*size)/2;
  ctx.imageSmoothingEnabled = false;
  for (let j = 0; j < hidden; j++) {
    const x = x0 + j%columns*size, y = Math.floor(j/columns)*size;
    ctx.drawImage(all, 0, j*h, w, h, x, y, inner, inner);
    Object.assign(ctx, {strokeStyle: colours.grid, lineWidth: 1});
    ctx.strokeRect(x + .5, y + .5, inner - 1, inner - 1);
  }
};

// Input pictures with words below; wrong ones are crossed, and red
const drawPictures = (ctx, width, height, {name, pictures, image: [, h, w], most, letters}) => {
  const ratio = letters > 3 ? 1.45 : 1.4, {columns, size} = gridFor(pictures.length, width, height, ratio);
  const x0 = (width - columns*size)/2, inner = size - 6, pixels = new Float32Array(w*h*pictures.length);
  pictures.forEach((picture, i) => pixels.set(picture.pixels, i*w*h));
  const all = sheetOf(name, pixels, w, h*pictures.length, {table: tables.grey, low: 0, high: most});
  ctx.imageSmoothingEnabled = false;
  pictures.forEach(({text, wrong, share}, i) => {
    const x = x0 + i%columns*size, y = Math.floor(i/columns)*size*ratio;
    ctx.drawImage(all, 0, i*h, w, h, x + 3, y, inner, inner);
    ctx.strokeStyle = wrong ? colours.red : colours.grid;
    ctx.strokeRect(x + 3.5, y + .5, inner - 1, inner - 1);
    const font = Math.max(8, Math.min(13, 1.75*size/Math.max(letters, 3)));
    ctx.font = `${font}px system-ui, sans-serif`;
    words(ctx, wrong ? `✗ ${text}` : text, x + size/2, y + inner + font + 1,
          {align: 'center', colour: wrong ? colours.red : colours.ink});
    if (share === undefined) return;
    ctx.fillStyle = colours.grid; ctx.fillRect(x + 3, y + inner + font + 5, inner, 4);
    ctx.fillStyle = colours.ink; ctx.fillRect(x + 3, y + inner + font + 5, inner*share, 4);
  });
};

// Bars: how sure of each class
const drawBars = (ctx, width, height, {names, shares}) => {
  const step = height/names.length, longest = Math.max(...names.map(name => ctx.measureText(name).width));
  const left = longest + 10, room = width - left - 44;
  const best = shares ? shares.indexOf(Math.max(...shares)) : -1;
  names.forEach((name, i) => {
    const y = (i + .5)*step, share = shares ? shares[i] : 0;
    words(ctx, name, longest + 4, y, {align: 'right', base: 'middle'});
    ctx.fillStyle = i === best ? colours.orange : colours.blue;
    ctx.fillRect(left, y - .3*step, Math.max(1, share*room), .6*step);
    if (!shares || share < .005) return;
    words(ctx, `${(100*share).toFixed(0)} %`, left + share*room + 5, y, {base: 'middle'});
  });
};

// The landscape: the bluer, the worse
const drawGround = (ctx, width, height, {ground, place, trail, minimize, names}) => {
  const pale = {align: 'center', colour: colours.faint};
  if (!ground) { words(ctx, 'mapping …', width/2, height/2, pale); return; }
  const {values, n, middle, half, corners} = ground, low = Math.min(...values), high = Math.max(...values);
  const steep = low > 0 && high/low > 20, as = v => steep ? Math.log10(v) : v;
  const share = v => (as(v) - as(low))/(as(high) - as(low) || 1);
  const side = Math.min(width, height), x0 = (width - side)/2, many = 84;
  const worse = v => minimize ? share(v) : 1 - share(v);
  ground.steps ||= smooth(values, n, many).map(v => .85*Math.floor(10*worse(v))/10);
  const look = {table: tables.ground, low: 0, high: 1};
  ctx.drawImage(sheetOf('ground', ground.steps, many, many, look), x0, 0, side, side);
  const at = ([x, y]) => [x0 + side*((x - middle[0])/half + 1)/2, side*(1 - ((y - middle[1])/half + 1)/2)];
  ctx.save();
  ctx.beginPath(); ctx.rect(x0, 0, side, side); ctx.clip();
  for (const p of trail) dot(ctx, ...at(p), 2.5, colours.ink, null);
  const hides = ([u, v], left, y, wide) => (   // would words above y be under that place's dot?
    u > left - 10 && u < left + wide + 10 && v < y && v > y - 34);
  const marks = [[corners[0], colours.green, names[0]], [corners[1], colours.red, names[1]]];
  for (const [p, colour, text] of marks) {
    const [x, y] = at(p);
    dot(ctx, x, y, 6, colour, colours.sheet);
    const align = x > x0 + .7*side ? 'right' : x < x0 + .3*side ? 'left' : 'center';
    const wide = ctx.measureText(text).width, left = x - wide*{left: 0, center: .5, right: 1}[align];
    const above = y > 30 && !(place && hides(at(place), left, y, wide));
    words(ctx, text, x, above ? y - 12 : y + 20, {align});
  }
  if (place) dot(ctx, ...at(place), 8, colours.orange, colours.ink);
  ctx.restore();
};

const smooth = (values, n, m) => {          // n × n, the first row below -> m × m, the first row above
  const out = new Float32Array(m*m), last = n - 1;
  for (let i = 0; i < m; i++) for (let j = 0; j < m; j++) {
    const y = (1 - i/(m - 1))*last, x = j/(m - 1)*last;
    const a = Math.min(last - 1, Math.floor(y)), b = Math.min(last - 1, Math.floor(x));
    const t = y - a, u = x - b, v = (p, q) => values[p*n + q];
    out[i*m + j] = (1 - t)*((1 - u)*v(a, b) + u*v(a, b + 1)) + t*((1 - u)*v(a + 1, b) + u*v(a + 1, b + 1));
  }
  return out;
};

// Many networks: a dot for each, stacked where they would cover each other
const drawDots = (ctx, width, height, {values, asked, title}) => {
  const low = Math.min(...values, asked), high = Math.max(...values, asked), pad = .06*(high - low) || .1;
  const axes = {x: [low - pad, high + pad], y: [0, 1], xTitle: title, left: 12};
  const {px, box} = frame(ctx, width, height, axes);
  const r = Math.min(5, (box.r - box.l)/90), stacks = new Map();
  const stackOf = v => Math.round((px(v) - box.l)/(2*r));
  for (const v of values) stacks.set(stackOf(v), (stacks.get(stackOf(v)) || 0) + 1);
  const apart = Math.min(2*r, (box.b - box.t - 2*r)/Math.max(1, Math.max(...stacks.values()) - 1));
  stacks.clear();
  line(ctx, [[px(asked), box.t], [px(asked), box.b]], colours.green, {width: 2, dash: [6, 4]});
  for (const v of [...values].sort((a, b) => a - b)) {
    const stack = stackOf(v), at = stacks.get(stack) || 0;
    stacks.set(stack, at + 1);
    dot(ctx, box.l + stack*2*r, box.b - r - at*apart, r, colours.orange, null);
  }
};
