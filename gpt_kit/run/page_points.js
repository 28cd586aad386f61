// A model that reads its task: it looks at its guess's gradient on the points, and guesses again.
'use strict';

const MOST_POINTS = 200, PLACES = 48;       // along a side of the plane
const LIMIT = 1.4;                          // the plane reaches from -LIMIT to LIMIT

class Reader extends Transformer {
  constructor(spec, weights, desk, most) {
    super(spec, weights, desk, most);
    const part = name => this.linear(`reader.${name}`), inner = spec.tensors['reader.latents'][2];
    const n = up8(MOST_POINTS), latents = spec.config.n_latents;
    Object.assign(this, {inner, latents, readerHeads: 4, readerD: inner/4});
    this.reader = {first: part('point.0'), second: part('point.2'), kv: part('kv'), up: part('mlp.0'),
                   down: part('mlp.2'), out: part('out')};
    this.seen = desk.take(n*up8(this.reader.first.k)); this.each1 = desk.take(n*up8(inner));
    this.each2 = desk.take(n*up8(inner)); this.pairs = desk.take(n*up8(2*inner));
    this.asked = desk.take(latents*up8(inner)); this.latent = desk.take(latents*up8(inner));
    this.inside = desk.take(latents*up8(4*inner)); this.answers = desk.take(latents*n);
    this.pointKeys = desk.room(this.readerD, MOST_POINTS);
    this.pointValues = desk.room(MOST_POINTS, this.readerD);
    const own = this.tensor('reader.latents');
    for (let i = 0; i < latents; i++) {
      desk.f.set(own.subarray(i*inner, (i + 1)*inner), this.latent + i*up8(inner));
    }
    desk.product(this.latent, part('q'), this.asked, latents);
  }
  static size(spec, most) { return super.size(spec, most) + 400_000; }
  read(net, L, H, {n, waves, logShare}, extra) {     // points and what networks say of them, as tokens of h
    const {desk, reader, inner, latents, readerHeads, readerD} = this, {f} = desk, k8 = up8(reader.first.k);
    for (let i = 0; i < n; i++) {
      f.set(waves[i], this.seen + i*k8);
      f.set(extra[i], this.seen + i*k8 + waves[i].length);
    }
    desk.product(this.seen, reader.first, this.each1, n, {lda: k8});
    this.gelu(this.each1, n, inner);
    desk.product(this.each1, reader.second, this.each2, n);
    this.gelu(this.each2, n, inner);
    desk.product(this.each2, reader.kv, this.pairs, n);
    const stride = up8(2*inner);
    const keys = {...this.pointKeys, n, n8: up8(n)}, values = {...this.pointValues, k: n};
    const own = this.tensor('reader.latents'), h = new Float64Array(own);
    for (let head = 0; head < readerHeads; head++) {
      const from = this.pairs + head*readerD;
      desk.pack(keys, from, 1, stride);
      desk.pack(values, from + inner, stride, 1);
      desk.product(this.asked + head*readerD, keys, this.answers, latents, {lda: up8(inner)});
      this.soften(this.answers, latents, keys.n8, 1/Math.sqrt(readerD), n, logShare);
      desk.product(this.answers, values, this.heard, latents, {lda: keys.n8});
      for (let i = 0; i < latents; i++) for (let p = 0; p < readerD; p++) {
        h[i*inner + head*readerD + p] += f[this.heard + i*values.n8 + p];
      }
    }
    this.think1(h);
    desk.product(this.each1, reader.out, this.h + (net*L + H + 1)*this.E8, latents, {lda: up8(inner)});
  }
  think1(h) {                               // latents (L, inner) -> h + mlp(norm(h)), in each1
    const {desk, reader, inner, latents} = this, {f} = desk, i8 = up8(inner);
    const gain = this.tensor('reader.norm.weight'), bias = this.tensor('reader.norm.bias');
    for (let i = 0; i < latents; i++) {
      const row = h.subarray(i*inner, (i + 1)*inner), mean = row.reduce((a, b) => a + b)/inner;
      const by = 1/Math.sqrt(row.reduce((sum, v) => sum + (v - mean)**2, 0)/inner + 1e-5);
      row.forEach((v, e) => { f[this.each1 + i*i8 + e] = (v - mean)*by*gain[e] + bias[e]; });
    }
    desk.product(this.each1, reader.up, this.inside, latents);
    this.gelu(this.inside, latents, 4*inner);
    desk.product(this.inside, reader.down, this.each1, latents);
    for (let i = 0; i < latents; i++) for (let e = 0; e < inner; e++) {
      f[this.each1 + i*i8 + e] += h[i*inner + e];
    }
  }
}

