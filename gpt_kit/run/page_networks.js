// Small networks with one hidden layer: where they begin, what they say, how good they are.
'use strict';

const ACTIVATIONS = {ReLU: x => x > 0 ? x : 0, Tanh: Math.tanh};

// An untrained network, as unseen_starts(task, .., seed=0)[number] or, for points, start_rows(task, [seed])
const startRow = ({n, H, C, D}, seed) => {
  const twister = new Twister(seed), row = new Float32Array(D);
  const reach = [[n*H, n], [H, n], [H*C, H], [C, H]];
  let at = 0;
  for (const [size, inputs] of reach) for (const end = at + size; at < end; at++) {
    row[at] = Math.fround(twister.uniform()*2 - 1)/Math.sqrt(inputs);
  }
  return row;
};

// The same function with ReLU neurons whose incoming and outgoing weights are equally long
const balancedRow = (row, shape) => {
  const out = Float64Array.from(row), {n, H} = shape;
  for (let round = 0; round < 4; round++) for (let j = 0; j < H; j++) {
    let into = 0, from = 0;
    neuronOf(out, shape, j, (c, i) => c <= n ? into += out[i]**2 : from += out[i]**2);
    const by = Math.sqrt(Math.sqrt(from/into));
    if (!(by > 0 && by < Infinity)) continue;
    neuronOf(out, shape, j, (c, i) => out[i] *= c <= n ? by : 1/by);
  }
  return Float32Array.from(out);
};

// Tells all networks of a task what it is about: inputs, labels, metrics
class Bench {
  constructor(desk, shape, activation, most, inputs) {      // at most so many hidden neurons and inputs
    Object.assign(this, {desk, activation: ACTIVATIONS[activation]});
    this.first = desk.room(shape.n, most); this.second = desk.room(most, shape.C);
    this.hidden = desk.take(inputs*up8(most)); this.said = desk.take(inputs*up8(shape.C));
  }
  static size(shape, most, inputs) {
    return 1000 + up8(most)*(shape.n + 8 + inputs) + most*up8(shape.C) + inputs*up8(shape.C);
  }
  put(x, n) {                               // inputs (N, n) -> a place on the desk, rows of n
    const at = this.desk.take(x.length);
    this.desk.f.set(x, at);
    return {at, N: x.length/n};
  }
  logits({n, H, C}, row, {at, N}) {         // -> (N, C)
    const {desk, activation} = this, {f} = desk, C8 = up8(C), H8 = up8(H);
    const first = {...this.first, n: H, n8: H8}, second = {...this.second, k: H};
    const b = n*H, v = b + H, last = v + H*C;
    desk.fill(first, (p, q) => row[q*n + p], q => row[b + q]);
    desk.fill(second, (p, q) => row[v + q*H + p], q => row[last + q]);
    desk.product(at, first, this.hidden, N);
    for (let i = this.hidden, end = i + N*H8; i < end; i++) f[i] = activation(f[i]);
    desk.product(this.hidden, second, this.said, N, {lda: H8});
    const out = new Float32Array(N*C);
    for (let i = 0; i < N; i++) for (let q = 0; q < C; q++) out[i*C + q] = f[this.said + i*C8 + q];
    return out;
  }
}

// Probabilities (N, classes) of outputs; one output means yes or no
const probabilities = (logits, C) => {
  const yesOrNo = (_, i) => sigmoid((i%2 ? 1 : -1)*logits[i >> 1]);
  if (C === 1) return Float32Array.from({length: 2*logits.length}, yesOrNo);
  const out = new Float32Array(logits.length);
  for (let i = 0; i < logits.length; i += C) {
    let most = -Infinity, sum = 0;
    for (let q = i; q < i + C; q++) most = Math.max(most, logits[q]);
    for (let q = i; q < i + C; q++) sum += out[q] = Math.exp(logits[q] - most);
    for (let q = i; q < i + C; q++) out[q] /= sum;
  }
  return out;
};

const greatest = (values, C, i) => {        // class of input i
  let best = 0;
  for (let q = 1; q < C; q++) if (values[i*C + q] > values[i*C + best]) best = q;
  return best;
};

// Loss in nats and error in percent of outputs (N, C) for labels (N,)
const judged = (logits, C, labels) => {
  let loss = 0, wrong = 0;
  const N = labels.length;
  for (let i = 0; i < N; i++) {
    const y = labels[i];
    if (C === 1) {
      const z = logits[i];
      loss += softplus(z) - z*y;
      wrong += !(y ? z > 0 : z < 0);
      continue;
    }
    const right = logits[i*C + y];
    let sum = 0, beaten = 0;
    for (let q = 0; q < C; q++) {
      sum += Math.exp(logits[i*C + q] - right);
      beaten += logits[i*C + q] < right;
    }
    loss += Math.log(sum);
    wrong += beaten !== C - 1;
  }
  return {loss: loss/N, error: 100*wrong/N};
};

// A plane through three networks, axes at right angles, as lesson play.landscape lays it
const planeThrough = (a, b, c) => {
  const minus = (p, q) => Float64Array.from(p, (v, i) => v - q[i]);
  const dot = (p, q) => p.reduce((sum, v, i) => sum + v*q[i], 0);
  const unit = p => { const size = Math.sqrt(dot(p, p)) || 1; return p.map(v => v/size); };
  const u = unit(minus(b, a)), to = minus(c, a), along = dot(to, u);
  const v = unit(to.map((w, i) => w - along*u[i]));
  return {
    place: row => { const way = minus(row, a); return [dot(way, u), dot(way, v)]; },
    row: (x, y) => Float32Array.from(a, (w, i) => w + x*u[i] + y*v[i]),
  };
};
