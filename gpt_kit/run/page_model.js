// The G.pt transformer and its sampler, as lessons gpt.model, gpt.diffusion and gpt.prompt have them.
'use strict';

class Transformer {
  constructor(spec, weights, desk, most) {  // most: tokens of a network
    const {width, heads, depth} = spec.config;
    Object.assign(this, {spec, desk, weights, E: width, E8: up8(width), heads, d: width/heads});
    const rows = TOGETHER*most, E8 = this.E8;
    this.scalars = [this.linear('scalars.0'), this.linear('scalars.2')];
    this.family = spec.tensors['family.0.weight'] && [this.linear('family.0'), this.linear('family.2')];
    this.blocks = [...Array(depth).keys()].map(i => this.block(`blocks.${i}`));
    this.encoder = this.linear('tokens.encoder');
    this.restEncoder = this.linear('tokens.rest_encoder');
    this.decoder = this.linear('tokens.decoder');
    this.restDecoder = this.linear('tokens.rest_decoder');
    const take = n => desk.take(n), longest = up8(most), inside = Math.max(4*width, 3*width, this.encoder.k);
    this.h = take(rows*E8); this.x = take(rows*E8); this.wide = take(rows*up8(inside));
    this.c = take(rows*E8); this.told = take(rows*up8(this.scalars[0].k));
    this.adapted = take(rows*up8(6*width));
    this.keys = desk.room(this.d, most); this.values = desk.room(most, this.d);
    this.scores = take(longest*longest); this.heard = take(longest*up8(this.d));
  }
  static size(spec, most) {                 // floats that it needs
    const {width} = spec.config, rows = TOGETHER*most, weights = 1.2*spec.n + 1e5;
    const inside = Math.max(4*width, spec.tensors['tokens.encoder.weight'][2]);
    return weights + rows*(3*up8(width) + up8(inside) + up8(6*width) + 1024) + 4*up8(most)**2 + 2e5;
  }
  tensor(name) {
    const [from, ...shape] = this.spec.tensors[name];
    return this.weights.subarray(from, from + shape.reduce((a, b) => a*b, 1));
  }
  linear(name) {
    const [, n, k] = this.spec.tensors[`${name}.weight`];
    const w = this.tensor(`${name}.weight`), bias = this.tensor(`${name}.bias`);
    return this.desk.fill(this.desk.room(k, n), (p, q) => w[q*k + p], q => bias[q]);
  }
  block(name) {
    const part = word => this.linear(`${name}.${word}`);
    return {adapt: part('adapt'), qkv: part('qkv'), out: part('out'), up: part('mlp.0'), down: part('mlp.2')};
  }
  silu(at, m, n) {                          // of m rows of n numbers
    const {f} = this.desk, stride = up8(n);
    for (let i = 0; i < m; i++) for (let k = at + i*stride, end = k + n; k < end; k++) f[k] = silu(f[k]);
  }
  gelu(at, m, n) {
    const {f} = this.desk, stride = up8(n);
    for (let i = 0; i < m; i++) for (let k = at + i*stride, end = k + n; k < end; k++) f[k] = gelu(f[k]);
  }
  twoLayers([first, second], at, m, to) {   // Linear, SiLU, Linear
    const middle = this.wide;
    this.desk.product(at, first, middle, m, {lda: up8(first.k)});
    this.silu(middle, m, first.n);
    this.desk.product(middle, second, to, m, {lda: first.n8});
  }
  condition(numbers, hidden, which) {       // of each network: numbers, hidden start?, which task
    const {f} = this.desk, m = numbers.length, gain = this.tensor('hidden'), k8 = up8(this.scalars[0].k);
    numbers.forEach((v, i) => f.set(v, this.told + i*k8));
    this.twoLayers(this.scalars, this.told, m, this.c);
    this.silu(this.c, m, this.E);
    for (let i = 0; i < m; i++) for (let e = 0; e < this.E && hidden[i]; e++) {
      f[this.c + i*this.E8 + e] += gain[e];
    }
    if (!this.family) return;
    f.set(which, this.told);                // the same task for all
    this.twoLayers(this.family, this.told, 1, this.x);
    for (let i = 0; i < m; i++) for (let e = 0; e < this.E; e++) f[this.c + i*this.E8 + e] += f[this.x + e];
  }
  normed(m, L, scale, shift) {              // h -> x; scale(network, e), or places in `adapted`
    const {f} = this.desk, {E, E8, h, x} = this, wide = up8(6*E);
    for (let i = 0; i < m; i++) {
      const at = h + i*E8, to = x + i*E8, own = this.adapted + (i/L | 0)*wide;
      let mean = 0, square = 0;
      for (let e = 0; e < E; e++) mean += f[at + e];
      mean /= E;
      for (let e = 0; e < E; e++) square += (f[at + e] - mean)**2;
      const by = 1/Math.sqrt(square/E + 1e-5);
      for (let e = 0; e < E; e++) {
        f[to + e] = (f[at + e] - mean)*by*(1 + f[own + scale + e]) + f[own + shift + e];
      }
    }
  }
  added(m, L, gate) {                       // h += gate*x
    const {f} = this.desk, {E, E8, h, x} = this, wide = up8(6*E);
    for (let i = 0; i < m; i++) {
      const own = this.adapted + (i/L | 0)*wide + gate;
      for (let e = 0; e < E; e++) f[h + i*E8 + e] += f[own + e]*f[x + i*E8 + e];
    }
  }
  attend(net, L, stride) {                  // one network's tokens, qkv in `wide` -> x
    const {desk, d, E, E8, wide, keys, values, scores, heard} = this, {f} = desk, L8 = up8(L);
    const first = wide + net*L*stride, own = {...keys, n: L, n8: L8}, said = {...values, k: L};
    for (let head = 0; head < this.heads; head++) {
      const q = first + head*d, k = q + E, v = k + E;
      desk.pack(own, k, 1, stride);
      desk.pack(said, v, stride, 1);
      desk.product(q, own, scores, L, {lda: stride});
      this.soften(scores, L, L8, 1/Math.sqrt(d));
      desk.product(scores, said, heard, L, {lda: L8});
      for (let i = 0; i < L; i++) {
        const from = heard + i*said.n8;
        f.copyWithin(this.x + (net*L + i)*E8 + head*d, from, from + d);
      }
    }
  }
  soften(at, m, stride, scale, n = m, before = null) {      // softmax of m rows of n numbers
    const {f} = this.desk;
    for (let i = 0; i < m; i++) {
      const row = at + i*stride;
      let most = -Infinity, sum = 0;
      for (let j = row; j < row + n; j++) {
        f[j] = f[j]*scale + (before ? before[j - row] : 0);
        if (f[j] > most) most = f[j];
      }
      for (let j = row; j < row + n; j++) sum += f[j] = Math.exp(f[j] - most);
      for (let j = row; j < row + n; j++) f[j] /= sum;
    }
  }
  think(B, L) {                             // all blocks on B networks of L tokens each, in h
    const {desk, E, E8} = this, m = B*L, three = up8(3*E);
    for (const {adapt, qkv, out, up, down} of this.blocks) {
      desk.product(this.c, adapt, this.adapted, B, {lda: E8});
      this.normed(m, L, E, 0);
      desk.product(this.x, qkv, this.wide, m, {lda: E8});
      for (let net = 0; net < B; net++) this.attend(net, L, three);
      desk.product(this.x, out, this.wide, m, {lda: E8});
      desk.f.copyWithin(this.x, this.wide, this.wide + m*E8);
      this.added(m, L, 2*E);
      this.normed(m, L, 4*E, 3*E);
      desk.product(this.x, up, this.wide, m, {lda: E8});
      this.gelu(this.wide, m, 4*E);
      desk.product(this.wide, down, this.x, m, {lda: up.n8});
      this.added(m, L, 5*E);
    }
    this.last(m);
  }
  last(m) {                                 // the last LayerNorm: h -> x
    const {f} = this.desk, gain = this.tensor('norm.weight'), bias = this.tensor('norm.bias'), {E} = this;
    for (let e = 0; e < E; e++) { f[this.adapted + e] = gain[e] - 1; f[this.adapted + E + e] = bias[e]; }
    this.normed(m, m, 0, E);
  }
  encode(net, shape, rows, L) {             // rows of a network, side by side, as tokens in h
    const {desk, wide, encoder, restEncoder, E8} = this, {f} = desk;
    const {H, own, rest} = shape, k8 = up8(encoder.k);
    rows.forEach((row, part) => {
      for (let j = 0; j < H; j++) neuronOf(row, shape, j, (c, i) => f[wide + j*k8 + part*own + c] = row[i]);
    });
    const at = this.h + net*L*E8;
    desk.product(wide, encoder, at, H, {lda: k8});
    rows.forEach((row, part) => f.set(row.subarray(row.length - rest), wide + part*rest));
    desk.product(wide, restEncoder, at + H*E8, 1);
  }
  decode(net, shape, row, L) {              // adds what the tokens in x say to a row
    const {desk, wide, decoder, restDecoder, E8} = this, {f} = desk;
    const {H, rest} = shape, at = this.x + net*L*E8;
    desk.product(at, decoder, wide, H, {lda: E8});
    for (let j = 0; j < H; j++) neuronOf(row, shape, j, (c, i) => row[i] += f[wide + j*decoder.n8 + c]);
    desk.product(at + H*E8, restDecoder, wide, 1, {lda: E8});
    for (let c = 0; c < rest; c++) row[row.length - rest + c] += f[wide + c];
  }
}