// Different points with their share in the mean, as point_table gives them
const pointTable = points => {
  const times = new Map();
  for (const point of points) times.set(`${point}`, (times.get(`${point}`) || 0) + 1);
  const each = [...times.keys()].map(key => key.split(',').map(Number));
  const share = [...times.values()].map(t => t/points.length);
  const x = Float32Array.from(each.flatMap(p => p.slice(0, 2))), y = each.map(p => p[2]);
  return {n: each.length, x, y, share, logShare: share.map(Math.log), waves: each.map(wavesOf)};
};
const wavesOf = ([x, y, c]) => {            // a point as the model reads it, but for what networks say of it
  const all = [x, y].flatMap(v => [1, 2, 4, 8].map(by => v*by));
  return [x, y, 2*c - 1, ...all.map(Math.sin), ...all.map(Math.cos)];
};

// A network's loss on the points, its outputs, and the loss's gradient at its weights
const lookAt = (row, scale, {H}, {n, x, y, share}) => {
  const gradient = new Float64Array(row.length), z = new Float64Array(n), said = new Float64Array(H);
  const b = 2*H, v = 3*H, last = 4*H;
  let loss = 0;
  for (let i = 0; i < n; i++) {
    const p = x[2*i], q = x[2*i + 1];
    z[i] = row[last]/scale;
    for (let j = 0; j < H; j++) {
      said[j] = Math.tanh((row[2*j]*p + row[2*j + 1]*q + row[b + j])/scale);
      z[i] += said[j]*row[v + j]/scale;
    }
    loss += share[i]*(softplus(z[i]) - z[i]*y[i]);
    const slope = share[i]*(sigmoid(z[i]) - y[i]);
    gradient[last] += slope;
    for (let j = 0; j < H; j++) {
      gradient[v + j] += slope*said[j];
      const back = slope*row[v + j]/scale*(1 - said[j]**2);
      gradient[2*j] += back*p; gradient[2*j + 1] += back*q; gradient[b + j] += back;
    }
  }
  const size = Math.sqrt(gradient.reduce((sum, g) => sum + g*g, 0)/row.length + 1e-12);
  return {loss: Math.min(3, loss), z, steep: Math.log(size), way: Float32Array.from(gradient, g => g/size)};
};

// One round. q: of each network noised, start, prompt, metric, hidden?, what was seen at noised and at start,
// and the guess before (null: none yet)
const guessAgain = (model, shape, j, q, points) => {
  const {spec} = model, {start_gain: gain, step_scale, metric_scale} = spec.config, {H, D} = shape;
  const L = H + 1 + model.latents, nothing = new Float32Array(D), scale = spec.scale;
  const bases = q.map(({guess, start}) => guess || start);
  const looks = q.map(({guess, atStart}, i) => guess ? lookAt(bases[i], scale, shape, points) : atStart);
  const numbers = q.map(({prompt, metric, atNoised: a, atStart: s, hidden, guess}, i) => {
    const {loss, steep} = looks[i];
    const v = [prompt, metric, prompt - loss, a.loss, s.loss, loss].map(w => Math.fround(w/metric_scale));
    const told = scalarFeatures([Math.fround(j/step_scale), ...v], spec.frequencies);
    return [...told, a.steep/4, hidden ? 0 : s.steep/4, steep/4, guess ? 0 : 1];
  });
  model.condition(numbers, q.map(v => v.hidden), null);
  q.forEach(({noised, start, guess, atNoised, atStart, hidden}, i) => {
    const grown = row => row.map(w => w*gain), {way, z} = looks[i], first = atNoised.z;
    const known = guess ? grown(guess) : nothing, back = hidden ? nothing : atStart.way;
    model.encode(i, shape, [noised, grown(start), known, atNoised.way, back, way], L);
    const said = (out, k) => [sigmoid(out[k]) - points.y[k], Math.tanh(out[k]/4)];
    const extra = points.y.map((_, k) => [...said(z, k), ...said(first, k)]);
    model.read(i, L, H, points, extra);
  });
  model.think(q.length, L);
  return bases.map((base, i) => {
    const row = Float32Array.from(base);
    model.decode(i, shape, row, L);
    return row;
  });
};

