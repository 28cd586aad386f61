// The page: panels, questions, and what comes back from the worker.
'use strict';

// Asking: the last move always arrives

const forgetKey = s => `${groundOf(s)} ${s.guidance}`;      // answers to be shown together have the same
let restTimer = 0, addressTimer = 0, busy = '', latestWish = null;
const change = (changes, draft) => {
  state = {...state, ...changes};
  showState();
  clearTimeout(restTimer);
  if (draft) restTimer = setTimeout(() => ask(false), 250);
  ask(draft);
};
const tooFew = () => spec.points && state.points.length < 2;
const ask = draft => {                      // one draft is on its way at most; the newest question waits here
  latestWish = {state, draft};
  if (!draft) clearTimeout(restTimer);
  if (tooFew()) {
    [latestWish, answer, ground, busy, asked] = [null, null, null, '', ++questions];
    byId('said').textContent = 'waiting for points';
    for (const name of FOLLOWING) if (panels[name]) panels[name].refresh();
    note('draw two points or more');
    keepAddress();
    return;
  }
  if (busy !== 'draft') send();
};
const send = () => {
  busy = latestWish.draft ? 'draft' : 'whole';
  worker.postMessage({kind: 'ask', id: asked = ++questions, ...latestWish});
  latestWish = null;
};
const keepAddress = () => {
  const hash = hashOf(state);
  clearTimeout(addressTimer);
  try { if (hash !== location.hash) history.replaceState(null, '', hash); }
  catch { addressTimer = setTimeout(keepAddress, 5000); }   // Safari allows a hundred in half a minute
};

const HEARS = {
  ready: ({engine}) => {
    byId('engine').textContent = `Engine: ${engine}.`;
    weights().forEach(el => el.remove());
    ask(false);
  },
  answer: message => {
    if (message.id === asked) busy = '';
    if (tooFew()) return;
    if (firstAnswer === null) firstAnswer = performance.now();
    showAnswer(message);
    if (latestWish) { send(); return; }
    if (message.draft || busy) return;
    keepAddress();
    settledWaiters.splice(0).forEach(resolve => resolve(answer));
  },
  ground: message => {
    grounds.set(message.key, message);
    if (grounds.size > 4) grounds.delete(grounds.keys().next().value);     // as the worker does
    if (!answer || message.key !== groundOf(answer.state)) return;
    ground = message;
    answer.place = message.place;
    trail.length = 0;
    panels.ground.refresh();
  },
  own: ({own}) => { pad.own = own; panels.own.refresh(); },
  progress: ({id, done}) => { if (id === manyAsked) buildMany.bar.value = done; },
  many: message => { if (message.id === manyAsked) { many = message; showMany(); } },
  error: ({text}) => fail(text),
};
const grounds = new Map();                  // the last few
const groundOf = s => JSON.stringify([s.start, s.noise, s.width, s.subset, s.points]);
const fail = text => {
  busy = '';
  const said = byId('said');
  said.className = 'error';
  said.textContent = `Something went wrong: ${text}. Load the page again; ` +
                     'if that does not help, try another browser.';
};

const FOLLOWING = ['plane', 'units', 'prompts', 'weights', 'pictures', 'ground', 'own'];
const showAnswer = message => {
  const before = answer;
  answer = message;
  const got = message.metric[metric.name], {prompt} = message.state, key = forgetKey(message.state);
  if (triedKey !== key) { tried.length = 0; trail.length = 0; triedKey = key; }
  if (!before || groundOf(before.state) !== groundOf(message.state)) {
    ground = grounds.get(groundOf(message.state)) || null;
  }
  tried.push([prompt, got]);
  if (tried.length > 200) tried.shift();
  if (message.place) { trail.push(message.place); if (trail.length > 200) trail.shift(); }
  if (message.own) pad.own = message.own;
  const others = metric.name === 'loss' ? `, ${message.metric.error.toFixed(1)}\u00a0% errors` : '';
  const [wish, there] = [short(prompt), `${short(got)} ${metric.unit}`];
  byId('said').className = '';
  byId('said').setAttribute('aria-busy', message.draft);       // read out loud only at rest
  byId('said').innerHTML = `asked for <b>${wish}</b>, got <b>${there}</b>${others}`;
  for (const name of FOLLOWING) if (panels[name]) panels[name].refresh();
  if (!message.draft) describePanels(message);
};

const worker = (() => {
  const program = new Blob([byId('worker').textContent], {type: 'text/javascript'});
  const made = new Worker(URL.createObjectURL(program));
  made.onmessage = ({data}) => HEARS[data.kind](data);
  made.onerror = e => fail(e.message || 'the worker did not start');
  return made;
})();

const weights = () => [...document.getElementsByClassName('weights')];
const begin = () => {
  byId('app').hidden = false;
  readColours();
  buildControls();
  buildPanels();
  showState();
  const plain = new URLSearchParams(location.search).has('plain');
  worker.postMessage({kind: 'open', spec, weights: weights().map(el => el.textContent), plain});
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
    readColours();
    for (const panel of Object.values(panels)) panel.refresh();
  });
  addEventListener('hashchange', () => { state = stateOf(location.hash); showState(); ask(false); });
};
begin();

// For tests, and for the curious: gptPage.ask({prompt: .2}) gives the answer
window.gptPage = {
  ask: changes => new Promise(resolve => {
    const fits = Object.entries(changes).map(([name, v]) => (
      [name, name in DIALS ? fitted(name, v) : name === 'points' ? v.map(settle) : v]));
    settledWaiters.push(resolve);
    change(Object.fromEntries(fits), false);
  }),
  get state() { return state; },
  get answer() { return answer; },
  get own() { return pad.own; },
  get ground() { return ground; },
  get many() { return many; },
  get firstAnswer() { return firstAnswer; },
};
