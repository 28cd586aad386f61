// Points of two classes on a plane, above what a network says of each place.
'use strict';

const PLANE_LIMIT = 1.4, MOST_DRAWN = 200, LEVELS = 4096;
const DIGITS64 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';

// Points in the address: twelve bits for each coordinate, circles before the dot, diamonds behind it
const levelOf = v => Math.min(LEVELS - 1, Math.max(0, Math.round((v/PLANE_LIMIT + 1)/2*(LEVELS - 1))));
const ofLevel = n => +((2*n/(LEVELS - 1) - 1)*PLANE_LIMIT).toFixed(4);
const settle = ([x, y, c]) => [ofLevel(levelOf(x)), ofLevel(levelOf(y)), c];
const textOfPoints = points => [0, 1].map(kind => points.filter(p => p[2] === kind).flatMap(([x, y]) => (
  [x, y].map(levelOf).map(n => DIGITS64[n >> 6] + DIGITS64[n & 63]))).join('')).join('.');
const pointsOfText = text => text.split('.').slice(0, 2).flatMap((part, kind) => {
  const n = [...part].map(c => Math.max(0, DIGITS64.indexOf(c))), level = i => ofLevel(64*n[i] + n[i + 1]);
  const firsts = [...Array(n.length >> 2).keys()].map(i => 4*i);
  return firsts.map(i => [level(i), level(i + 2), kind]);
}).slice(0, MOST_DRAWN);

const drawBorder = (ctx, plane, side) => {  // where the outputs are 0; places lie in the middle of cells
  const n = Math.round(Math.sqrt(plane.length)), step = side/n;
  const at = ([t, u], i, j) => [(j + .5 + t)*step, (i + .5 + u)*step];
  ctx.beginPath();
  for (let i = 0; i + 1 < n; i++) for (let j = 0; j + 1 < n; j++) {
    const k = i*n + j, [a, b, c, d] = [plane[k], plane[k + 1], plane[k + n], plane[k + n + 1]];
    const sides = [[a, b, t => [t, 0]], [a, c, t => [0, t]], [b, d, t => [1, t]], [c, d, t => [t, 1]]];
    const found = sides.filter(([p, q]) => p > 0 !== q > 0).map(([p, q, place]) => place(p/(p - q)));
    for (let m = 0; m + 1 < found.length; m += 2) {
      ctx.moveTo(...at(found[m], i, j));
      ctx.lineTo(...at(found[m + 1], i, j));
    }
  }
  Object.assign(ctx, {strokeStyle: colours.ink, lineWidth: 2});
  ctx.stroke();
};

const drawPoint = (ctx, x, y, kind) => {    // circles and diamonds
  const r = kind ? 7 : 5.5;
  ctx.beginPath();
  if (kind) for (const [dx, dy] of [[0, -r], [r, 0], [0, r], [-r, 0]]) ctx.lineTo(x + dx, y + dy);
  else ctx.arc(x, y, r, 0, 7);
  ctx.closePath();
  ctx.fillStyle = kind ? colours.orange : colours.blue;
  ctx.fill();
  Object.assign(ctx, {strokeStyle: colours.ink, lineWidth: 1});
  ctx.stroke();
};

const drawPlane = (ctx, width, height, {name = 'plane', plane, points, cross}) => {
  const side = Math.min(width, height);
  const px = x => (x/PLANE_LIMIT + 1)/2*side, py = y => (1 - y/PLANE_LIMIT)/2*side;
  ctx.save();
  ctx.translate((width - side)/2, 0);
  if (plane) {
    const n = Math.round(Math.sqrt(plane.length));
    const sure = plane.map(z => Math.tanh(z/2)), look = {table: tables.pale, low: -1, high: 1};
    ctx.drawImage(sheetOf(name, sure, n, n, look), 0, 0, side, side);
    drawBorder(ctx, plane, side);
  }
  Object.assign(ctx, {strokeStyle: colours.grid, lineWidth: 1});
  ctx.strokeRect(.5, .5, side - 1, side - 1);
  for (const [x, y, kind] of points) drawPoint(ctx, px(x), py(y), kind);
  if (cross) {
    const [x, y] = [px(cross[0]), py(cross[1])];
    line(ctx, [[x - 10, y], [x + 10, y]], colours.ink, {width: 2});
    line(ctx, [[x, y - 10], [x, y + 10]], colours.ink, {width: 2});
  }
  ctx.restore();
};