// As sampleRows: one diffusion step from pure noise, of so many rounds
function* sampleRounds(model, ask) {
  const {spec} = model, {shape, prompt, guidance, seed, first, n, rounds, points} = ask, {scale} = spec;
  const look = row => lookAt(row, scale, shape, points), nothing = new Float32Array(shape.D);
  const [j] = spec.sampler.steps;
  const start = ask.start ? ask.start.map(w => w*scale) : nothing;
  const given = {start, metric: ask.metric, hidden: false}, free = {start: nothing, metric: 0, hidden: true};
  const ways = guidance === 1 ? [given] : guidance === 0 ? [free] : [given, free];
  let q = ways.flatMap(way => Array.from({length: n}, (_, k) => {
    const noised = normalNoise(new Float32Array(shape.D), seed, first + k, 0);
    return {...way, prompt, noised, guess: null, atNoised: look(noised), atStart: look(way.start)};
  }));
  for (let round = 0; round < rounds; round++) {
    const guesses = guessAgain(model, shape, j, q, points);
    q = q.map((v, i) => ({...v, guess: guesses[i]}));
    yield round + 1;
  }
  const rows = q.map(v => v.guess);
  const out = ways.length === 1 ? rows : rows.slice(0, n).map((row, k) => mixed(row, rows[n + k], guidance));
  return out.map(row => row.map(w => w/scale));
}

class PointWorld extends World {
  get kind() { return Reader; }
  sizes() { return {inputs: PLACES**2 + 2*MOST_POINTS, longest: PLACES**2}; }
  putInputs() {
    const side = i => LIMIT*((2*i + 1)/PLACES - 1), cells = [...Array(PLACES**2).keys()];
    const places = cells.flatMap(k => [side(k%PLACES), -side(Math.floor(k/PLACES))]);
    this.places = this.bench.put(Float32Array.from(places), 2);
    this.spot = this.bench.put(new Float32Array(2*MOST_POINTS), 2);
  }
  set({points}) {                           // the points as a set of inputs
    return {at: this.spot.at, N: points.length, labels: points.map(p => p[2]), points};
  }
  logits(row, state, set) {
    if (set.points) set.points.forEach(([x, y], i) => this.desk.f.set([x, y], this.spot.at + 2*i));
    return super.logits(row, state, set);
  }
  setsOf(state) { return [this.set(state)]; }
  which() { return null; }
  known() { return {...this.spec.widths[0], best: 0, seen: [0, 1]}; }
  sampling(state, {n = 1, first = 0, draft = false, crowd = false} = {}) {
    const {balanced: start, metric} = state.guidance ? this.start(state) : {balanced: null, metric: 0};
    const {prompt, guidance, noise: seed, points} = state, {rounds, quick, some} = this.spec.sampler;
    const about = {shape: this.shape(state), prompt: Math.fround(prompt), points: pointTable(points)};
    const often = draft ? quick : crowd ? some : rounds;
    return sampleRounds(this.model, {...about, guidance, seed, first, n, start, metric, rounds: often});
  }
  *plane(rows, state) {                     // what networks say of each place together, as one output
    const sum = new Float64Array(PLACES**2);
    for (const row of rows) {
      this.logits(row, state, this.places).forEach((z, i) => { sum[i] += sigmoid(z)/rows.length; });
      yield;
    }
    return Float32Array.from(sum, p => Math.log((p + 1e-9)/(1 - p + 1e-9)));
  }
  told(row, state) {
    return {row, metric: this.judge(row, state), plane: this.logits(row, state, this.places)};
  }
}
