// What the page's worker does: it answers, maps the landscape and asks for many, one piece after another.
'use strict';

const TOGETHER = 8;         // networks of many that are sampled at once
const GRID = 21;            // places along each side of the landscape

// Jobs: generators that yield wherever another one may take over

function* finished(sampling) {
  for (;;) {
    const {done, value} = sampling.next();
    if (done) return value;
    yield;
  }
}

function* answerJob({id, state, draft}) {
  const begun = performance.now(), [row] = yield* finished(world.sampling(state, {draft}));
  const ms = performance.now() - begun, start = state.guidance ? world.start(state) : null;
  const ground = grounds.get(groundKey(state)), place = ground ? ground.plane.place(row) : null;
  latest = {row, state};
  const {best, seen} = world.known(state);
  const known = {best, seen, start: start && start.metric};
  post({kind: 'answer', id, state, draft, ms, place, ...known, ...world.told(row, state)});
  if (!draft && !ground && !jobs.ground) jobs.ground = groundJob(state);
}

const groundKey = s => JSON.stringify([s.start, s.noise, s.width, s.subset, s.points]);
const grounds = new Map();                  // the last few

function* cornerRows(state) {               // three networks that the plane goes through
  const {best, seen} = world.known(state), {hide} = world.spec, middle = (best + seen[1])/2;
  const ask = (guidance, prompt) => finished(world.sampling({...state, guidance, prompt}));
  if (hide === 1) return [...yield* ask(0, middle), ...yield* ask(0, best), ...yield* ask(0, seen[1])];
  const {balanced} = world.start(state);
  return [balanced, ...yield* ask(1, best), ...yield* (hide ? ask(0, best) : ask(1, middle))];
}

function* groundJob(state) {                // the metric on the plane
  const corners = yield* cornerRows(state), plane = planeThrough(...corners);
  const places = corners.map(plane.place), sides = [0, 1].map(axis => places.map(p => p[axis]));
  const half = .75*Math.max(...sides.map(v => Math.max(...v) - Math.min(...v)), 1e-3);
  const middle = sides.map(v => (Math.max(...v) + Math.min(...v))/2), values = new Float32Array(GRID*GRID);
  const at = (axis, i) => middle[axis] + half*(2*i/(GRID - 1) - 1);
  for (let j = 0; j < GRID; j++) {
    for (let i = 0; i < GRID; i++) values[j*GRID + i] = world.metric(plane.row(at(0, i), at(1, j)), state);
    yield;
  }
  const key = groundKey(state);
  grounds.set(key, {plane});
  if (grounds.size > 4) grounds.delete(grounds.keys().next().value);
  const place = latest && groundKey(latest.state) === key ? plane.place(latest.row) : null;
  post({kind: 'ground', key, values, n: GRID, middle, half, corners: places, place});
}

function* manyJob({id, state, n}) {         // networks from noise alone where the model can, and their vote
  const guidance = world.spec.hide ? 0 : 1, ask = {...state, guidance}, begun = performance.now(), rows = [];
  while (rows.length < n) {
    const some = Math.min(TOGETHER, n - rows.length);
    rows.push(...yield* finished(world.sampling(ask, {n: some, first: rows.length, crowd: true})));
    post({kind: 'progress', id, done: rows.length, n});
  }
  const votes = [];
  for (const set of world.setsOf(ask)) votes.push(yield* voteOn(rows, ask, set));
  const plane = world.plane ? yield* world.plane(rows, ask) : null;
  post({kind: 'many', id, state: ask, n, seconds: (performance.now() - begun)/1e3, votes, plane});
}

function* voteOn(rows, state, set) {        // what networks say to a set, one by one and together
  const {C} = world, classes = Math.max(2, C), N = set.labels.length, labels = world.labels(set, state);
  const sum = new Float64Array(N*classes), each = [], counts = new Uint16Array(N*classes);
  for (const row of rows) {
    const logits = world.logits(row, state, set), sure = probabilities(logits, C);
    each.push(judged(logits, C, labels));
    for (let i = 0; i < N; i++) counts[i*classes + greatest(sure, classes, i)]++;
    sure.forEach((p, i) => sum[i] += p);
    yield;
  }
  const said = Uint8Array.from(labels, (_, i) => greatest(sum, classes, i));
  const wrong = said.reduce((bad, s, i) => bad + (s !== labels[i]), 0);
  const doubt = Float32Array.from(said, (s, i) => 1 - counts[i*classes + s]/rows.length);
  return {each, said, doubt, labels, error: 100*wrong/N};
}

// The order of work: an answer first, then many, then the landscape
let world = null, waiting = null, running = false, latest = null;
const jobs = {ask: null, many: null, ground: null}, {port1, port2} = new MessageChannel();
const post = message => self.postMessage(message);
const pause = () => new Promise(resolve => { port1.onmessage = resolve; port2.postMessage(0); });

const work = async () => {
  if (running) return;
  running = true;
  for (;;) {
    const kind = Object.keys(jobs).find(name => jobs[name]), job = jobs[kind];
    if (!job) break;
    try {
      if (job.next().done && jobs[kind] === job) jobs[kind] = null;
    } catch (e) {
      jobs[kind] = null;
      post({kind: 'error', text: `${e.message}`});
    }
    if (!jobs.ask && waiting) [jobs.ask, waiting, nowDraft] = [answerJob(waiting), null, waiting.draft];
    await pause();
  }
  running = false;
};
let nowDraft = false;

const HEARS = {
  open: ({spec, weights, plain}) => {
    world = new (spec.points ? PointWorld : World)(spec, weights, plain);
    post({kind: 'ready', engine: world.desk.engine});
  },
  ask: message => {                         // a draft that is under way is finished first: it is soon there
    if (jobs.ground && groundKey(message.state) !== (latest && groundKey(latest.state))) jobs.ground = null;
    if (jobs.ask && nowDraft) { waiting = message; return; }
    [jobs.ask, nowDraft] = [answerJob(message), message.draft];
  },
  many: message => { jobs.many = manyJob(message); },
  stop: () => { jobs.many = null; },
  picture: ({pixels}) => {
    world.drawn = pixels;
    if (latest) post({kind: 'own', own: world.ownPicture(latest.row, latest.state)});
  },
};

self.onmessage = ({data}) => {
  try { HEARS[data.kind](data); }
  catch (e) { post({kind: 'error', text: `${e.message}`}); }
  work();
};
