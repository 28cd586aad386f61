// Sliders and tick boxes.
'use strict';

const inputs = {};
const slider = (name, words, tip) => {
  const {min, max, step} = DIALS[name], id = `dial-${name}`, out = make('output', {htmlFor: id});
  const input = make('input', {type: 'range', id, min, max, step, title: tip});
  input.addEventListener('input', () => change({[name]: fitted(name, input.valueAsNumber)}, true));
  input.addEventListener('change', () => change({}, false));
  inputs[name] = {input, out};
  return make('div', {}, make('label', {htmlFor: id}, words, out), input);
};

const subsetBoxes = () => {
  const boxes = [...Array(10).keys()].map(digit => {
    const box = make('input', {type: 'checkbox', id: `digit-${digit}`});
    box.addEventListener('change', () => {
      const subset = state.subset ^ 1 << digit;
      if (subset > 0 && subset < 1023) { change({subset}, false); return; }
      box.checked = !box.checked;
      note('choose from one to nine digits');
    });
    return box;
  });
  inputs.subset = boxes;
  const labels = boxes.map((box, digit) => make('label', {htmlFor: box.id}, box, `${digit}`));
  return make('fieldset', {}, make('legend', {}, 'yes, if it is one of'), ...labels);
};

const showState = () => {
  for (const [name, {input, out}] of Object.entries(inputs)) {
    if (name === 'subset') continue;
    input.value = state[name];
    out.textContent = name === 'prompt' ? `${short(state.prompt)} ${metric.unit}` : state[name];
  }
  if (inputs.subset) inputs.subset.forEach((box, digit) => { box.checked = !!(state.subset >> digit & 1); });
  byId('notes').textContent = notesOn(state).join('; ');
};
let noted = '';
const note = text => { noted = text; showState(); noted = ''; };
const notesOn = ({width: w, subset, guidance}) => {
  const out = noted ? [noted] : [], known = width.known;
  if (width.free && !known.includes(w)) {
    const beyond = w < Math.min(...known) || w > Math.max(...known), list = known.join(', ');
    out.push(beyond ? `${w} neurons are beyond the widths in training (${list}): a guess`
                    : `${w} neurons lie between the widths in training (${list})`);
  }
  if (subset) out.push(spec.subsets.held.includes(subset) ? 'this subset was held out of training'
                                                          : 'this subset was in training');
  if (!guidance) out.push('from noise alone: the start is not listened to');
  return out;
};

const buildControls = () => {
  const what = spec.points ? 'loss' : `test ${metric.name}`;
  byId('prompt').append(slider('prompt', `prompt: a ${what} of`, 'how good a network should come'));
  const dials = byId('dials');
  if (spec.subsets) dials.append(subsetBoxes());
  if (hide > 0 && hide < 1) {
    dials.append(slider('guidance', 'listen to the start', '0: noise alone; 1: the start alone'));
  }
  if (hide < 1) dials.append(slider('start', 'untrained start', 'which untrained network to begin with'));
  dials.append(slider('noise', 'noise seed', 'which noise to begin with'));
  if (width.free) dials.append(slider('width', 'hidden neurons', 'how many neurons the network has'));
};

