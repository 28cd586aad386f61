// The panels: for models of pictures, and for one that reads points.
'use strict';

const panels = {};
const canvasFor = (words, kind = '') => make('canvas', {className: kind, role: 'img', 'aria-label': words});
const section = (title, kind, ...children) => {
  const el = make('section', {className: kind}, make('h2', {}, title), ...children);
  byId('panels').append(el);
  return el;
};
const addPanel = (name, title, words, draw, {kind = '', caption = '', place = ''} = {}) => {
  const canvas = canvasFor(words, kind), text = make('p', {className: 'faint'}, caption);
  section(title, place, canvas, text);
  panels[name] = new Panel(canvas, (ctx, w, h) => { if (answer) draw(ctx, w, h); });
};

const testSets = spec.task.sets.map(({x, y, n}) => ({x: bytesOf(x), y: bytesOf(y), n}));
const pixelsOf = i => testSets[0].x.subarray(i*spec.task.inputs, (i + 1)*spec.task.inputs);
const truth = (i, {subset}) => subset ? subset >> testSets[0].y[i] & 1 : testSets[0].y[i];
const numbered = [...Array(spec.task.outputs).keys()].map(String);
const classNames = spec.subsets ? ['no', 'yes'] : spec.task.classes || numbered;
const letters = Math.max(...classNames.map(name => name.length));

const addPrompts = () => addPanel(
  'prompts', 'Asked for, and got', `test ${metric.name} asked for and achieved`, (ctx, w, h) => {
    const {best, start} = answer;
    drawPrompts(ctx, w, h, {tried, span: spec.seen, unit: metric.unit, best, start});
  }, {caption: 'On the green diagonal it does as asked. Each dot is an answer, the large one the newest.'});

const addGround = () => addPanel(
  'ground', 'Its place on the landscape', 'the metric on a plane through weight space', (ctx, w, h) => {
    const {minimize} = metric, names = spec.groundNames;
    drawGround(ctx, w, h, {ground, place: ground && answer.place, trail, minimize, names});
  }, {caption: spec.groundWords, place: spec.points ? 'double' : ''});

const buildPictures = () => {
  addPrompts();
  const {image, inputs: n, brightest: most} = spec.task;
  addPanel('weights', 'What its hidden neurons look for', 'incoming weights of each neuron', (ctx, w, h) => {
    drawWeights(ctx, w, h, {row: answer.row, inputs: n, hidden: answer.state.width, image});
  }, {caption: 'One square a neuron: orange pixels excite it, blue ones hold it back.'});
  addPanel('pictures', 'What it says to test pictures', 'test pictures', (ctx, w, h) => {
    const pictures = [...Array(letters > 3 ? 12 : 24).keys()].map(i => {
      const said = answer.said[i];
      return {pixels: pixelsOf(i), text: classNames[said], wrong: said !== truth(i, answer.state)};
    });
    drawPictures(ctx, w, h, {name: 'tested', pictures, image, most, letters});
  }, {kind: 'tall', caption: 'The first of the test set; ✗ is wrong.'});
  addGround();
  buildOwn();
  buildMany();
};

// Points: the plane to draw on comes first

const PRESSES = ['circles', 'diamonds', 'take away'];
let press = 0;
const cross = {at: null};
const buildPoints = () => {
  const keys = 'arrow keys move a cross, Enter puts a point down, Delete takes points away';
  const label = `points of two classes; ${keys}`;
  const canvas = make('canvas', {className: 'plane', tabIndex: 0, role: 'application', 'aria-label': label});
  const buttons = PRESSES.map((words, i) => {
    const button = make('button', {type: 'button', 'aria-pressed': `${i === press}`}, words);
    button.addEventListener('click', () => {
      press = i;
      buttons.forEach((b, k) => b.setAttribute('aria-pressed', `${k === i}`));
    });
    return button;
  });
  const text = make('p', {className: 'faint'}, `A press puts down points of the chosen kind; ${keys}.`);
  section('Draw your points', 'high', make('div', {className: 'row'}, ...buttons), canvas,
          make('div', {className: 'row'}, exampleChoice(), clearButton()), text);
  panels.plane = new Panel(canvas, (ctx, w, h) => {
    const {points} = state, plane = answer && points.length > 1 ? answer.plane : null;
    drawPlane(ctx, w, h, {plane, points, cross: cross.at});
  });
  listenToPlane(canvas, {
    mode: () => press, points: () => state.points, draw: () => panels.plane.refresh(),
    full: () => note(`no more than ${MOST_DRAWN} points`),
    put: (points, draft) => { change({points}, draft); panels.plane.refresh(); },
  }, cross);
  addPanel('units', 'What its hidden neurons say', 'what each hidden neuron says of each place',
           (ctx, w, h) => drawUnits(ctx, w, h, {row: answer.row, hidden: answer.state.width}),
           {kind: 'tall', caption: 'One square a neuron: orange speaks for diamonds, blue for circles.'});
  addPrompts();
  addGround();
  buildMany();
};
const exampleChoice = () => {
  const names = ['an example …', ...Object.keys(EXAMPLES)];
  const options = names.map(name => make('option', {value: name}, name));
  const choice = make('select', {'aria-label': 'an example to begin with'}, ...options);
  choice.addEventListener('change', () => {
    if (choice.value in EXAMPLES) change({points: exampleOf(choice.value)}, false);
    choice.selectedIndex = 0;               // so that it can be chosen again
  });
  return choice;
};
const clearButton = () => {
  const button = make('button', {type: 'button'}, 'clear');
  button.addEventListener('click', () => { change({points: []}, false); panels.plane.refresh(); });
  return button;
};

const buildPanels = () => spec.points ? buildPoints() : buildPictures();

const describePanels = ({state: s, metric: m, said}) => {       // for those who hear the page
  const label = (name, words) => panels[name].canvas.setAttribute('aria-label', words);
  label('prompts', `asked for ${short(s.prompt)}, got ${short(m[metric.name])} ${metric.unit}`);
  const apart = `${m.error.toFixed(0)} % on the wrong side of the border`;
  if (!said) { label('plane', `${pointCounts(s.points)}; ${apart}`); return; }
  const wrong = said.slice(0, 24).reduce((sum, c, i) => sum + (c !== truth(i, s)), 0);
  label('pictures', `test pictures: the network is wrong about ${wrong} of the first 24`);
};
const pointCounts = points => {
  const diamonds = points.filter(p => p[2]).length;
  return `${points.length - diamonds} circles, ${diamonds} diamonds`;
};