// Where a network's weights stand: inputs, hidden neurons, outputs; a neuron's own numbers, and the rest
const shapeOf = (n, H, C) => ({n, H, C, own: n + 1 + C, rest: C, D: n*H + H + H*C + C});

const neuronOf = (row, {n, H, C}, j, each) => {     // each(number of the entry, its place in the row)
  for (let i = 0; i < n; i++) each(i, j*n + i);
  each(n, n*H + j);
  for (let q = 0; q < C; q++) each(n + 1 + q, n*H + H + q*H + j);
};

const scalarFeatures = (numbers, frequencies) => {  // sines, cosines and the number itself, for each
  const out = [];
  for (const x of numbers) {
    const z = frequencies.map(f => Math.fround(x*f));
    out.push(...z.map(Math.sin), ...z.map(Math.cos), x);
  }
  return out;
};

// One round of guesses. q: noised and start rows, prompts, metrics and hidden?, one for each network
const guessRows = (model, shape, j, q, which) => {
  const {spec} = model, {start_gain: gain, step_scale, metric_scale} = spec.config;
  const B = q.length, L = shape.H + 1;
  const round = Math.fround, scaled = v => round(v/round(metric_scale));
  const numbers = q.map(({prompt, metric, hidden}) => {
    const has = hidden ? 0 : metric;
    const told = [round(j/step_scale), scaled(round(prompt - has)), scaled(prompt), scaled(has)];
    return scalarFeatures(told, spec.frequencies);
  });
  const nothing = new Float32Array(shape.D), starts = q.map(({start, hidden}) => hidden ? nothing : start);
  model.condition(numbers, q.map(v => v.hidden), which);
  q.forEach(({noised}, i) => model.encode(i, shape, [noised, starts[i].map(w => w*gain)], L));
  model.think(B, L);
  return starts.map((start, i) => {
    const row = Float32Array.from(start);
    model.decode(i, shape, row, L);
    return row;
  });
};