// What each hidden neuron says of each place, with the sign that it has for the answer
const drawUnits = (ctx, width, height, {row, hidden}) => {
  const {columns, size} = gridFor(hidden, width, height), n = 20, inner = size - 3;
  const x0 = (width - columns*size)/2;
  const at = i => ((2*i + 1)/n - 1)*PLANE_LIMIT, all = new Float32Array(n*n*hidden);
  for (let j = 0; j < hidden; j++) {
    const [a, b, c, v] = [row[2*j], row[2*j + 1], row[2*hidden + j], row[3*hidden + j]];
    const weight = Math.sign(v)*Math.min(1, .35 + Math.abs(v)/4);
    for (let k = 0; k < n*n; k++) all[j*n*n + k] = weight*Math.tanh(a*at(k%n) - b*at(Math.floor(k/n)) + c);
  }
  const sheet = sheetOf('units', all, n, n*hidden, {table: tables.signed, low: -1, high: 1});
  for (let j = 0; j < hidden; j++) {
    const x = x0 + j%columns*size, y = Math.floor(j/columns)*size;
    ctx.drawImage(sheet, .5, j*n + .5, n - 1, n - 1, x, y, inner, inner);   // no neighbour shines through
  }
};

// Drawing with finger, pen, mouse or keyboard. tell: mode() 0, 1 or 2 (takes away), points(),
// put(points, draft), full() when there are enough, draw() when the cross has moved
const listenToPlane = (canvas, tell, cross) => {
  const at = e => {
    const box = canvas.getBoundingClientRect();
    const across = (e.clientX - box.left)/box.width, down = (e.clientY - box.top)/box.height;
    return [(2*across - 1)*PLANE_LIMIT, (1 - 2*down)*PLANE_LIMIT];
  };
  const near = (x, y, r) => ([a, b]) => Math.hypot(a - x, b - y) < r;
  let drawing = false, last = null;
  const edit = (x, y, draft) => {
    const points = tell.points(), mode = tell.mode();
    if (mode === 2) { tell.put(points.filter(p => !near(x, y, .13)(p)), draft); return; }
    if (points.length >= MOST_DRAWN) { tell.full(); return; }
    if (last && near(x, y, .085)(last)) return;
    last = [x, y];
    tell.put([...points, settle([x, y, mode])], draft);
  };
  canvas.addEventListener('pointerdown', e => {
    if (e.button || !e.isPrimary) return;   // a second finger, or another button
    drawing = true;
    last = cross.at = null;
    canvas.setPointerCapture(e.pointerId);
    edit(...at(e), true);
  });
  canvas.addEventListener('pointermove', e => { if (drawing && e.isPrimary) edit(...at(e), true); });
  const stop = () => {
    if (!drawing) return;
    drawing = false;
    tell.put(tell.points(), false);
  };
  for (const end of ['pointerup', 'pointercancel']) canvas.addEventListener(end, stop);
  canvas.addEventListener('keydown', e => {
    const way = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]}[e.key];
    const remove = e.key === 'Delete' || e.key === 'Backspace';
    if (!way && e.key !== 'Enter' && e.key !== ' ' && !remove) return;
    e.preventDefault();
    cross.at ||= [0, 0];
    const keep = v => Math.max(-PLANE_LIMIT, Math.min(PLANE_LIMIT, v));
    last = null;
    if (way) {
      cross.at = cross.at.map((v, i) => keep(v + way[i]*(e.shiftKey ? .28 : .07)));
      tell.draw();
      return;
    }
    if (remove) tell.put(tell.points().filter(p => !near(...cross.at, .13)(p)), false);
    else edit(...cross.at, false);
  });
};
