// What the page knows, and its state: what the controls say. The address holds it: a link brings it back.
'use strict';

const spec = JSON.parse(document.getElementById('spec').textContent);
const byId = id => document.getElementById(id);
const make = (tag, given = {}, ...children) => {
  const el = document.createElement(tag);
  for (const [name, v] of Object.entries(given)) {
    if (name in el) el[name] = v;
    else el.setAttribute(name, v);
  }
  el.append(...children);
  return el;
};

const {metric, width, hide} = spec, steps = 10**Math.floor(Math.log10((spec.seen[1] - spec.seen[0])/100));
const digitsOf = step => Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
const DIALS = {
  prompt: {min: Math.ceil(spec.seen[0]/steps)*steps, max: spec.seen[1], step: steps, digits: digitsOf(steps)},
  guidance: {min: 0, max: 1, step: .05, digits: 2}, start: {min: 0, max: 63, step: 1},
  noise: {min: 0, max: 99, step: 1}, width: {min: width.least, max: width.most, step: 1},
};
const EXAMPLES = spec.task.drawn || {};
const exampleOf = name => EXAMPLES[name].map(([[x, y], c]) => settle([x, y, c]));
const FIRST = {prompt: spec.first.prompt, guidance: spec.first.guidance, start: 0, noise: 0, width: width.own,
               subset: spec.subsets ? spec.subsets.first : 0,
               points: spec.points ? exampleOf(Object.keys(EXAMPLES)[0]) : undefined};

const fitted = (name, v) => {               // to its dial
  const {min, max, step, digits = 0} = DIALS[name], there = isFinite(v) ? v : FIRST[name];
  return +Math.min(max, Math.max(min, Math.round((there - min)/step)*step + min)).toFixed(digits);
};
FIRST.prompt = fitted('prompt', FIRST.prompt);
const stateOf = hash => {
  const said = new URLSearchParams(hash.replace(/^#/, '')), found = {...FIRST};
  for (const name of Object.keys(DIALS)) {
    if (said.has(name)) found[name] = fitted(name, parseFloat(said.get(name)));
  }
  if (hide === 0) found.guidance = 1;
  if (hide === 1) found.guidance = 0;
  if (!width.free) found.width = width.own;
  if (spec.subsets && said.has('digits')) {
    const bits = [...said.get('digits')].reduce((sum, d) => sum | (d >= '0' && d <= '9' ? 1 << +d : 0), 0);
    if (bits > 0 && bits < 1023) found.subset = bits;
  }
  if (spec.points && said.has('points')) found.points = pointsOfText(said.get('points'));
  return found;
};
const hashOf = state => {
  const said = new URLSearchParams();
  for (const name of Object.keys(DIALS)) said.set(name, state[name]);
  if (spec.subsets) said.set('digits', digitsIn(state.subset));
  if (spec.points) said.set('points', textOfPoints(state.points));
  return `#${said}`;
};
const digitsIn = subset => [...Array(10).keys()].filter(d => subset >> d & 1).join('');

let state = stateOf(location.hash), asked = 0, questions = 0;
let answer = null, ground = null, many = null, firstAnswer = null;
const settledWaiters = [], tried = [], trail = [];
let triedKey = '';