const mixed = (given, free, guidance) => free.map((v, i) => v + guidance*(given[i] - v));

const halfLog = share => .5*(Math.log(share) - Math.log(1 - share));     // log(signal / noise)

// From step to step: x and the guess x0 at a share a of signal, on to b; fresh() gives noise; past: [x0, a]
const SOLVERS = {
  ddpm: (x, x0, a, b, eta, fresh) => {
    const beta = 1 - a/b, keep = Math.sqrt(b)*beta/(1 - a), stay = Math.sqrt(a/b)*(1 - b)/(1 - a);
    const out = x.map((v, i) => keep*x0[i] + stay*v);
    return b === 1 ? out : plus(out, eta*Math.sqrt(beta), fresh);
  },
  ddim: (x, x0, a, b, eta, fresh) => {
    const sigma = eta*Math.sqrt((1 - b)/(1 - a)*(1 - a/b)), left = Math.sqrt(Math.max(0, 1 - b - sigma**2));
    const noise = i => (x[i] - Math.sqrt(a)*x0[i])/Math.sqrt(1 - a);
    return plus(x0.map((v, i) => Math.sqrt(b)*v + left*noise(i)), sigma, fresh);
  },
  dpm: (x, x0, a, b, eta, fresh, past) => {
    if (b === 1) return x0;
    const h = halfLog(b) - halfLog(a), kept = Math.exp(-eta*h);
    const bend = past ? .5*h/(halfLog(a) - halfLog(past[1])) : 0;
    const stay = Math.sqrt((1 - b)/(1 - a))*kept, to = Math.sqrt(b)*Math.expm1(-h - eta*h);
    const out = x.map((v, i) => stay*v - to*(x0[i] + (past ? bend*(x0[i] - past[0][i]) : 0)));
    return plus(out, Math.sqrt((1 - b)*(1 - kept**2)), fresh);
  },
};
const plus = (out, size, fresh) => {
  if (!size) return out;
  const noise = fresh();
  return out.map((v, i) => v + size*noise[i]);
};

