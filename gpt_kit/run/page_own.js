// A picture of one's own, drawn with finger, pen or mouse, and what the network says of it.
'use strict';

const pad = {strokes: []};
const buildOwn = () => {
  const draw = `Draw ${spec.task.drawWords} with finger, pen or mouse`;
  const keys = 'Keys 0 to 9 put a test picture there', label = `drawing pad: ${draw}. ${keys}`;
  const canvas = make('canvas', {className: 'pad', tabIndex: 0, role: 'application', 'aria-label': label});
  const bars = canvasFor('how sure the network is of each class', 'bars');
  const clear = make('button', {type: 'button'}, 'clear');
  const row = (...all) => make('div', {className: 'row'}, ...all);
  const text = make('p', {className: 'faint'}, `${draw}; the network says what it sees. ${keys}.`);
  section('Draw one yourself', 'double', row(canvas, bars), row(clear), text);
  panels.pad = new Panel(canvas, drawPad);
  panels.own = Object.assign(new Panel(bars, (ctx, w, h) => {
    drawBars(ctx, w, h, {names: classNames, shares: pad.own ? [...pad.own] : null});
  }), {text});
  clear.addEventListener('click', () => {
    Object.assign(pad, {strokes: [], given: null, own: null});
    sendPicture();
  });
  listenToPad(canvas);
};
const listenToPad = canvas => {
  const at = e => {
    const box = canvas.getBoundingClientRect();
    return [(e.clientX - box.left)/box.width, (e.clientY - box.top)/box.height];
  };
  let drawing = false;
  canvas.addEventListener('pointerdown', e => {
    if (e.button || !e.isPrimary) return;   // a second finger, or another button
    drawing = true;
    canvas.setPointerCapture(e.pointerId);
    if (pad.given) Object.assign(pad, {strokes: [], given: null});
    pad.strokes.push([at(e)]);
    sendPicture();
  });
  canvas.addEventListener('pointermove', e => {
    if (!drawing || !e.isPrimary) return;
    pad.strokes[pad.strokes.length - 1].push(at(e));
    sendPicture();
  });
  for (const end of ['pointerup', 'pointercancel']) canvas.addEventListener(end, () => { drawing = false; });
  canvas.addEventListener('keydown', e => {
    if (e.key < '0' || e.key > '9' || e.ctrlKey || e.metaKey) return;
    const i = testSets[0].y.indexOf(+e.key);
    Object.assign(pad, {strokes: [], given: pixelsOf(i)});
    sendPicture();
  });
};
const paint = (ctx, strokes, size, thick) => {
  Object.assign(ctx, {lineWidth: thick, lineCap: 'round', lineJoin: 'round'});
  for (const stroke of strokes) {
    ctx.beginPath();
    ctx.moveTo(stroke[0][0]*size, stroke[0][1]*size);
    for (const [x, y] of stroke) ctx.lineTo(x*size, y*size);
    ctx.stroke();
  }
};
const drawPad = (ctx, w, h) => {
  ctx.strokeStyle = colours.ink;
  if (pad.given) {
    const [, rows, columns] = spec.task.image;
    ctx.imageSmoothingEnabled = false;
    const look = {table: tables.grey, low: 0, high: spec.task.brightest};
    ctx.drawImage(sheetOf('given', pad.given, columns, rows, look), 0, 0, w, h);
  } else paint(ctx, pad.strokes, w, w*.09);
};
const fillBox = strokes => {                // as the data set's digits, which fill their height
  const all = strokes.flat(), [xs, ys] = [0, 1].map(axis => all.map(p => p[axis]));
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const size = Math.max(bottom - top, right - left, .15);
  const centre = (left + right)/2, middle = (top + bottom)/2;
  const placed = ([x, y]) => [.5 + .8*(x - centre)/size, .5 + .86*(y - middle)/size];
  return strokes.map(stroke => stroke.map(placed));
};
const pixelsDrawn = () => {                 // as raw inputs of the task
  if (pad.given) return pad.given;
  if (!pad.strokes.length) return null;
  const [, h, w] = spec.task.image, fine = 4, size = w*fine, {brightest} = spec.task;
  const canvas = make('canvas', {width: size, height: h*fine});
  const ctx = canvas.getContext('2d', {willReadFrequently: true}), {fills} = spec.task;
  ctx.strokeStyle = '#000';
  paint(ctx, fills ? fillBox(pad.strokes) : pad.strokes, size, size*(fills ? .15 : .09));
  const {data} = ctx.getImageData(0, 0, size, h*fine), out = new Float32Array(w*h);
  for (let y = 0; y < h*fine; y++) for (let x = 0; x < size; x++) {
    out[(y >> 2)*w + (x >> 2)] += data[4*(y*size + x) + 3]/255/fine**2;
  }
  return out.map(v => Math.round(v*brightest));
};
let pictureDue = false;
const sendPicture = () => {
  panels.pad.refresh();
  if (pictureDue) return;
  pictureDue = true;
  requestAnimationFrame(() => {
    pictureDue = false;
    const pixels = pixelsDrawn();
    if (!pixels) pad.own = null;
    worker.postMessage({kind: 'picture', pixels});
    panels.own.refresh();
  });
};

