// A model and what its networks are for, with all that the page asks about them.
'use strict';

// A model and the pictures or points that its networks are for
class World {
  constructor(spec, weights, plain) {
    const {layers: [first, [activation], last]} = spec.task, most = spec.width.most, Model = this.kind;
    const n = first[1], C = last[2], shape = shapeOf(n, most, C);
    const tokens = most + 1 + (spec.config.n_latents || 0);
    Object.assign(this, {spec, n, C, kept: new Map(), balances: activation === 'ReLU'});
    const {inputs, longest} = this.sizes(spec.task);
    const room = Model.size(spec, tokens) + Bench.size(shape, most, longest) + (inputs + 64)*n + 4096;
    this.desk = new Desk(room, plain);
    this.model = new Model(spec, halvesOf(weights), this.desk, tokens);
    this.bench = new Bench(this.desk, shape, activation, most, longest);
    this.putInputs(spec.task);
  }
  get kind() { return Transformer; }
  sizes({sets}) {                           // inputs in all, and of the largest set
    const each = sets.map(set => set.n);
    return {inputs: each.reduce((a, b) => a + b), longest: Math.max(...each)};
  }
  putInputs({mean, std, sets}) {
    const {n} = this, m = floatsOf(mean), s = floatsOf(std);
    this.scaled = raw => Float32Array.from(raw, (v, i) => (v - m[i%n])/s[i%n]);
    this.sets = sets.map(({x, y}) => ({...this.bench.put(this.scaled(bytesOf(x)), n), labels: bytesOf(y)}));
    this.own = this.bench.put(new Float32Array(n), n);
  }
  shape({width}) { return shapeOf(this.n, width, this.C); }
  which({subset}) { return subset ? [...Array(10).keys()].map(digit => subset >> digit & 1) : null; }
  labels(set, {subset}) { return subset ? set.labels.map(y => subset >> y & 1) : set.labels; }
  setsOf() { return this.sets; }
  logits(row, state, set) { return this.bench.logits(this.shape(state), row, set); }
  judge(row, state, set = this.setsOf(state)[0]) {
    return judged(this.logits(row, state, set), this.C, this.labels(set, state));
  }
  metric(row, state) { return Math.fround(this.judge(row, state)[this.spec.metric.name]); }
  start(state) {                            // the untrained network and how good it is
    return this.keep(JSON.stringify([state.start, state.width, state.subset, state.points]), () => {
      const shape = this.shape(state), row = startRow(shape, this.spec.startSeed + state.start);
      const balanced = this.balances ? balancedRow(row, shape) : row;
      return {row, balanced, metric: this.startMetric(row, state)};
    });
  }
  startMetric(row, state) {                 // on all test pictures, also where the page holds only some
    const {startMetrics, width} = this.spec, known = startMetrics && state.width === width.own;
    return known ? Math.fround(startMetrics[state.start]) : this.metric(row, state);
  }
  keep(key, make) {                         // the last dozen
    if (!this.kept.has(key)) this.kept.set(key, make());
    if (this.kept.size > 12) this.kept.delete(this.kept.keys().next().value);
    return this.kept.get(key);
  }
  known({width, subset}) { return knownOf(this.spec, width, subset); }
  sampling(state, {n = 1, first = 0, draft = false} = {}) {
    const {balanced, metric} = state.guidance ? this.start(state) : {balanced: null, metric: 0};
    const {prompt, guidance, noise} = state, {steps, draft: few} = this.spec.sampler;
    const about = {shape: this.shape(state), known: this.known(state), which: this.which(state)};
    const asked = {prompt: Math.fround(prompt), guidance, start: balanced, metric};
    return sampleRows(this.model, {...about, ...asked, seed: noise, first, n, steps: draft ? few : steps});
  }
  told(row, state) {                        // all that the page shows of a network
    const {C} = this, [set] = this.sets, logits = this.logits(row, state, set);
    const sure = probabilities(logits, C), classes = Math.max(2, C);
    const said = Uint8Array.from(set.labels, (_, i) => greatest(sure, classes, i));
    return {row, said, metric: judged(logits, C, this.labels(set, state)), own: this.ownPicture(row, state)};
  }
  ownPicture(row, state) {                  // probabilities of the classes, of what a person has drawn
    if (!this.drawn) return null;
    this.desk.f.set(this.scaled(this.drawn), this.own.at);
    return probabilities(this.logits(row, state, this.own), this.C);
  }
}

// What a model knows of a width, read off between those that it has learned from, and of a task of its family
const knownOf = (spec, width, subset) => {
  const all = spec.widths, known = all[0];
  if (subset) {
    const best = spec.subsets.best[subset], worst = spec.seen[1];
    return {...known, best, seen: [Math.min(best, worst), Math.max(best, worst)]};
  }
  if (all.length === 1) return known;
  const at = readCurve(Math.log(width), all.map(w => Math.log(w.hidden[0])), all.map((_, i) => i));
  const a = all[Math.floor(at)], b = all[Math.ceil(at)], t = at%1;
  const mix = (p, q) => (1 - t)*p + t*q, given = Array.from({length: 64}, (_, i) => i/63);
  const told = (p, q) => given.map(v => mix(readCurve(v, p.given, p.told), readCurve(v, q.given, q.told)));
  const curve = (p, q) => ({given, worst: mix(p.worst, q.worst), told: told(p, q)});
  const out = {best: mix(a.best, b.best), seen: a.seen.map((v, i) => mix(v, b.seen[i]))};
  for (const name of ['calibration', 'calibration_from_noise']) {
    if (a[name] && b[name]) out[name] = curve(a[name], b[name]);
  }
  return out;
};