// What the model is told: what is wanted, or something else if it was calibrated (lesson gpt.calibrate)
const calibrated = (known, prompt, metric) => {     // metric: null from noise alone
  const curve = metric === null ? known.calibration_from_noise : known.calibration;
  if (!curve) return prompt;
  const way = (metric === null ? curve.worst : metric) - known.best, share = (prompt - known.best)/way;
  if (!(share >= 0 && share <= 1)) return prompt;
  return Math.fround(known.best + way*readCurve(share, curve.given, curve.told));
};

// Networks, step by step: yields after each step, returns rows. ask: shape, known, prompt, guidance, seed,
// first (number of the first), n, start and metric (of all, or null), steps, which
function* sampleRows(model, ask) {
  const {spec} = model, {shape, known, guidance, seed, first, n, steps, which} = ask, {scale} = spec;
  const {solver, eta} = spec.sampler, metric = guidance ? ask.metric : 0;
  const start = ask.start ? ask.start.map(w => w*scale) : null;
  const given = {start, metric, prompt: start ? calibrated(known, ask.prompt, metric) : 0, hidden: false};
  const free = {start: null, metric: 0, prompt: calibrated(known, ask.prompt, null), hidden: true};
  const ways = guidance === 1 ? [given] : guidance === 0 ? [free] : [given, free];
  const noise = (k, draw) => normalNoise(new Float32Array(shape.D), seed, first + k, draw);
  let rows = Array.from({length: n}, (_, k) => noise(k, 0)), past = rows.map(() => null);
  const shares = [...steps.map(j => spec.shares[j]), 1];
  for (let i = 0; i < steps.length; i++) {
    const asked = ways.flatMap(way => rows.map(noised => ({...way, noised})));
    const guesses = guessRows(model, shape, steps[i], asked, which), [a, b] = shares.slice(i);
    rows = rows.map((x, k) => {
      const x0 = ways.length === 1 ? guesses[k] : mixed(guesses[k], guesses[n + k], guidance);
      const next = SOLVERS[solver](x, x0, a, b, eta, () => noise(k, i + 1), past[k]);
      past[k] = [x0, a];
      return next;
    });
    yield i + 1;
  }
  return rows.map(row => row.map(w => w/scale));
}
